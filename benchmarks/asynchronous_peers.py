"""Learning without a server, over unreliable links: the cells, the tuning and what must hold."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.asynchronous_runs import (
    TUNING_SEED,
    Bench,
    Cell,
    node_curve,
    paired_mean,
    read_at,
    run_cell,
    seconds_until,
)
from benchmarks.report import Check, Report
from coordinator.comparing.summary import Runs

Keys = dict[str, Any]
"""Of a scenario, by dotted name."""

_OF_ALL: Keys = {"topology": {"kind": "full"}}
METHODS: dict[str, Keys] = {
    "dsgd": _OF_ALL,
    "ad-psgd": {"strategy": "ad-psgd", **_OF_ALL},
    "swift": {"strategy": "swift", **_OF_ALL},
    "epidemic": {"strategy": "epidemic", **_OF_ALL},
    "reuse": {"strategy": "dsgd-paper"},
    "discard": {"strategy": "dsgd-discard"},
    "synchronous": {"strategy": "dsgd-synchronous"},
}
"""The first four reach every device. The last three are what the paper behind `dsgd` compares: every device
exchanges with all those near it, as the scenario has it."""

PUBLIC = ("ad-psgd", "swift", "epidemic")
"""Algorithms of others that `dsgd` is to be as good as."""

RATES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Learning rates that every method is tried with."""

UNTIL_S = 200.0
HALF_S = UNTIL_S / 2
"""Where methods are to differ; runs of the larger fleet may end here."""

BARRIER_S = 0.5
BY_BARRIER = {"dsgd": (0.25, 1.0), "epidemic": (0.25, 1.0), "reuse": (0.25, 1.0), "discard": (1.0,)}
"""Methods with a barrier, and those they are tried with besides BARRIER_S. A gradient takes 0.25 s at least:
who gives up late ones would never have any at so short a barrier."""

LOOK_S = 10.0
"""Between two looks at the devices' own models."""

LOSSES = (0.0, 0.3, 0.7)
TARGET_SHARE = 0.95
"""Of the best public algorithm's final accuracy: what the time to accuracy is of."""


def tune(bench: Bench, until_s: float = UNTIL_S) -> dict[str, Keys]:
    """The learning rate of each method, then its barrier where it has one, on a seed of its own.

    What counts is the mean accuracy over the second half of a run.
    """
    world = _world(10, 0.3, until_s)
    by_rate = {
        f"{name} at {rate:g}": {**keys, **_tuning(rate, BARRIER_S)}
        for name, keys in METHODS.items()
        for rate in RATES
    }
    cell = Cell(name="peers tuning", file="dsgd.yaml", methods=by_rate, overrides=world)
    runs = run_cell(cell, bench, [TUNING_SEED])
    rates = best_values(runs, until_s)
    by_barrier = {
        f"{name} at {barrier_s:g}": {**METHODS[name], **_tuning(rates[name], barrier_s)}
        for name, barriers_s in BY_BARRIER.items()
        for barrier_s in barriers_s
    }
    cell = Cell(name="peers barriers", file="dsgd.yaml", methods=by_barrier, overrides=world)
    known = {f"{name} at {BARRIER_S:g}": runs[f"{name} at {rates[name]:g}"] for name in BY_BARRIER}
    barriers = best_values({**known, **run_cell(cell, bench, [TUNING_SEED])}, until_s)
    return {name: _tuning(rates[name], barriers.get(name, BARRIER_S)) for name in METHODS}


def best_values(runs: Runs, until_s: float) -> dict[str, float]:
    """Method -> the value whose run was best over its second half; runs are named `METHOD at VALUE`."""
    best: dict[str, tuple[float, float]] = {}
    for name, by_seed in runs.items():
        method, _, value = name.rpartition(" at ")
        for outcome in by_seed.values():
            accuracy = read_at(node_curve(outcome), until_s, until_s / 2)
            best[method] = max(best.get(method, (-math.inf, 0.0)), (accuracy, float(value)))
    return {method: value for method, (_, value) in best.items()}


def measure(bench: Bench, tuned: Mapping[str, Keys], num_devices: int, until_s: float = UNTIL_S) -> Runs:
    """All methods, or those asked for, at equal virtual time, each with the settings that fit it."""
    methods = {
        name: {**keys, **tuned[name]}
        for name, keys in METHODS.items()
        if not bench.methods or name in bench.methods
    }
    world = _world(num_devices, 0.3, until_s)
    cell = Cell(name=f"peers {num_devices}", file="dsgd.yaml", methods=methods, overrides=world)
    return run_cell(cell, bench)


