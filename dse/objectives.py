"""The convergence objective of the search: what a short training brings.

References:
    Rapp, Khalili, Pfeiffer and Henkel, "DISTREAL: Distributed resource-aware learning in heterogeneous
    systems", AAAI 2022, arXiv 2112.08761. The paper's search maximises convergence speed and minimises
    resources. How long the short training is, what it starts from, and that it is one round of a small
    fleet whose weights are averaged, are reconstructions of ours. Averaged weights are what a fleet ends
    a round with, and they measure far more steadily than those of one device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dse.settings import SearchSettings
from firmware_profiles.errors import UserError
from models.calibrate import calibrate, evaluate
from models.data.batches import shuffled_batches
from models.data.dataset import Dataset
from models.draws import make_draw
from models.engines.engine import Engine
from models.graph import ModelGraph
from models.optim.optimizer import Optimizer
from models.step import training_step
from models.subnet import Array, DropoutVector
from models.subnet_settings import SubnetSettings
from models.widths import WidthPlan

_EVALUATION_BATCH = 250
_NUM_CALIBRATION = 500


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


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A network that has learned a little.

    Attributes:
        weights: float32, never changed.
        accuracy: on the held-out samples, a fraction.
        stage: index of its stage.
        repeat: which of the independent trainings it comes from.
    """

    weights: Mapping[str, Array]
    accuracy: float
    stage: int
    repeat: int


def gain(bench: Bench, start: WarmStart, vector: DropoutVector) -> float:
    """Held-out accuracy that one round with a vector gains from one warm start, a fraction.

    All vectors see the same mini-batches and channel draws, so that they differ by the vector alone.

    Args:
        bench: what is measured on.
        start: a warm start.
        vector: kept channels of each width group.
    """
    settings = bench.settings
    trained = fleet_round(
        bench,
        start.weights,
        lambda _seed, _step: vector,
        settings.num_steps,
        (start.repeat, start.stage),
        1 + settings.stages[start.stage] // settings.num_steps,
    )
    return held_out_accuracy(bench, trained) - start.accuracy


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


def fleet_round(
    bench: Bench,
    start: Mapping[str, Array],
    vector_at: Callable[[int, int], DropoutVector],
    num_steps: int,
    about: tuple[object, ...],
    round_number: int,
) -> dict[str, Array]:
    """Weights after one round: each device trains a copy of `start`, then all are averaged.

    Args:
        bench: what is trained on.
        start: weights to begin with.
        vector_at: (seed of the device, mini-batch) -> the vector it trains.
        num_steps: mini-batches of each device.
        about: decides mini-batches and channels, together with the settings' seed.
        round_number: which round of a fleet it is, 1 or more; a rolling draw goes by it.
    """
    num_devices = bench.settings.num_devices
    total: dict[str, Array] = {}
    for device in range(num_devices):
        seed = seed_of(bench.settings.seed, *about, device)
        trained = _train(bench, start, vector_at, num_steps, seed, round_number)
        for name, values in trained.items():
            total[name] = total[name] + values if name in total else values
    share = np.float32(1 / num_devices)
    return {name: (values * share).astype(np.float32, copy=False) for name, values in total.items()}


def seed_of(*about: object) -> int:
    """A seed of its own for each thing that is drawn, 0 <= seed < 2**63."""
    return int.from_bytes(hashlib.blake2b(repr(about).encode(), digest_size=8).digest(), "big") >> 1


def _train(
    bench: Bench,
    start: Mapping[str, Array],
    vector_at: Callable[[int, int], DropoutVector],
    num_steps: int,
    seed: int,
    round_number: int,
) -> dict[str, Array]:
    """Train a copy of `start` with a sub-network for every mini-batch."""
    weights = {name: values.copy() for name, values in start.items() if name in bench.graph.parameters}
    optimizer = Optimizer(bench.settings.optimizer)
    draw = make_draw(
        SubnetSettings(draw=bench.settings.draw),
        bench.plan,
        seed=seed,
        round_number=round_number,
        weights=weights,
    )
    batches = shuffled_batches(len(bench.data), bench.settings.batch_size, seed)
    for step, indices in enumerate(islice(batches, num_steps)):
        inputs, labels = bench.data.batch(indices)
        subnet = draw(vector_at(seed, step), step)
        training_step(bench.engine, bench.plan, weights, optimizer, subnet, inputs, {"labels": labels})
    return weights
