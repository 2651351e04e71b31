"""What the owner of a device lets training take, and when."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_profiles.strict import load_strict, parse_strict

_WINDOW = r"^([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])$"

Window = Annotated[str, Meta(pattern=_WINDOW, description='a time window such as "22:00-06:00"')]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The owner's limits. Every key may be left out; `{}` is the default policy.

    Attributes:
        max_cpu_share_fraction: share of all cores that the agents of this device take together.
        min_cpu_share_fraction: share of all cores that the agents may take together, at low priority,
            however busy the board is. 0: nothing that others use.
        max_memory_bytes: memory that one agent's training may use, None: what the board can spare.
        max_temperature_celsius: training slows down as the board gets within 5 degrees of it and
            pauses at it. None: the temperature at which the board throttles itself, if that is known.
        min_battery_fraction: below this charge training pauses, unless external power is connected.
        only_when_charging: train with external power only. A board without a battery and without
            charger information runs on external power.
        pause_when_throttled: pause while the board reports thermal or voltage throttling.
        hours: local times such as "22:00-06:00" in which training may run; none given: always.
    """

    max_cpu_share_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    min_cpu_share_fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    max_memory_bytes: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    max_temperature_celsius: Annotated[float, Meta(ge=20.0, le=150.0)] | None = None
    min_battery_fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.3
    only_when_charging: bool = False
    pause_when_throttled: bool = True
    hours: Annotated[tuple[Window, ...], Meta(max_length=48)] = ()

    def __post_init__(self) -> None:
        """Refuse hours that name no time window, and a minimum above the maximum."""
        if self.min_cpu_share_fraction > self.max_cpu_share_fraction:
            raise ValueError(
                f"min_cpu_share_fraction {self.min_cpu_share_fraction:g} is above "
                f"max_cpu_share_fraction {self.max_cpu_share_fraction:g}"
            )
        for window in self.hours:
            parse_window(window)


def parse_window(window: str) -> tuple[float, float]:
    """Parse "22:00-06:30" into hours of the day, (22.0, 6.5).

    Raises:
        ValueError: it is not HH:MM-HH:MM, or empty.
    """
    match = re.fullmatch(_WINDOW, window)
    if match is None:
        raise ValueError(f'hours has "{window}", which is not HH:MM-HH:MM such as "22:00-06:00"')
    start, end = (int(match[i]) + int(match[i + 1]) / 60 for i in (1, 3))
    if start == end or end > 24:
        raise ValueError(f'hours has "{window}", which is no time window; a whole day is "00:00-24:00"')
    return start, end


def is_within(hour_of_day: float, window: str) -> bool:
    """Whether a time, in hours 0..24, lies in a window; the start belongs to it, the end does not."""
    start, end = parse_window(window)
    if start < end:
        return start <= hour_of_day < end
    return hour_of_day >= start or hour_of_day < end


def load_policy(path: str | Path) -> Policy:
    """Load a policy file.

    Raises:
        UserError: it cannot be read or does not fit.
    """
    return load_strict(path, Policy)


def parse_policy(text: str, source: str) -> Policy:
    """Parse a policy; `source` is what to call it in messages.

    Raises:
        UserError: it does not fit.
    """
    return parse_strict(text, source, Policy)


def policy_digest(policy: Policy) -> str:
    """SHA-256 of what the policy means, 64 hex digits: comments and left-out defaults don't count."""
    return hashlib.sha256(msgspec.json.encode(policy, order="deterministic")).hexdigest()