def measure_losses(bench: Bench, tuned: Keys, until_s: float = UNTIL_S) -> dict[float, Runs]:
    """`dsgd` at link losses."""
    methods = {"dsgd": {**METHODS["dsgd"], **tuned}}
    return {
        loss: run_cell(
            Cell(
                name=f"peers loss {loss:g}",
                file="dsgd.yaml",
                methods=methods,
                overrides=_world(10, loss, until_s),
            ),
            bench,
        )
        for loss in LOSSES
    }


def _world(num_devices: int, loss_fraction: float, until_s: float) -> tuple[str, ...]:
    links = json.dumps([{"loss_fraction": loss_fraction, "coherence_s": 0.5}])
    return (
        f"devices.0.count={num_devices}",
        f"faults.links={links}",
        f"until_s={until_s:g}",
        "rounds=100000",  # the time ends it
        "optimizer.schedule=constant",
    )


def _tuning(rate: float, barrier_s: float) -> Keys:
    return {
        "optimizer.learning_rate": rate,
        "peers.barrier_s": barrier_s,
        "peers.window": round(LOOK_S / barrier_s),
    }


# ---------------------------------------------------------------- what came of it


def report_peers(num_devices: int, runs: Runs) -> Report:
    """Rows by method, and what must hold of them."""
    report = Report("asynchronous")
    for name, by_seed in runs.items():
        curves = [node_curve(outcome) for outcome in by_seed.values()]
        if curves:
            times = list(times_to(runs, name).values())
            report.rows.append(
                {
                    "part": f"peers {num_devices}",
                    "method": name,
                    "num_seeds": len(curves),
                    "at_half": _percent(read_at(curve, HALF_S) for curve in curves),
                    "at_end": _percent(read_at(curve, math.inf) for curve in curves),
                    "of_the_mean": _percent(outcome.accuracy for outcome in by_seed.values()),
                    "to_target_s": [None if one is None else round(one) for one in times],
                    "mib": round(statistics.fmean(o.bytes_sent for o in by_seed.values()) / 2**20),
                }
            )
    where = f"peers {num_devices}, half-way"
    reuse, discard, synchronous = (half_way(runs, name) for name in ("reuse", "discard", "synchronous"))
    report.checks = [
        Check(f"{where}: points of {name}", paired_mean(one, other), ">=", target, "paired by seed")
        for name, one, other, target in (
            ("reuse over discard", reuse, discard, 2.0),
            ("discard over synchronous", discard, synchronous, 10.0),
        )
        if one and other
    ]
    if runs.get("dsgd") and any(runs.get(name) for name in PUBLIC):
        best, ratio = time_against_public(runs)
        name = f"peers {num_devices}: time to accuracy over that of the best public algorithm"
        report.checks.append(Check(name, ratio, "<=", 1.0, best))
    return report


def report_losses(runs: Mapping[float, Runs]) -> Report:
    """How much a link loss of 70 % costs `dsgd`, against none."""
    report = Report("asynchronous")
    ends = {
        loss: {seed: 100 * read_at(node_curve(one), math.inf) for seed, one in found.get("dsgd", {}).items()}
        for loss, found in runs.items()
    }
    for loss, by_seed in ends.items():
        if by_seed:
            end = round(statistics.fmean(by_seed.values()), 2)
            report.rows.append({"part": "loss", "loss": loss, "num_seeds": len(by_seed), "at_end": end})
    fall = paired_mean(ends[min(LOSSES)], ends[max(LOSSES)])
    report.checks = [Check("loss: points that 70 % of loss costs dsgd", fall, "<=", 6.0, "no loss")]
    return report


def half_way(runs: Runs, method: str) -> dict[int, float]:
    """Seed -> percent of the devices' own models at HALF_S."""
    return {seed: 100 * read_at(node_curve(one), HALF_S) for seed, one in runs.get(method, {}).items()}


def times_to(runs: Runs, method: str) -> dict[int, float | None]:
    """Seed -> seconds until TARGET_SHARE of what the best public algorithm has in the end on that seed."""
    times = {}
    for seed, outcome in runs.get(method, {}).items():
        ends = [
            read_at(node_curve(runs[name][seed]), math.inf) for name in PUBLIC if seed in runs.get(name, {})
        ]
        if ends:
            times[seed] = seconds_until(node_curve(outcome), TARGET_SHARE * max(ends))
    return times


def time_against_public(runs: Runs) -> tuple[str, float]:
    """The public algorithm that is fastest to the target, and the time of `dsgd` over its; inf if never."""
    means = {
        name: statistics.fmean(math.inf if one is None else one for one in times.values())
        for name in ("dsgd", *PUBLIC)
        if (times := times_to(runs, name))
    }
    best = min((name for name in means if name != "dsgd"), key=lambda name: means[name])
    return best, means["dsgd"] / means[best]


def _percent(values: Iterable[float]) -> float:
    return round(100 * statistics.fmean(values), 2)
