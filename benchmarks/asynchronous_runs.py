"""Runs of the study of asynchronous learning: methods x seeds of a scenario, kept and not repeated."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.comparing.compare import Watch, compare
from coordinator.comparing.runs import Now
from coordinator.comparing.summary import RunOutcome, Runs

Curve = Sequence[tuple[float, float]]
"""(virtual seconds, accuracy 0..1), in order."""

SCENARIOS = Path(__file__).resolve().parent.parent / "examples" / "scenarios"

TUNING_SEED = 100
"""Settings are chosen on this seed, and none is reported on it."""

LOOK_BACK_S = 50.0
"""A curve is read as its mean over so many virtual seconds: a single look is noisy."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scenario of the study.

    Attributes:
        name: of the scenario as it is run. file: of `examples/scenarios`.
        methods: name -> keys that it changes. overrides: `key=value` over file and method.
    """

    name: str
    file: str
    methods: Mapping[str, Mapping[str, Any]]
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how much is run.

    Attributes:
        out: folder of results. num_workers: processes at a time; None: the cores.
        data: `key=value` of the data set.
        seeds: reported. vm_traces: recorded availability, None: the generator.
        methods: without a server, of all that there are; none: all.
    """

    out: Path
    num_workers: int | None
    data: tuple[str, ...]
    seeds: tuple[int, ...]
    vm_traces: Path | None = None
    methods: tuple[str, ...] = ()


def run_cell(cell: Cell, bench: Bench, seeds: Sequence[int] | None = None) -> Runs:
    """Run what is missing of a cell; method -> seed -> outcome."""
    results = compare(
        [SCENARIOS / cell.file],
        methods=cell.methods,
        seeds=bench.seeds if seeds is None else seeds,
        overrides=(*bench.data, *cell.overrides, f"name={json.dumps(cell.name)}"),
        out=bench.out,
        num_workers=bench.num_workers,
        watch=Watch(now=_tell),
    )
    for text in (*results.complaints, *(f"{one.run}: {one.reason}" for one in results.failures)):
        print(text, file=sys.stderr)
    return results.outcomes[cell.name]


def _tell(now: Now) -> None:
    if now.finished is not None:
        end = now.reason or f"{now.wall_s:.0f} s"
        print(f"{now.finished}: {end}; {len(now.waiting) + len(now.running)} to go", file=sys.stderr)


def node_curve(outcome: RunOutcome) -> Curve:
    """Virtual seconds and mean accuracy of the devices' own models."""
    return [(time_s, mean) for time_s, mean, _ in outcome.node_accuracy_curve]


def read_at(curve: Curve, time_s: float, look_back_s: float = LOOK_BACK_S) -> float:
    """Mean of the points of the last `look_back_s` up to a time, at least the newest; NaN before the first.

    Args:
        curve: of a run.
        time_s: virtual seconds; beyond the last point it is that one's time.
        look_back_s: virtual seconds.
    """
    seen = [(at_s, accuracy) for at_s, accuracy in curve if at_s <= time_s + 1e-6]
    if not seen:
        return float("nan")
    newest_s = seen[-1][0]
    return statistics.fmean(accuracy for at_s, accuracy in seen if at_s > newest_s - look_back_s)


def seconds_until(curve: Curve, target: float, look_back_s: float = LOOK_BACK_S) -> float | None:
    """When the reading of `read_at` first is a target; None: never."""
    return next((at_s for at_s, _ in curve if read_at(curve, at_s, look_back_s) >= target), None)


def paired_mean(values: Mapping[int, float], others: Mapping[int, float]) -> float:
    """Mean difference over the seeds that both have; NaN without any."""
    pairs = [values[seed] - others[seed] for seed in values if seed in others]
    return statistics.fmean(pairs) if pairs else float("nan")
