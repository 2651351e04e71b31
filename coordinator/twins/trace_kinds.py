"""The kinds of traces: a quantity over time, as a scenario writes it; `traces` makes them functions."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, max_length=500)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e8)]
Period = Annotated[float, Meta(ge=0.1, le=1e6)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Value = bool | Number
Point = tuple[Seconds, Value]


class Steps(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="steps"):
    """The value of the last point that has passed; before the first point, nothing is known.

    Attributes:
        points: [seconds, value], by rising seconds.
    """

    points: Annotated[tuple[Point, ...], Meta(min_length=1, max_length=100_000)]

    def __post_init__(self) -> None:
        """Refuse points that are not in order."""
        _check_order(self.points)


class Ramp(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ramp"):
    """Straight lines between points; the first and the last value hold before and after them.

    Attributes:
        points: [seconds, value], by rising seconds.
    """

    points: Annotated[tuple[Point, ...], Meta(min_length=2, max_length=100_000)]

    def __post_init__(self) -> None:
        """Refuse points that are not in order."""
        _check_order(self.points)


class Walk(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="walk"):
    """A random walk between two walls, another one on each device; the scenario's seed decides.

    Attributes:
        start: first value.
        step: standard deviation of one step.
        every_s: seconds between steps.
        low, high: the walls.
    """

    start: Number
    step: Annotated[float, Meta(ge=0.0, le=1e15)]
    low: Number
    high: Number
    every_s: Period = 10.0

    def __post_init__(self) -> None:
        """Refuse walls the walk does not start between."""
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is not between low {self.low:g} and high {self.high:g}")


class Csv(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="csv"):
    """A column of a file with a header; a value holds until the next row, an empty cell is not known.

    Attributes:
        file: path. column: of the values. time_column: of the seconds, rising.
        repeat_s: begin again after so many seconds; None holds the last value.
    """

    file: Text
    column: Text
    time_column: Text = "t_s"
    repeat_s: Annotated[float, Meta(ge=0.1, le=1e8)] | None = None


class Vm(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="vm"):
    """CPU use recorded on virtual machines, one recording a device; it begins again where it ends.

    Attributes:
        file: npz with `util`, number [n, T, 2]: percent of the CPU and of the memory. Devices get the
            recordings in an order drawn from the seed, one each; more devices than n begin again.
        every_s: virtual seconds between two samples; straight lines lie between them.
        rank: a recording's ranks, mapped evenly to low..high, in place of its values (equal ones: mean rank).
        low, high: limits of the value.
    """

    file: Text
    every_s: Period = 300.0
    rank: bool = False
    low: Fraction = 0.0
    high: Fraction = 1.0

    def __post_init__(self) -> None:
        """Refuse limits that are the wrong way round."""
        _check_limits(self.low, self.high)


class Availability(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="availability"):
    """Load of others that resembles recorded one, for those who have no recordings.

    The process and what it was measured on: `coordinator.twins.recordings.synthetic_ranks`.

    Attributes:
        every_s: virtual seconds between two samples; straight lines lie between them.
        low, high: limits of the value; it spreads evenly between them.
        redraw: drawn anew in place of that process, without memory: each `step` (an order's seconds over
            its mini-batches), each `round` (of `round_s`), or `never` (a constant for each device).
    """

    every_s: Period = 300.0
    low: Fraction = 0.0
    high: Fraction = 0.9
    redraw: Literal["step", "round", "never"] | Period | None = None

    def __post_init__(self) -> None:
        """Refuse limits that are the wrong way round."""
        _check_limits(self.low, self.high)


Trace = bool | Number | Steps | Ramp | Walk | Csv | Vm | Availability
"""A plain value is constant."""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a device's sensors read over time; what is left out the board does not have.

    Attributes:
        start_hour: local time at the start in hours 0..24; None: the board has no clock.
        charging, throttled: true or false; as numbers, at least 0.5 is true.
        Others: see `firmware_profiles.resources.Snapshot`.
    """

    cpu_others_fraction: Trace | None = None
    memory_available_bytes: Trace | None = None
    battery_fraction: Trace | None = None
    charging: Trace | None = None
    temperature_celsius: Trace | None = None
    throttled: Trace | None = None
    clock_hz: Trace | None = None
    start_hour: Annotated[float, Meta(ge=0.0, lt=24.0)] | None = None


def _check_order(points: tuple[Point, ...]) -> None:
    times_s = [time_s for time_s, _ in points]
    if any(after <= before for before, after in pairwise(times_s)):
        raise ValueError("points are not in order: seconds must rise from one to the next")


def _check_limits(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low {low:g} is above high {high:g}")
