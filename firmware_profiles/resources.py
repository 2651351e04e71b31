"""What a device has at this moment, and what training may take of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the sensors read at one moment. What a board does not have is None, never 0.

    Attributes:
        num_cores: CPU cores of the machine.
        cpu_others_fraction: share of all cores that processes other than ours used lately, 0..1.
        cohort_size: number of agents on this machine that share what others leave, 1 or more.
        memory_available_bytes: memory that could be taken without swapping.
        memory_own_bytes: resident memory of this process, which is ours already.
        battery_fraction: charge, 0..1.
        charging: whether external power is connected.
        temperature_celsius: the hottest thermal zone.
        throttled: whether the board reports thermal or voltage throttling now.
        clock_hz: mean clock frequency of the cores.
        hour_of_day: local time in hours, 0..24.
    """

    num_cores: int
    cpu_others_fraction: float | None = None
    cohort_size: int = 1
    memory_available_bytes: int | None = None
    memory_own_bytes: int | None = None
    battery_fraction: float | None = None
    charging: bool | None = None
    temperature_celsius: float | None = None
    throttled: bool | None = None
    clock_hz: float | None = None
    hour_of_day: float | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What remains of the job at hand, which the budget has to stretch over.

    Attributes:
        time_left_s: seconds until the deadline.
        num_batches_left: mini-batches still to be trained, 1 or more.
    """

    time_left_s: float
    num_batches_left: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the next mini-batch may take.

    Attributes:
        cpu_share_fraction: share of *all* cores, 0 < f <= 1.
        memory_bytes: memory that training may use.
        time_left_s: seconds until the deadline.
        num_batches_left: mini-batches still to be trained until then, this one included.
        energy_joules: energy for the rest of the job, or None where it is not limited.
    """

    cpu_share_fraction: float
    memory_bytes: int
    time_left_s: float
    num_batches_left: int
    energy_joules: float | None = None


@dataclass(frozen=True)
class Pause:
    """Training must not go on now.

    Attributes:
        reason: one clause a person understands, such as ``"battery 12 % is below min_battery 20 %"``.
    """

    reason: str
