"""Resource traces: what a twin's sensors read, as pure functions of virtual time."""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice

from coordinator.twins.scenario import Csv, Ramp, Resources, Steps, Trace, Walk
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from firmware_profiles.profile import FirmwareProfile
from firmware_profiles.resources import Snapshot

MAX_CSV_ROWS = 1_000_000

Reading = Callable[[float], "float | None"]
"""Value at a time in virtual seconds; None where it is not known."""


def make_sensors(resources: Resources, profile: FirmwareProfile, seed: str) -> Callable[[float], Snapshot]:
    """Return what the sensors of one device read at a time.

    Args:
        resources: the traces.
        profile: the board they belong to.
        seed: of this device's random walks; the same one gives the same readings.

    Raises:
        UserError: a CSV file cannot be used.
    """
    names = ("cpu_others_fraction", "memory_available_bytes", "battery_fraction", "charging")
    names += ("temperature_celsius", "throttled", "clock_hz")
    readings = {name: make_reading(getattr(resources, name), f"{seed}/{name}") for name in names}

    def read(time_s: float) -> Snapshot:
        values = {name: reading(time_s) for name, reading in readings.items()}
        memory = values["memory_available_bytes"]
        return Snapshot(
            num_cores=profile.num_cores,
            cpu_others_fraction=_fraction(values["cpu_others_fraction"]),
            memory_available_bytes=None if memory is None else max(0, int(memory)),
            battery_fraction=_fraction(values["battery_fraction"]),
            charging=_truth(values["charging"]),
            temperature_celsius=values["temperature_celsius"],
            throttled=_truth(values["throttled"]),
            clock_hz=values["clock_hz"],
            hour_of_day=None if resources.start_hour is None else (resources.start_hour + time_s / 3600) % 24,
        )

    return read


def make_reading(trace: Trace | None, seed: str) -> Reading:
    """Return the function of time that a trace describes.

    Raises:
        UserError: its CSV file cannot be used.
    """
    if isinstance(trace, Steps):
        return _steps([time_s for time_s, _ in trace.points], [float(value) for _, value in trace.points])
    if isinstance(trace, Ramp):
        return _ramp([time_s for time_s, _ in trace.points], [float(value) for _, value in trace.points])
    if isinstance(trace, Walk):
        return _walk(trace, random.Random(seed))
    if isinstance(trace, Csv):
        return _csv(trace)
    return lambda _time_s: None if trace is None else float(trace)


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


def _csv(trace: Csv) -> Reading:
    times_s, values = _read_columns(trace)
    steps = _steps(times_s, values)
    period_s = trace.repeat_s
    return steps if period_s is None else lambda time_s: steps(time_s % period_s)


def _read_columns(trace: Csv) -> tuple[list[float], list[float | None]]:
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


def _truth(value: float | None) -> bool | None:
    return None if value is None else value >= 0.5
