"""What compressed updates save in bytes, and cost in accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.asynchronous_runs import TUNING_SEED, Bench, Cell, paired_mean, read_at, run_cell
from benchmarks.report import Check, Report
from coordinator.comparing.summary import Runs
from models.compression.codec import encode
from models.compression.settings import CompressionSettings
from models.weights import pack

RATES = (0.1, 0.2)
ROUNDS = 100
SCHEMES: dict[str, CompressionSettings] = {
    "none": CompressionSettings(),
    "int8": CompressionSettings(scheme="int8"),
    "top-1 %": CompressionSettings(scheme="top-k", keep_fraction=0.01),
}
MOST = {"int8": (27.0, 0.5), "top-1 %": (2.0, 1.5)}
"""Percent of the bytes of float32, and percentage points of accuracy that it may cost."""

TUNED = ("none", "top-1 %")
"""`int8` learns as `none` does, and has its learning rate."""

NUM_MEASURED = 1_000_000


def tune(bench: Bench) -> dict[str, float]:
    """The learning rate of each scheme, on a seed of its own."""
    methods = {f"{name} at {rate:g}": _keys(SCHEMES[name], rate) for name in TUNED for rate in RATES}
    runs = run_cell(_cell("compression tuning", methods), bench, [TUNING_SEED])
    best: dict[str, tuple[float, float]] = {}
    for name, by_seed in runs.items():
        scheme, _, rate = name.rpartition(" at ")
        for outcome in by_seed.values():
            end = read_at(outcome.accuracy_curve, math.inf)
            best[scheme] = max(best.get(scheme, (-math.inf, 0.0)), (end, float(rate)))
    return {scheme: best[scheme if scheme in TUNED else "none"][1] for scheme in SCHEMES}


def measure(bench: Bench, rates: Mapping[str, float]) -> Runs:
    """All schemes, each with the learning rate that fits it."""
    methods = {name: _keys(settings, rates[name]) for name, settings in SCHEMES.items()}
    return run_cell(_cell("compression", methods), bench)


def report_compression(runs: Runs) -> Report:
    """Rows by scheme, and what must hold."""
    report = Report("asynchronous")
    none = runs["none"]
    for name, settings in SCHEMES.items():
        by_seed = runs[name]
        if not by_seed:
            continue
        percent = bytes_percent(settings)
        behind = paired_mean(
            {seed: 100 * one.accuracy for seed, one in none.items()},
            {seed: 100 * one.accuracy for seed, one in by_seed.items()},
        )
        report.rows.append(
            {
                "part": "compression",
                "scheme": name,
                "num_seeds": len(by_seed),
                "accuracy": round(100 * statistics.fmean(one.accuracy for one in by_seed.values()), 2),
                "points_behind": round(behind, 2),
                "update_bytes_percent": round(percent, 2),
            }
        )
        if name in MOST:
            most_bytes, most_points = MOST[name]
            report.checks += [
                Check(
                    f"compression: {name}: percent of the bytes of float32", percent, "<=", most_bytes, "none"
                ),
                Check(f"compression: {name}: points behind none", behind, "<=", most_points, "paired"),
            ]
    return report


def bytes_percent(settings: CompressionSettings) -> float:
    """Size of a compressed update of a million normal values, in percent of its float32 content."""
    values = np.random.default_rng(0).normal(size=NUM_MEASURED).astype(np.float32)
    return 100 * len(encode({"w": values}, settings, seed=0)) / len(pack({"w": values}))


def _keys(settings: CompressionSettings, rate: float) -> dict[str, Any]:
    compression = {"scheme": settings.scheme, "keep_fraction": settings.keep_fraction}
    return {"compression": compression, "optimizer.learning_rate": rate}


def _cell(name: str, methods: Mapping[str, Mapping[str, Any]]) -> Cell:
    overrides = (
        "strategy=full",
        "model=cnn-tiny-28",
        "devices.*.count=2",
        "partition=dirichlet:0.5",
        f"rounds={ROUNDS}",
        "passes=0.04",  # five mini-batches
        "batch_size=8",
        "round_s=1000",
        "telemetry_s=600",
        "measure_samples=250",
        "learning_rate=null",
        "optimizer.momentum=0",
        "optimizer.clip_norm=2",
    )
    return Cell(name=name, file="main_job.yaml", methods=methods, overrides=overrides)
