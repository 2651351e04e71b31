"""Resource traces: what a twin's sensors read, as pure functions of virtual time."""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from coordinator.twins.recordings import recorded_load, synthetic_ranks
from coordinator.twins.trace_kinds import Availability, Csv, Point, Ramp, Resources, Steps, Trace, Vm, Walk
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from firmware_profiles.profile import FirmwareProfile
from firmware_profiles.resources import Snapshot

MAX_CSV_ROWS = 1_000_000

SPAN_SAMPLES = 288
"""Samples of a trace without an end that are taken to show its mean: a day at 5 minutes."""

TRACES = tuple(name for name in Resources.__struct_fields__ if name != "start_hour")

Reading = Callable[[float], "float | None"]
"""Value at a time in virtual seconds; None where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a device stands in its fleet and its run, which some traces depend on.

    Attributes:
        device: its number. seed: of the run.
        round_s: seconds of an order. step_s: of them for one mini-batch.
    """

    device: int = 0
    seed: int = 0
    round_s: float = 60.0
    step_s: float = 1.0


def make_sensors(
    resources: Resources, profile: FirmwareProfile, seed: str, place: Place = Place()
) -> Callable[[float], Snapshot]:
    """Return what the sensors of one device read at a time.

    Args:
        resources: the traces.
        profile: the board they belong to.
        seed: of what this device alone draws; the same one gives the same readings.
        place: of the device.

    Raises:
        UserError: a file cannot be used.
    """
    known = {name: trace for name in TRACES if (trace := getattr(resources, name)) is not None}
    readings = {name: make_reading(trace, f"{seed}/{name}", place) for name, trace in known.items()}

    def read(time_s: float) -> Snapshot:
        values = {name: reading(time_s) for name, reading in readings.items()}
        memory = values.get("memory_available_bytes")
        return Snapshot(
            num_cores=profile.num_cores,
            cpu_others_fraction=_fraction(values.get("cpu_others_fraction")),
            memory_available_bytes=None if memory is None else max(0, int(memory)),
            battery_fraction=_fraction(values.get("battery_fraction")),
            charging=_truth(values.get("charging")),
            temperature_celsius=values.get("temperature_celsius"),
            throttled=_truth(values.get("throttled")),
            clock_hz=values.get("clock_hz"),
            hour_of_day=None if resources.start_hour is None else (resources.start_hour + time_s / 3600) % 24,
        )

    return read


def make_reading(trace: Trace | None, seed: str, place: Place = Place()) -> Reading:
    """Return the function of time that a trace describes.

    Raises:
        UserError: its file cannot be used.
    """
    make = _MAKE.get(type(trace))
    if make is not None:
        return make(trace, seed, place)
    constant = None if trace is None else float(trace)  # type: ignore[arg-type]
    return lambda _time_s: constant


def _steps(times_s: Sequence[float], values: Sequence[float | None]) -> Reading:
    def reading(time_s: float) -> float | None:
        index = bisect_right(times_s, time_s) - 1
        return None if index < 0 else values[index]

    return reading


def _ramp(times_s: Sequence[float], values: Sequence[float]) -> Reading:
    def reading(time_s: float) -> float:
        index = bisect_right(times_s, time_s)
        if index == 0 or index == len(times_s):
            return values[min(index, len(times_s) - 1)]
        began_s, ends_s = times_s[index - 1], times_s[index]
        return values[index - 1] + (values[index] - values[index - 1]) * (time_s - began_s) / (
            ends_s - began_s
        )

    return reading


def _walk(walk: Walk, rng: random.Random) -> Reading:
    values = [walk.start]  # grows in order of time, whatever is asked first

    def reading(time_s: float) -> float:
        index = math.floor(time_s / walk.every_s)
        while len(values) <= index:
            values.append(_reflected(values[-1] + rng.gauss(0.0, walk.step), walk.low, walk.high))
        return values[index]

    return reading


def _reflected(value: float, low: float, high: float) -> float:
    if high == low:
        return low
    offset = (value - low) % (2 * (high - low))
    return low + min(offset, 2 * (high - low) - offset)


