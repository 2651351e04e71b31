"""What training may take at this moment: the board, its state and its owner's policy, weighed.

A sensor that is absent (None) never stops training, unless the policy names what only that sensor
could tell: the hours need a clock, and `only_when_charging` on a battery needs to know the charger.
Every decision is made from one snapshot alone, without memory of the last one. What keeps it from
flickering is that the share falls smoothly: with others' use (a mean over the sensors' window) and
over the last RAMP_CELSIUS below the temperature limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from firmware_profiles.policy import Policy, is_within
from firmware_profiles.profile import FirmwareProfile
from firmware_profiles.resources import Budget, Pause, Snapshot, Task

FLOOR_CPU_SHARE_FRACTION = 0.05
"""Below this share of all cores, for all agents together, a step would take longer than it helps."""

RAMP_CELSIUS = 5.0
"""The share falls linearly to nothing over this many degrees below the limit."""

MIB = 1024 * 1024

Check = Callable[[FirmwareProfile, Snapshot, Policy], "str | None"]


def grant(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy, task: Task) -> Budget | Pause:
    """Say what the next mini-batch may take, or why training has to pause.

    Args:
        profile: what the board is.
        snapshot: what it has now.
        policy: what its owner allows.
        task: what the budget has to stretch over.

    Returns:
        A budget within the policy, never more with less to spare; or a pause with the numbers.
    """
    for check in _CHECKS:
        reason = check(profile, snapshot, policy)
        if reason is not None:
            return Pause(reason)
    return Budget(
        cpu_share_fraction=_joint_share(profile, snapshot, policy) / snapshot.cohort_size,
        memory_bytes=_memory_bytes(profile, snapshot, policy),
        time_left_s=task.time_left_s,
        num_batches_left=task.num_batches_left,
    )


def _hours(_profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    if not policy.hours:
        return None
    windows = ", ".join(policy.hours)
    if snapshot.hour_of_day is None:
        return f"the time of day is unknown, and training is allowed only in hours {windows}"
    if any(is_within(snapshot.hour_of_day, window) for window in policy.hours):
        return None
    minutes = int(snapshot.hour_of_day * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d} is outside hours {windows}"


def _charger(_profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    if not policy.only_when_charging or snapshot.charging:
        return None
    if snapshot.charging is None:
        # No battery and no charger information: a board on mains.
        unknown = "the charger's state is unknown, and only_when_charging is set"
        return None if snapshot.battery_fraction is None else unknown
    return "external power is not connected, and only_when_charging is set"


def _battery(_profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    charge = snapshot.battery_fraction
    if charge is None or snapshot.charging or charge >= policy.min_battery_fraction:
        return None
    return f"battery {_percent(charge)} is below min_battery {_percent(policy.min_battery_fraction)}"


def _throttling(_profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    if not policy.pause_when_throttled or not snapshot.throttled:
        return None
    clock = "" if snapshot.clock_hz is None else f", clock {snapshot.clock_hz / 1e6:.0f} MHz"
    heat = "" if snapshot.temperature_celsius is None else f" at {snapshot.temperature_celsius:.1f} °C"
    return f"the board is throttled (heat or voltage){heat}{clock}"


def _temperature(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    limit, now = _limit_celsius(profile, policy), snapshot.temperature_celsius
    if limit is None or now is None:
        return None
    if policy.max_cpu_share_fraction * _cool_fraction(profile, snapshot, policy) >= _floor(policy):
        return None
    return f"temperature {now:.1f} °C leaves no room below max_temperature {limit:.1f} °C"


def _cpu(_profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    others = snapshot.cpu_others_fraction
    if others is None or 1.0 - others >= _floor(policy) or policy.min_cpu_share_fraction > 0.0:
        return None
    return f"others use {_percent(others)} of the CPU; training needs {_percent(_floor(policy))}"


def _memory(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> str | None:
    if _memory_bytes(profile, snapshot, policy) > 0:
        return None
    available = snapshot.memory_available_bytes
    has = (
        f"{profile.memory_total_bytes // MIB} MiB"
        if available is None
        else f"{available // MIB} MiB available"
    )
    return f"memory: {has}, and {profile.memory_reserve_bytes // MIB} MiB are reserved for the system"


_CHECKS: tuple[Check, ...] = (_hours, _charger, _battery, _throttling, _temperature, _cpu, _memory)


def _percent(fraction: float) -> str:
    # Rounded down, so that 29.99 % is never said to be below 30 % as "30 %".
    return f"{math.floor(fraction * 1000 + 1e-6) / 10:g} %"


def _floor(policy: Policy) -> float:
    # An owner who allows less than the floor means it.
    return min(FLOOR_CPU_SHARE_FRACTION, policy.max_cpu_share_fraction)


def _limit_celsius(profile: FirmwareProfile, policy: Policy) -> float | None:
    if policy.max_temperature_celsius is not None or profile.throttle_celsius is None:
        return policy.max_temperature_celsius
    return profile.throttle_celsius


def _cool_fraction(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> float:
    """1 while the board is cool, falling to 0 at the temperature limit."""
    limit, now = _limit_celsius(profile, policy), snapshot.temperature_celsius
    if limit is None or now is None:
        return 1.0
    return min(1.0, max(0.0, (limit - now) / RAMP_CELSIUS))


def _joint_share(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> float:
    """Share of all cores that all agents of this machine may take together."""
    others = 0.0 if snapshot.cpu_others_fraction is None else snapshot.cpu_others_fraction
    left = max(1.0 - others, policy.min_cpu_share_fraction)
    return min(policy.max_cpu_share_fraction * _cool_fraction(profile, snapshot, policy), left)


def _memory_bytes(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> int:
    """What is ours already, and our part of what is free above the reserve."""
    available = snapshot.memory_available_bytes
    if available is None:
        spare = (profile.memory_total_bytes - profile.memory_reserve_bytes) // snapshot.cohort_size
    else:
        free = (available - profile.memory_reserve_bytes) // snapshot.cohort_size
        spare = free + (snapshot.memory_own_bytes or 0)
    return spare if policy.max_memory_bytes is None else min(spare, policy.max_memory_bytes)
