"""Updates applied when they come against rounds whose deadline is tuned, by devices of speeds 1 to 1/8.

The classes 5 and 9 are held by the slowest devices alone (`examples/scenarios/async.yaml`).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.asynchronous_runs import TUNING_SEED, Bench, Cell, read_at, run_cell, seconds_until
from benchmarks.report import Check, Report
from coordinator.comparing.summary import RunOutcome, Runs

DEADLINES_S = (1.25, 2.5, 5.0, 10.0, 20.0)
RATES = (0.1, 0.2)
UNTIL_S = 100.0
LOOK_BACK_S = 10.0
"""Of a curve that is read; a point at least."""

SLOW_CLASSES = (5, 9)
"""Held by the slowest devices alone."""

ROUNDS = "rounds"
OURS = "async"
ASYNC: dict[str, dict[str, Any]] = {
    OURS: {"asynchrony": {"fairness": "rate", "buffer_size": 20}},
    "async none of 10": {"asynchrony": {"fairness": "none", "buffer_size": 10}},
    "async none": {"asynchrony": {"fairness": "none", "buffer_size": 20}},
}
"""As the preset has it, and with parts of it taken away."""

MAX_TIME_RATIO = 0.55


def tune(bench: Bench) -> dict[str, dict[str, Any]]:
    """The deadline and learning rate of rounds, and the learning rate of `async`, on a seed of their own."""
    rounds = {
        f"{ROUNDS} of {deadline_s:g} s at {rate:g}": _in_rounds(deadline_s, rate)
        for deadline_s in DEADLINES_S
        for rate in RATES
    }
    free = {f"{OURS} at {rate:g}": {**ASYNC[OURS], "optimizer.learning_rate": rate} for rate in RATES}
    methods = {**rounds, **free}
    runs = run_cell(_cell("async tuning", methods, bench), bench, [TUNING_SEED])
    return {ROUNDS: methods[best_of(runs, rounds)], OURS: methods[best_of(runs, free)]}


def best_of(runs: Runs, names: Mapping[str, object]) -> str:
    """The method that ended best."""
    ends = {
        name: statistics.fmean([_end(one) for one in runs[name].values()]) for name in names if runs.get(name)
    }
    return max(ends, key=lambda name: ends[name])


def measure(bench: Bench, tuned: Mapping[str, Mapping[str, Any]]) -> Runs:
    """Rounds at their best, and `async` with the learning rate that fits it."""
    rate = tuned[OURS]["optimizer.learning_rate"]
    free = {name: {**keys, "optimizer.learning_rate": rate} for name, keys in ASYNC.items()}
    methods = {ROUNDS: tuned[ROUNDS], **free}
    chosen = {name: keys for name, keys in methods.items() if name in bench.methods} or methods
    return run_cell(_cell("async against rounds", chosen, bench), bench)


def time_ratios(rounds: Mapping[int, RunOutcome], ours: Mapping[int, RunOutcome]) -> list[float]:
    """By seed: seconds until the other's final accuracy over the seconds it took itself; inf if never."""
    ratios = []
    for seed in sorted(set(rounds) & set(ours)):
        curve = rounds[seed].accuracy_curve
        target = _end(rounds[seed])
        own_s = seconds_until(ours[seed].accuracy_curve, target, LOOK_BACK_S)
        other_s = seconds_until(curve, target, LOOK_BACK_S)
        ratios.append(math.inf if own_s is None or not other_s else own_s / other_s)
    return ratios


def report_rounds(runs: Runs) -> Report:
    """Rows by method, and what must hold."""
    report = Report("asynchronous")
    for name, by_seed in runs.items():
        outcomes = list(by_seed.values())
        if not outcomes:
            continue
        ratios = time_ratios(runs.get(ROUNDS, {}), by_seed)
        report.rows.append(
            {
                "part": "async",
                "method": name,
                "num_seeds": len(outcomes),
                "accuracy": round(100 * statistics.fmean(_end(o) for o in outcomes), 2),
                "last": round(100 * statistics.fmean(one.accuracy for one in outcomes), 2),
                "slow_classes": round(100 * statistics.fmean(map(slow_accuracy, outcomes)), 2),
                "other_classes": round(100 * statistics.fmean(map(_other_accuracy, outcomes)), 2),
                "time_ratio": round(statistics.median(ratios), 3) if ratios else None,
            }
        )
    ours, rounds = runs.get(OURS), runs.get(ROUNDS)
    if ours and rounds:
        peer = "rounds, deadline and learning rate tuned"
        ratio = statistics.median(time_ratios(rounds, ours))
        report.checks.append(
            Check("async: time to the final accuracy of rounds", ratio, "<=", MAX_TIME_RATIO, peer)
        )
        slow = [
            100 * (slow_accuracy(ours[seed]) - slow_accuracy(rounds[seed])) for seed in ours if seed in rounds
        ]
        name = "async: points on the slow devices' classes, more than rounds"
        report.checks.append(Check(name, statistics.fmean(slow), ">=", 0.0, peer))
    return report


def slow_accuracy(outcome: RunOutcome) -> float:
    """Mean accuracy 0..1 of the classes that only the slowest hold."""
    return _mean_of(outcome, SLOW_CLASSES)


def _other_accuracy(outcome: RunOutcome) -> float:
    return _mean_of(outcome, [one for one in range(len(outcome.class_accuracy)) if one not in SLOW_CLASSES])


def _end(outcome: RunOutcome) -> float:
    return read_at(outcome.accuracy_curve, math.inf, LOOK_BACK_S)


def _mean_of(outcome: RunOutcome, classes: Sequence[int]) -> float:
    seen = [outcome.class_accuracy[one] for one in classes]
    return statistics.fmean(value for value in seen if value is not None)


def _in_rounds(deadline_s: float, rate: float) -> dict[str, Any]:
    return {
        "strategy": "full",
        "asynchrony": None,
        "round_s": deadline_s,
        "optimizer.learning_rate": rate,
    }


def _cell(name: str, methods: Mapping[str, Mapping[str, Any]], bench: Bench) -> Cell:
    overrides = [f"until_s={UNTIL_S:g}", "rounds=100000"]  # the time ends it
    if bench.vm_traces is not None:
        trace = {"kind": "vm", "file": str(bench.vm_traces), "rank": True, "high": 0.9, "every_s": 5.0}
        overrides.append(f"devices.*.resources.cpu_others_fraction={json.dumps(trace)}")
    return Cell(name=name, file="async.yaml", methods=methods, overrides=tuple(overrides))
