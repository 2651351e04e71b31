"""Battery and external power. See the kernel's Documentation/ABI/testing/sysfs-class-power."""

from __future__ import annotations

from typing import NamedTuple

from device_agent.sensors.tree import Tree, parse_int

_FOLDERS = "sys/class/power_supply/*"
_STATUS = {"charging": True, "full": True, "not charging": True, "discharging": False}


class Supply(NamedTuple):
    """One entry of /sys/class/power_supply. What it does not say is None.

    Attributes:
        is_battery: a battery of the board itself, not of a mouse.
        charge_fraction: 0..1.
        weight: its capacity (energy or charge when full), to average several; 1 if it does not say.
        status: for a battery, whether it is charged or full (True) or drained (False).
        online: for a charger, whether it delivers.
    """

    is_battery: bool
    charge_fraction: float | None = None
    weight: float = 1.0
    status: bool | None = None
    online: bool | None = None


class Power(NamedTuple):
    """Attributes: battery_fraction, 0..1; charging, whether external power is connected."""

    battery_fraction: float | None = None
    charging: bool | None = None


def read_power(tree: Tree) -> Power:
    """Charge of the board's batteries and whether external power is connected."""
    return combine([supply for folder in tree.paths(_FOLDERS) if (supply := _read_supply(tree, folder))])


def combine(supplies: list[Supply]) -> Power:
    """Join several batteries and chargers.

    A board without a battery runs on something: an idle USB-C port of its own (Jetson's `ucsi`
    supplies) does not mean it is unplugged, so its charging is True or None, never False.
    """
    batteries = [supply for supply in supplies if supply.is_battery]
    charged = [supply for supply in batteries if supply.charge_fraction is not None]
    weight = sum(supply.weight for supply in charged)
    fraction = (
        sum((supply.charge_fraction or 0.0) * supply.weight for supply in charged) / weight
        if weight
        else None
    )
    chargers = [supply.online for supply in supplies if supply.online is not None]
    statuses = [supply.status for supply in batteries if supply.status is not None]
    if any(chargers):
        return Power(fraction, charging=True)
    if not batteries:
        return Power(fraction, charging=None)
    # Any battery that drains is what keeps the board alive.
    if statuses:
        return Power(fraction, charging=all(statuses) and not chargers)
    return Power(fraction, charging=False if chargers else None)


def parse_percent(text: str) -> float | None:
    """A capacity of 0..100 as a fraction; a little above 100 is full."""
    percent = parse_int(text)
    return None if percent is None or not 0 <= percent <= 110 else min(percent, 100) / 100


def parse_positive(text: str) -> int | None:
    """A count above 0."""
    number = parse_int(text)
    return number if number is not None and number > 0 else None


def parse_online(text: str) -> bool | None:
    """0 is offline; 1 and 2 (fixed or programmable voltage) deliver."""
    return {"0": False, "1": True, "2": True}.get(text)


def parse_status(text: str) -> bool | None:
    """Whether a battery's status means external power; Unknown is None."""
    return _STATUS.get(text.lower())


def _read_supply(tree: Tree, folder: str) -> Supply | None:
    kind = tree.text(f"{folder}/type")
    if kind is None or tree.text(f"{folder}/scope") == "Device":
        return None
    if kind != "Battery":
        return Supply(is_battery=False, online=tree.value(f"{folder}/online", parse_online))
    if tree.text(f"{folder}/present") == "0":
        return None
    status = tree.text(f"{folder}/status")  # "Unknown" is legal, so it is not logged as unusable
    full = now = None
    for quantity in ("energy", "charge"):
        full = full or tree.value(f"{folder}/{quantity}_full", parse_positive)
        now = now or tree.value(f"{folder}/{quantity}_now", parse_int)
    fraction = tree.value(f"{folder}/capacity", parse_percent)
    if fraction is None and full and now is not None:
        fraction = min(1.0, max(0.0, now / full))
    return Supply(
        is_battery=True,
        charge_fraction=fraction,
        weight=float(full or 1),
        status=None if status is None else parse_status(status),
    )
