"""The two objectives of the search: training MACs, and what a short training brings.

References:
    Rapp, Khalili, Pfeiffer and Henkel, "DISTREAL: Distributed resource-aware learning in heterogeneous
    systems", AAAI 2022, arXiv 2112.08761. The paper's search maximises convergence speed and minimises
    resources. How long the short training is, what it starts from, and that it is one round of a small
    fleet whose weights are averaged, are reconstructions of ours. Averaged weights are what a fleet ends
    a round with, and they measure far more steadily than those of one device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from dse.front import Measurement
from firmware_profiles.errors import UserError
from models.calibrate import calibrate, evaluate
from models.cost import cost
from models.data.batches import shuffled_batches
from models.data.dataset import Dataset
from models.engines.engine import Engine
from models.graph import ModelGraph
from models.optim.optimizer import Optimizer
from models.optim.settings import OptimizerSettings
from models.step import training_step
from models.subnet import Array, DropoutVector, full_vector, sample
from models.widths import WidthPlan

_EVALUATION_BATCH = 250
_NUM_CALIBRATION = 500
_Count = Annotated[int, Meta(ge=1, le=10**7)]


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How vectors are measured; a study resumes only with the same ones.

    Attributes:
        warm_steps: mini-batches of full training before, which all measurements share.
        num_steps: mini-batches each device of the round trains.
        num_devices: devices of the round, each with batches and sub-networks of its own.
        num_repeats: independent warm starts, a round from each; the gain is the mean over them.
        num_held_out: training samples set aside to measure accuracy; the test part is never used.
        batch_size: samples of a mini-batch.
        optimizer: as devices will train.
        seed: decides held-out samples, batches and sub-networks.
    """

    warm_steps: _Count = 60
    num_steps: _Count = 40
    num_devices: _Count = 4
    num_repeats: _Count = 2
    num_held_out: _Count = 1500
    batch_size: _Count = 32
    optimizer: OptimizerSettings = OptimizerSettings(clip_norm=5.0)
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0


@dataclass(frozen=True, eq=False)
class Bench:
    """What every measurement needs.

    Attributes:
        graph: the network.
        plan: its width groups.
        engine: of the graph with cross-entropy.
        initial: weights to start from, float32, never changed.
        data: samples to train with.
        held_out_inputs: float32 [H, *input_shape].
        held_out_labels: int64 [H].
        settings: how to measure.
    """

    graph: ModelGraph
    plan: WidthPlan
    engine: Engine
    initial: Mapping[str, Array]
    data: Dataset
    held_out_inputs: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]
    settings: SearchSettings


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A network that has learned a little, and its held-out accuracy (a fraction)."""

    weights: Mapping[str, Array]
    accuracy: float
    seed: int


def make_bench(
    graph: ModelGraph,
    plan: WidthPlan,
    engine: Engine,
    initial: Mapping[str, Array],
    train: Dataset,
    settings: SearchSettings,
) -> Bench:
    """Set samples aside and put the bench together.

    Raises:
        UserError: there are too few samples to train and to measure.
    """
    order = np.random.default_rng(settings.seed).permutation(len(train))
    num_left = len(train) - settings.num_held_out
    if num_left < settings.batch_size:
        raise UserError(
            f"{len(train)} training samples are too few for {settings.num_held_out} held-out ones and a "
            f"mini-batch of {settings.batch_size}. Use more data or hold out fewer."
        )
    inputs, labels = train.batch(order[num_left:])
    return Bench(graph, plan, engine, initial, train.take(order[:num_left]), inputs, labels, settings)


def warm_up(bench: Bench, repeat: int) -> WarmStart:
    """Train the full network for `warm_steps` from its initial weights."""
    settings = bench.settings
    seed = (settings.seed * 1000 + repeat) * 1000
    weights = _train(bench, bench.initial, full_vector(bench.plan), settings.warm_steps, seed)
    return WarmStart(weights, held_out_accuracy(bench, weights), seed)


def measure(bench: Bench, starts: Sequence[WarmStart], vector: DropoutVector) -> Measurement:
    """Train one round with one vector from each warm start.

    All vectors see the same mini-batches and channel draws, so that they differ by the vector alone.

    Args:
        bench: what is measured on.
        starts: warm starts, one or more.
        vector: kept channels of each width group.
    """
    gains = [held_out_accuracy(bench, _round(bench, start, vector)) - start.accuracy for start in starts]
    macs = cost(bench.graph, bench.plan, vector, bench.settings.batch_size).macs_training
    return Measurement(vector, macs, float(np.mean(gains)))


def held_out_accuracy(bench: Bench, weights: Mapping[str, Array]) -> float:
    """Share of the held-out samples classified rightly at full width, moments calibrated on others."""
    statistics: dict[str, Array] = {}
    if bench.graph.statistics:
        known = np.arange(min(_NUM_CALIBRATION, len(bench.data)))
        inputs, _ = bench.data.batch(known)
        statistics = calibrate(
            bench.engine, weights, np.array_split(inputs, -(-len(known) // _EVALUATION_BATCH))
        )
    counted = evaluate(
        bench.engine, weights, statistics, bench.held_out_inputs, bench.held_out_labels, _EVALUATION_BATCH
    )
    return counted.num_correct / counted.num_samples


def _round(bench: Bench, start: WarmStart, vector: DropoutVector) -> dict[str, Array]:
    """Weights after one round: each device trains a copy of the warm start, then all are averaged."""
    settings = bench.settings
    total: dict[str, Array] = {}
    for device in range(1, settings.num_devices + 1):
        trained = _train(bench, start.weights, vector, settings.num_steps, start.seed + device)
        for name, values in trained.items():
            total[name] = total[name] + values if name in total else values
    share = np.float32(1 / settings.num_devices)
    return {name: (values * share).astype(np.float32, copy=False) for name, values in total.items()}


def _train(
    bench: Bench, start: Mapping[str, Array], vector: DropoutVector, num_steps: int, seed: int
) -> dict[str, Array]:
    """Train a copy of `start` with sub-networks drawn anew for every mini-batch."""
    weights = {name: values.copy() for name, values in start.items() if name in bench.graph.parameters}
    optimizer = Optimizer(bench.settings.optimizer)
    batches = shuffled_batches(len(bench.data), bench.settings.batch_size, seed)
    for step, indices in enumerate(islice(batches, num_steps)):
        inputs, labels = bench.data.batch(indices)
        subnet = sample(bench.plan, vector, seed, step)
        training_step(bench.engine, bench.plan, weights, optimizer, subnet, inputs, {"labels": labels})
    return weights
