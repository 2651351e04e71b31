"""Step time by keep fraction beside the MAC ratio, against plain torch modules of the same width.

    python -m benchmarks.step [--quick] [--json]

One thread, mini-batches of 32, SGD with momentum 0.9, a fresh random sub-network at every step.
For each network and keep fraction it times, interleaved in one loop:

- our step: `sample` and `models.step.training_step`;
- the peer: a plain torch module of that width with `torch.optim.SGD`, in both memory formats, of
  which the faster counts.

Overhead is what only a sub-network needs: sampling, cutting the weights and the momenta, and
scattering both back to the full tensors, measured inside real steps, as a share of those steps.
The optimiser's arithmetic is not overhead: the peer does it too.

Step times are this process's CPU time: on one thread that waits for nothing they are the seconds of
an otherwise idle core, whatever else the machine does. Overhead is a ratio within each step, by the
wall clock, whose reading costs least.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import Check, Report, median, median_ratio, parser, publish, time_interleaved
from benchmarks.torch_peer import FORMATS, narrowed, training_run
from models import optim, step
from models.cost import CostModel
from models.engines.choose import make_engine
from models.engines.engine import Engine
from models.graph import ModelGraph
from models.losses import LossSettings
from models.optim.optimizer import Optimizer
from models.optim.settings import OptimizerSettings
from models.subnet import Array, DropoutVector, cut, sample, scatter, uniform_vector
from models.widths import WidthPlan, plan_widths
from models.zoo import load_model, zoo_entry
from models.zoo.initial import initial_weights

NETWORKS = ("cnn-28", "resnet-20")
KEEP_FRACTIONS = (1.0, 0.75, 0.5, 0.25)
BATCH_SIZE = 32
LEARNING_RATE, MOMENTUM = 0.01, 0.9


@dataclass
class _Training:
    """A network being trained with random sub-networks of one vector."""

    engine: Engine
    plan: WidthPlan
    vector: DropoutVector
    weights: dict[str, Array]
    optimizer: Optimizer
    inputs: Array
    labels: NDArray[np.int64]
    num_steps: int = 0

    def step(self) -> float:
        subnet = sample(self.plan, self.vector, seed=0, step=self.num_steps)
        self.num_steps += 1
        targets = {"labels": self.labels}
        return step.training_step(
            self.engine, self.plan, self.weights, self.optimizer, subnet, self.inputs, targets
        ).loss


def _measure_overhead(training: _Training, num_steps: int) -> list[float]:
    """Shares of `num_steps` steps that went into sampling, cutting and scattering."""
    spent_s = 0.0

    def clocked(function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal spent_s
            start = time.perf_counter()
            result = function(*arguments, **named)
            spent_s += time.perf_counter() - start
            return result

        return call

    shares = []
    with (
        mock.patch(f"{__name__}.sample", clocked(sample)),
        mock.patch.object(step, "cut", clocked(cut)),
        mock.patch.object(optim, "cut", clocked(cut)),
        mock.patch.object(optim, "scatter", clocked(scatter)),
    ):
        for _ in range(num_steps):
            spent_s = 0.0
            start = time.perf_counter()
            training.step()
            shares.append(spent_s / (time.perf_counter() - start))
    return shares


def _prepare(graph: ModelGraph, name: str, vector: DropoutVector) -> tuple[_Training, dict[str, Callable]]:
    plan, random = plan_widths(graph), np.random.default_rng(0)
    weights = {key: values for key, values in initial_weights(graph, 0).items() if key in graph.parameters}
    inputs = random.standard_normal((BATCH_SIZE, *graph.input_shape)).astype(np.float32)
    labels = random.integers(0, graph.num_classes, BATCH_SIZE)
    engine = make_engine("torch", graph, LossSettings(), 1)
    training = _Training(
        engine,
        plan,
        vector,
        weights,
        Optimizer(OptimizerSettings(learning_rate=LEARNING_RATE, momentum=MOMENTUM)),
        inputs,
        labels,
    )
    entry = zoo_entry(name)
    plain = entry.make(entry.input_shape, entry.num_classes)
    sub = cut(plan, weights, sample(plan, vector, seed=1, step=0))
    peers = {
        form: training_run(narrowed(plain, sub), form, LEARNING_RATE, MOMENTUM, inputs, labels)
        for form in FORMATS
    }
    return training, peers


def _measure_network(report: Report, name: str, *, num_repeats: int, min_sample_s: float) -> None:
    graph, _ = load_model(name)
    plan = plan_widths(graph)
    vectors = [uniform_vector(plan, keep) for keep in KEEP_FRACTIONS]
    macs = CostModel(graph, plan, BATCH_SIZE).costs(vectors).macs_training
    trainings: dict[float, _Training] = {}
    runs: dict[str, Callable] = {}
    for keep, vector in zip(KEEP_FRACTIONS, vectors, strict=True):
        trainings[keep], peers = _prepare(graph, name, vector)
        runs[f"ours {keep}"] = trainings[keep].step
        runs |= {f"{form} {keep}": run for form, run in peers.items()}
    seconds = time_interleaved(runs, num_repeats, min_sample_s=min_sample_s, clock=time.process_time)
    for index, keep in enumerate(KEEP_FRACTIONS):
        ours = seconds[f"ours {keep}"]
        best = min(FORMATS, key=lambda form: median(seconds[f"{form} {keep}"]))
        overhead = median(_measure_overhead(trainings[keep], max(20, num_repeats)))
        row = {
            "network": name,
            "keep_fraction": keep,
            "macs_ratio": float(macs[index] / macs[0]),
            "time_ratio": median_ratio(ours, seconds["ours 1.0"]),
            "step_s": median(ours),
            "overhead_fraction": overhead,
            "torch_s": median(seconds[f"{best} {keep}"]),
            "torch_format": best,
            "torch_ratio": median_ratio(ours, seconds[f"{best} {keep}"]),
        }
        report.rows.append(row)
        print(f"{name} keep {keep}: {row['step_s'] * 1e3:.2f} ms", file=sys.stderr)
        peer = f"plain torch module of the same width, {best}, torch.optim.SGD"
        report.checks.append(
            Check(f"{name} keep {keep}: step over torch", row["torch_ratio"], "<=", 1.1, peer)
        )
        if keep >= 0.5:
            report.checks.append(
                Check(f"{name} keep {keep}: overhead share", overhead, "<=", 0.06, "the step itself")
            )
        if name == "cnn-28" and keep == 0.5:
            report.checks.append(
                Check(f"{name} keep 0.5: step over full step", row["time_ratio"], "<=", 0.42, "our full step")
            )


def main() -> int:
    """Measure and print."""
    options = parser("Step time by keep fraction, beside the MAC ratio and plain torch.").parse_args()
    torch.set_num_threads(1)
    report = Report("step")
    for name in NETWORKS:
        small = name == "cnn-28"
        repeats = (15 if small else 5) if options.quick else (60 if small else 20)
        _measure_network(report, name, num_repeats=repeats, min_sample_s=0.02 if small else 0.0)
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