def _around(values: Sequence[float], every_s: float) -> Reading:
    """Straight lines from sample to sample, from the last one back to the first."""
    ahead = [*values[1:], values[0]]

    def reading(time_s: float) -> float:
        passed, fraction = divmod(time_s / every_s, 1.0)
        index = int(passed) % len(values)
        return values[index] + (ahead[index] - values[index]) * fraction

    return reading


def _availability(trace: Availability, seed: str, place: Place) -> Reading:
    low, high = trace.low, trace.high
    if trace.redraw is None:
        return _around([low + (high - low) * rank for rank in synthetic_ranks(seed).tolist()], trace.every_s)
    if trace.redraw == "never":
        constant = random.Random(seed).uniform(low, high)
        return lambda _time_s: constant
    period_s = {"step": place.step_s, "round": place.round_s}.get(trace.redraw, trace.redraw)  # type: ignore[arg-type]
    latest: tuple[int, float] = (-1, 0.0)  # of the period's number alone, whatever is asked first

    def reading(time_s: float) -> float:
        nonlocal latest
        number = math.floor(time_s / period_s)
        if number != latest[0]:
            latest = number, random.Random(f"{seed}/{number}").uniform(low, high)
        return latest[1]

    return reading


def span_s(trace: Trace | None) -> float:
    """Seconds over which a trace shows what it is like; 0 for a constant."""
    if isinstance(trace, (Steps, Ramp)):
        return trace.points[-1][0]
    if isinstance(trace, Csv):
        return trace.repeat_s or read_columns(trace)[0][-1]
    if isinstance(trace, (Vm, Walk)) or (isinstance(trace, Availability) and trace.redraw is None):
        return SPAN_SAMPLES * trace.every_s
    if isinstance(trace, Availability):
        return SPAN_SAMPLES * (trace.redraw if isinstance(trace.redraw, float) else 1.0)
    return 0.0


def _csv(trace: Csv) -> Reading:
    times_s, values = read_columns(trace)
    steps = _steps(times_s, values)
    period_s = trace.repeat_s
    return steps if period_s is None else lambda time_s: steps(time_s % period_s)


def read_columns(trace: Csv) -> tuple[list[float], list[float | None]]:
    """Seconds and values of a recording; None where a cell is empty.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    times_s: list[float] = []
    values: list[float | None] = []
    try:
        with open(trace.file, encoding="utf-8", newline="") as file:  # noqa: PTH123 - the text is the path
            rows = csv.DictReader(file)
            for column in (trace.time_column, trace.column):
                if column not in (rows.fieldnames or ()):
                    offer = nearest(column, rows.fieldnames or ())
                    raise UserError(f"{trace.file}:1: there is no column {column!r}; {offer}")
            for row in islice(rows, MAX_CSV_ROWS):
                time_s = _number(row[trace.time_column], trace, rows.line_num)
                if time_s is None or (times_s and time_s <= times_s[-1]):
                    raise UserError(
                        f"{trace.file}:{rows.line_num}: {trace.time_column} must rise from row to row"
                    )
                times_s.append(time_s)
                values.append(_number(row[trace.column], trace, rows.line_num))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"trace {trace.file} cannot be read: {error}") from error
    if not times_s:
        raise UserError(f"{trace.file}: has no rows below its header")
    return times_s, values


def _number(text: str | None, trace: Csv, line: int) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{trace.file}:{line}: {text!r} is not a number")
    return number


def _fraction(value: float | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, value))


_MAKE: dict[type, Callable[[Any, str, Place], Reading]] = {
    Steps: lambda trace, _seed, _place: _steps(*_columns(trace.points)),
    Ramp: lambda trace, _seed, _place: _ramp(*_columns(trace.points)),
    Walk: lambda trace, seed, _place: _walk(trace, random.Random(seed)),
    Csv: lambda trace, _seed, _place: _csv(trace),
    Vm: lambda trace, _seed, place: _around(
        recorded_load(trace, place.device, place.seed).tolist(), trace.every_s
    ),
    Availability: _availability,
}


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [time_s for time_s, _ in points], [float(value) for _, value in points]


def _truth(value: float | None) -> bool | None:
    return None if value is None else value >= 0.5
