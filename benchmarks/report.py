"""What every benchmark shares: interleaved timing, checks against a target, and the report."""

from __future__ import annotations

import argparse
import gc
import json
import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

Name = TypeVar("Name")

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Check:
    """One claim: `value op target`. The target is the one the issue set, whatever is measured.

    Attributes:
        name: what is claimed.
        value: what was measured in this run.
        op: one of <=, >=, <, >, ==.
        target: the limit.
        peer: what it was measured against.
    """

    name: str
    value: float
    op: str
    target: float
    peer: str

    @property
    def holds(self) -> bool:
        """Whether the measured value is within the target; never so for NaN."""
        return _OPERATORS[self.op](self.value, self.target)


@dataclass
class Report:
    """What a benchmark prints: rows of measurements and checks on them.

    Attributes:
        benchmark: its name, as in `python -m benchmarks.NAME`.
        rows: one dict for each line of the table.
        checks: what must hold.
    """

    benchmark: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        checks = [{**asdict(check), "holds": check.holds} for check in self.checks]
        return {
            "benchmark": self.benchmark,
            "machine": describe_machine(),
            "rows": self.rows,
            "checks": checks,
        }


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has: --quick, --data, --json."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="the same rows at fewer repeats, within a minute")
    made.add_argument("--data", metavar="DIR", help="folder of real data, where the benchmark uses any")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    return made


def publish(report: Report, *, as_json: bool) -> int:
    """Print a report; returns the exit status, 0 whatever holds."""
    stream = sys.stderr if as_json else sys.stdout
    for row in report.rows:
        print("  ".join(f"{key}={_shown(value)}" for key, value in row.items()), file=stream)
    for check in report.checks:
        verdict = "holds" if check.holds else "DOES NOT HOLD"
        print(
            f"{verdict}: {check.name}: {_shown(check.value)} {check.op} {check.target:g} ({check.peer})",
            file=stream,
        )
    if as_json:
        print(json.dumps(report.as_dict()))
    return 0


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    num_repeats: int,
    *,
    num_warmups: int = 2,
    min_sample_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time functions in turn, so that what disturbs the machine disturbs all of them alike.

    Args:
        runs: name -> what to time.
        num_repeats: samples of each.
        num_warmups: calls of each before the clock counts.
        min_sample_s: a sample is the mean of as many calls as take about that long.
        clock: seconds; `time.process_time` leaves out what other processes took of a shared machine,
            and is the right one for work on one thread that waits for nothing.

    Returns:
        Name -> seconds per call, one for each repeat; the order of the runs changes with the repeat.
    """
    num_calls = {}
    for name, run in runs.items():
        for _ in range(num_warmups):
            run()
        once_s = _time(run, 1, clock)
        num_calls[name] = max(1, round(min_sample_s / once_s)) if min_sample_s else 1
    samplers = {name: partial(_time, run, num_calls[name], clock) for name, run in runs.items()}
    gc.collect()
    gc.disable()
    try:
        return sample_interleaved(samplers, num_repeats)
    finally:
        gc.enable()


def sample_interleaved(
    samplers: Mapping[Name, Callable[[], float]], num_repeats: int
) -> dict[Name, list[float]]:
    """Take samples in turn, of functions that measure themselves (in a process of their own).

    Args:
        samplers: name -> takes one sample.
        num_repeats: samples of each.

    Returns:
        Name -> one sample for each repeat; the order of the samplers changes with the repeat.
    """
    names, samples = list(samplers), {name: [] for name in samplers}
    for repeat in range(num_repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name].append(samplers[name]())
    return samples


def _time(run: Callable[[], object], num_calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(num_calls):
        run()
    return (clock() - start) / num_calls


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios within each repeat, which cancels what slowed both."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, load and versions, as far as they can be read; what can't is None."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "num_cores": os.cpu_count(),
        "memory_total_bytes": _memory_total_bytes(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("numpy", "torch", "onnxruntime", "msgspec")},
    }


def _processor() -> str | None:
    for path, key in ((Path("/proc/device-tree/model"), None), (Path("/proc/cpuinfo"), "model name")):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if key is None:
            return text.strip("\0\n ")
        for line in text.splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory_total_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
