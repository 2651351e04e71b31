"""Learning without a server, over unreliable links: the cells, the tuning and what must hold."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
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

METHODS: dict[str, dict[str, Any]] = {
    "dsgd": {},
    "dsgd-discard": {"strategy": "dsgd-discard"},
    "dsgd-synchronous": {"strategy": "dsgd-synchronous"},
    "ad-psgd": {"strategy": "ad-psgd"},
    "swift": {"strategy": "swift"},
    "epidemic": {"strategy": "epidemic", "topology": {}},
}
PUBLIC = ("ad-psgd", "swift", "epidemic")
"""Algorithms of others that `dsgd` is to be as good as."""

RATES = (0.1, 0.2, 0.4, 0.8)
"""Learning rates that every method is tried with."""

UNTIL_S = 200.0
"""Virtual time of every run. Half of it is where methods are to differ."""

LOSSES = (0.0, 0.3, 0.7)
MIN_TARGET_SHARE = 0.95
"""Of the best final accuracy: what the time to accuracy is of."""


def tuning_cell(until_s: float) -> Cell:
    """Every method with every learning rate, ten devices."""
    methods = {
        f"{name} at {rate:g}": {**keys, "optimizer.learning_rate": rate}
        for name, keys in METHODS.items()
        for rate in RATES
    }
    return Cell(name="peers tuning", file="dsgd.yaml", methods=methods, overrides=_world(10, 0.3, until_s))


def tune(bench: Bench, until_s: float = UNTIL_S) -> dict[str, float]:
    """The learning rate of each method, by accuracy at the end of a run on a seed of its own."""
    runs = run_cell(tuning_cell(until_s), bench, [TUNING_SEED])
    return best_rates(runs, until_s)


def best_rates(runs: Runs, until_s: float) -> dict[str, float]:
    """Method -> the rate whose run ended best; runs are named `METHOD at RATE`."""
    best: dict[str, tuple[float, float]] = {}
    for name, by_seed in runs.items():
        method, _, rate = name.rpartition(" at ")
        for outcome in by_seed.values():
            accuracy = read_at(node_curve(outcome), until_s)
            best[method] = max(best.get(method, (-math.inf, 0.0)), (accuracy, float(rate)))
    return {method: rate for method, (_, rate) in best.items()}


def measure(bench: Bench, rates: Mapping[str, float], num_devices: int, until_s: float = UNTIL_S) -> Runs:
    """All methods at equal virtual time, each with the learning rate that fits it."""
    methods = {
        name: {**keys, "optimizer.learning_rate": rates[name]} for name, keys in METHODS.items()
    }
    world = _world(num_devices, 0.3, until_s)
    return run_cell(
        Cell(name=f"peers {num_devices}", file="dsgd.yaml", methods=methods, overrides=world), bench
    )


def measure_losses(bench: Bench, rate: float, until_s: float = UNTIL_S) -> dict[float, Runs]:
    """`dsgd` at link losses."""
    methods = {"dsgd": {"optimizer.learning_rate": rate}}
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
        "peers.window=20",
    )
