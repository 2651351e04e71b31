"""Predicted against measured step time after calibration, for four networks and three engines.

    python -m benchmarks.calibration [--quick] [--json]

What `edgetide agent bench` does, on tables that are harder than a searched one: half the vectors keep the
same share of every layer, half keep a share drawn for each layer, so that MACs, activations and blocks of
channels vary independently. The cost model is fitted to half of each table, both ends among them; errors
are those on the other half, as shares of the measured time.

The peers were fitted to the same measurements: time proportional to MACs, and a line in MACs.

One thread, mini-batches of 32, SGD with momentum 0.9. Step times are this process's CPU time: on one thread
that waits for nothing they are the seconds of an otherwise idle core. Neighbours on the same core and cache
still slow it; the figures that count come from a machine with nothing else to do.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Check, Report, median, parser, publish
from device_agent.bench import Calibration, Timing, calibrate
from device_agent.bench_subject import make_mini_batch
from models.bundle import Bundle, TrainingSettings
from models.cost import CostModel
from models.engines.choose import ENGINES, make_engine
from models.graph import ModelGraph
from models.graph import digest as graph_digest
from models.subnet import DropoutVector, full_vector, uniform_vector
from models.table import ParetoTable, TableEntry
from models.widths import WidthPlan, plan_widths
from models.zoo import load_model

NETWORKS = ("cnn-28", "resnet-20", "cnn-tiny-28", "dscnn-1d")
ENGINE_NAMES = ("onnx", "torch", "numpy")
UNIFORM = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
NUM_ENTRIES = 16
NUM_FITTED = 8
MEDIAN_TARGET, WORST_TARGET = 0.10, 0.25


def draw_table(graph: ModelGraph, plan: WidthPlan, batch_size: int, seed: int = 0) -> ParetoTable:
    """Uniform vectors and random ones, by rising MACs."""
    random, full = np.random.default_rng(seed), np.array(full_vector(plan))
    drawn: set[DropoutVector] = {uniform_vector(plan, fraction) for fraction in UNIFORM}
    while len(drawn) < NUM_ENTRIES:
        shares = np.clip(random.uniform(0.2, 1.0) + random.uniform(-0.3, 0.3, len(full)), 0.1, 1.0)
        drawn.add(tuple(int(kept) for kept in np.maximum(1, np.round(full * shares))))
    vectors = sorted(drawn)
    costs = CostModel(graph, plan, batch_size).costs(vectors)
    entries = [
        TableEntry(vector=vector, macs=int(macs), progress=0.0, memory_bytes=int(memory))
        for vector, macs, memory in zip(vectors, costs.macs_training, costs.memory_bytes, strict=True)
    ]
    return ParetoTable(
        model=graph.name,
        graph_digest=graph_digest(graph),
        batch_size=batch_size,
        entries=tuple(sorted(entries, key=lambda entry: (entry.macs, entry.vector))),
        source="drawn for the calibration benchmark",
    )


def measure(report: Report, network: str, engine_name: str, num_repeats: int) -> None:
    """Calibrate one engine on one network, and compare with the peers."""
    graph, _ = load_model(network)
    plan, settings = plan_widths(graph), TrainingSettings()
    table = draw_table(graph, plan, settings.batch_size)
    bundle = Bundle(graph=graph, plan=plan, table=table, settings=settings)
    inputs, targets = make_mini_batch(bundle, None)
    found = calibrate(
        bundle,
        make_engine(engine_name, graph, settings.loss, 1),
        inputs=inputs,
        targets=targets,
        num_vectors=NUM_FITTED,
        num_repeats=num_repeats,
        num_threads=1,
    )
    model = CostModel(graph, plan, settings.batch_size)
    row = {
        "network": network,
        "engine": engine_name,
        "num_fitted": len(found.fitted),
        "num_validated": len(found.validated),
        "full_ms": 1000 * found.fitted[-1].core_seconds,
        "median_error": found.median_error,
        "worst_error": found.worst_error,
        **_peers(model, found),
        "fixed_ms": 1000 * found.coefficients.core_seconds_per_step,
        "ns_per_mac": 1e9 * found.coefficients.core_seconds_per_mac,
        "ns_per_activation_byte": 1e9 * found.coefficients.core_seconds_per_activation_byte,
        "channel_block": found.coefficients.channel_block,
    }
    report.rows.append(row)
    print(
        f"{network} on {engine_name}: median {row['median_error']:.1%}, worst {row['worst_error']:.1%}; "
        f"line in MACs {row['line_median_error']:.1%}, {row['line_worst_error']:.1%}",
        file=sys.stderr,
    )
    for name, target in (("median", MEDIAN_TARGET), ("worst", WORST_TARGET)):
        report.checks.append(
            Check(
                f"{network} on {engine_name}: {name} error of predicted step time",
                row[f"{name}_error"],
                "<=",
                target,
                f"measured; a line in MACs is off by {row[f'line_{name}_error']:.1%}, "
                f"MACs alone by {row[f'macs_{name}_error']:.1%}",
            )
        )


def _peers(model: CostModel, found: Calibration) -> dict[str, float]:
    """Errors of predictions by MACs alone and by a line in MACs, on the same vectors."""
    errors = {}
    for name, has_fixed in (("macs", False), ("line", True)):
        known, asked = (_macs_terms(model, part, has_fixed) for part in (found.fitted, found.validated))
        seconds = _seconds(found.fitted)
        best, *_ = np.linalg.lstsq(known / seconds[:, None], np.ones(len(seconds)), rcond=None)
        off = np.abs(asked @ best / _seconds(found.validated) - 1)
        errors[f"{name}_median_error"], errors[f"{name}_worst_error"] = median(list(off)), float(off.max())
    return errors


def _macs_terms(model: CostModel, timings: tuple[Timing, ...], has_fixed: bool) -> NDArray[np.float64]:  # noqa: FBT001
    macs = model.costs([timing.vector for timing in timings]).macs_training / 1e6
    return np.stack([macs, np.ones(len(macs))], axis=1) if has_fixed else macs[:, None]


def _seconds(timings: tuple[Timing, ...]) -> NDArray[np.float64]:
    return np.array([timing.core_seconds for timing in timings])


def main() -> int:
    """Measure and print."""
    options = parser("Predicted against measured step time after calibration.").parse_args()
    report = Report("calibration")
    for engine in ENGINE_NAMES:
        if not ENGINES[engine].is_installed():
            print(f"{engine} is not installed here: left out", file=sys.stderr)
            continue
        for network in NETWORKS:
            heavy = network == "resnet-20"
            repeats = (1 if heavy else 2) if options.quick else (6 if heavy else 20)
            measure(report, network, engine, repeats)
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
