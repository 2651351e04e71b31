"""What goes wrong in a scenario: links that lose, partitions, churn, crashes, slow devices.

::

    faults:
      links:      [{loss_fraction: 0.3}, {from: "*", to: coordinator, latency_ms: 50}]
      partitions: [{from_s: 60, until_s: 90, devices: [pump]}]
      churn:      {mean_up_s: 300, mean_down_s: 30}
      crashes:    [{at_s: 40, back_s: 45, device: pump-2}]
      slow:       [{from_s: 10, until_s: 50, devices: [pump-1], factor: 2}]

A name is that of a device, of a group (all its devices), or `*`: every device. The coordinator is no device
and is meant only where it is named, the broker only by `crashes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from coordinator.twins.trace_kinds import Seconds, Text
from device_agent.wire.topics import COORDINATOR
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest

EVERY_DEVICE = "*"
BROKER = "broker"

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Names = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=10_000)]
Milliseconds = Annotated[float, Meta(ge=0.0, le=60_000.0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Members = Mapping[str, tuple[str, ...]]


class PairFault(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to messages from one to another, besides what their own links to the broker do.

    Attributes:
        from_, to: whose messages to whom.
        loss_fraction: share that is lost.
        coherence_s: whether the link of two works is drawn for spans of so many seconds, both ways alike, as
            where a radio channel fades; None: for each message by itself. QoS 0 alone.
        latency_ms: later by so much. jitter_ms: by up to so much more, evenly drawn.
        schedule: CSV file of loss and latency over time, in place of both.
    """

    from_: Name = msgspec.field(default=EVERY_DEVICE, name="from")
    to: Name = EVERY_DEVICE
    loss_fraction: Fraction = 0.0
    coherence_s: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    latency_ms: Milliseconds = 0.0
    jitter_ms: Milliseconds = 0.0
    schedule: Text | None = None


class _Span(msgspec.Struct, frozen=True, kw_only=True):
    from_s: Seconds
    until_s: Seconds
    devices: Names

    def __post_init__(self) -> None:
        """Refuse a span that ends before it begins."""
        if self.until_s <= self.from_s:
            raise ValueError(f"until_s {self.until_s:g} is not after from_s {self.from_s:g}")


class Partition(_Span, frozen=True, kw_only=True):
    """Devices that are cut off from the broker, and so from all others.

    Attributes:
        from_s, until_s: when. devices: who.
    """


class Slow(_Span, frozen=True, kw_only=True):
    """Devices that compute more slowly for a time.

    Attributes:
        from_s, until_s: when. devices: who.
        factor: computing takes so many times as long; where spans overlap, their factors multiply.
    """

    factor: Annotated[float, Meta(ge=1.0, le=1000.0)]


class Churn(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that leave and come back, each at its own times: exponential, drawn by the seed.

    Attributes:
        mean_up_s: that a device stays. mean_down_s: that it is away.
        devices: who.
    """

    mean_up_s: Annotated[float, Meta(ge=0.1, le=1e8)]
    mean_down_s: Annotated[float, Meta(ge=0.1, le=1e8)]
    devices: Names = (EVERY_DEVICE,)


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is killed (SIGKILL) and started again: its disk survives, its memory does not.

    Attributes:
        at_s, back_s: killed at, started again at.
        device: a device, coordinator or broker.
    """

    at_s: Seconds
    back_s: Seconds
    device: Name

    def __post_init__(self) -> None:
        """Refuse a process that is back before it is gone."""
        if self.back_s <= self.at_s:
            raise ValueError(f"back_s {self.back_s:g} is not after at_s {self.at_s:g}")


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong.

    Attributes:
        links: the first one that fits a pair is the pair's. partitions, churn, crashes, slow: see there.
    """

    links: Annotated[tuple[PairFault, ...], Meta(max_length=10_000)] = ()
    partitions: Annotated[tuple[Partition, ...], Meta(max_length=10_000)] = ()
    churn: Churn | None = None
    crashes: Annotated[tuple[Crash, ...], Meta(max_length=10_000)] = ()
    slow: Annotated[tuple[Slow, ...], Meta(max_length=10_000)] = ()

    @property
    def last_s(self) -> float:
        """When the last fault that has an end is over; 0 if there is none."""
        ends_s = [span.until_s for span in (*self.partitions, *self.slow)]
        return max([*ends_s, *(crash.back_s for crash in self.crashes)], default=0.0)


def members_of(devices: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What each name that faults may use stands for.

    Args:
        devices: ids, `<group>-<number>`.
    """
    members: dict[str, list[str]] = {COORDINATOR: [COORDINATOR], EVERY_DEVICE: []}
    for device in devices:
        for name in (EVERY_DEVICE, device.rpartition("-")[0], device):
            members.setdefault(name, []).append(device)
    return {name: tuple(them) for name, them in members.items()}


def check_names(faults: Faults, members: Members) -> None:
    """Refuse names of nobody, and several where one is meant.

    Raises:
        UserError: says which, and the nearest that there is.
    """
    for number, link in enumerate(faults.links):
        for key, name in (("from", link.from_), ("to", link.to)):
            _check(name, f"links.{number}.{key}", members)
    lists = {f"partitions.{number}": one.devices for number, one in enumerate(faults.partitions)}
    lists |= {f"slow.{number}": one.devices for number, one in enumerate(faults.slow)}
    lists |= {} if faults.churn is None else {"churn": faults.churn.devices}
    for place, names in lists.items():
        for name in names:
            _check(name, f"{place}.devices", members, also_coordinator=False)
    mortals = {**members, BROKER: (BROKER,)}
    for number, crash in enumerate(faults.crashes):
        place = f"crashes.{number}.device"
        _check(crash.device, place, mortals)
        if mortals[crash.device] != (crash.device,):
            raise UserError(
                f"faults.{place} {crash.device!r} is not one device: name one, or coordinator, or broker"
            )


def _check(name: str, place: str, members: Members, *, also_coordinator: bool = True) -> None:
    valid = [known for known in members if also_coordinator or known != COORDINATOR]
    if name not in valid:
        raise UserError(f"faults.{place} {name!r} is no device and no group here; {nearest(name, valid)}")


def devices_named(names: Iterable[str], members: Members) -> tuple[str, ...]:
    """The devices that names stand for, each once, in order."""
    return tuple(dict.fromkeys(device for name in names for device in members[name]))
