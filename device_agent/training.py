"""The training job: one order, mini-batch by mini-batch, as a generator.

The driver (the live runtime or the simulator) sends a budget before each mini-batch and supplies the
seconds; the job chooses, trains and says what it spent. It owns no clock, thread or file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from device_agent.strategies.strategy import CoreSeconds, DeviceStrategy
from firmware_profiles.errors import WorldError
from firmware_profiles.resources import Budget, Pause
from models.bundle import Bundle
from models.data.batches import shuffled_batches
from models.data.dataset import Dataset
from models.engines.engine import Engine
from models.optim.optimizer import Optimizer
from models.optim.schedules import learning_rate_at
from models.optim.state import OptimizerState
from models.step import training_step
from models.subnet import Array, DropoutVector, sample
from models.table import ParetoTable


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What an order asks for, with everything it needs at hand.

    Attributes:
        order: the order's number. round: the round it belongs to.
        bundle: graph, width plan, table and settings.
        weights: the weights to start from; not modified.
        num_batches: mini-batches to train.
        seed: draws mini-batches and sub-networks.
        learning_rate: of the whole order; None: that of its round by the bundle's schedule.
        state: of the optimiser, to go on from; taken over. None: it begins anew.
        strategy: the device half.
    """

    order: int
    round: int
    bundle: Bundle
    weights: Mapping[str, Array]
    num_batches: int
    seed: int
    strategy: DeviceStrategy
    learning_rate: float | None = None
    state: OptimizerState | None = None


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one mini-batch took.

    Attributes:
        vector: kept channels of each width group.
        macs: training MACs. full_macs: those the full network would have taken.
        num_samples: samples in the mini-batch. loss_sum: summed over them.
    """

    vector: DropoutVector
    macs: int
    full_macs: int
    num_samples: int
    loss_sum: float


@dataclass(kw_only=True)
class TrainingResult:
    """What a job learned. `delta` is weights after minus weights before; empty if nothing was trained."""

    num_samples: int = 0
    vectors: list[DropoutVector] = field(default_factory=list)
    step_vectors: list[int] = field(default_factory=list)
    delta: dict[str, Array] = field(default_factory=dict)
    macs: int = 0
    loss_sum: float = 0.0


Yielded = StepCost | Pause | None
Job = Generator[Yielded, Budget | None, TrainingResult]
KeepState = Callable[[OptimizerState | None], None]


def train(
    job: TrainingJob,
    data: Dataset,
    engine: Engine,
    *,
    table: Callable[[], ParetoTable],
    core_seconds: CoreSeconds,
    num_cores: int,
    keep_state: KeepState | None = None,
) -> Job:
    """Train one order.

    The first `next()` runs up to the first request for a budget and yields None. From then on send the
    budget of the moment, or None to finish now. It yields the StepCost of the mini-batch it trained, or
    the Pause that even the cheapest vector needs; send it a new budget when things may have changed.

    Args:
        job: what to train.
        data: the device's samples.
        engine: computes the gradients.
        table: the table in force; asked before every mini-batch, so that a rollout takes effect at once.
        core_seconds: predicts the seconds of one core for an entry's mini-batch.
        num_cores: cores of the machine, to which shares refer.
        keep_state: told the optimiser's state when mini-batches were trained and the order is done, or None
            when they blew up: a state that led there is no use to the next order.

    Raises:
        UserError: the bundle's schedule lacks a number, and the order has no learning rate.
        WorldError: loss or gradients are no longer finite.
    """
    settings = job.bundle.settings
    plan = job.bundle.plan
    rate = job.learning_rate
    if rate is None:
        rate = learning_rate_at(settings.optimizer, max(0, job.round - 1))
    weights = {name: value.copy() for name, value in job.weights.items()}
    optimizer = Optimizer(settings.optimizer, learning_rate=rate, state=job.state)
    stream = shuffled_batches(len(data), settings.batch_size, job.seed)
    result = TrainingResult()
    index_of: dict[DropoutVector, int] = {}

    budget = yield None
    while budget is not None and len(result.step_vectors) < job.num_batches:
        entry = job.strategy.choose(table(), budget, num_cores, core_seconds)
        if isinstance(entry, Pause):
            budget = yield entry
            continue
        inputs, labels = data.batch(next(stream))
        subnet = sample(plan, entry.vector, job.seed, len(result.step_vectors))
        step = training_step(engine, plan, weights, optimizer, subnet, inputs, {"labels": labels})
        if not step.applied:
            if keep_state is not None:
                keep_state(None)
            raise WorldError(
                f"order {job.order}: loss or gradients are no longer finite (loss {step.loss}) "
                f"after {len(result.step_vectors)} mini-batches; lower the learning rate"
            )
        if entry.vector not in index_of:
            index_of[entry.vector] = len(result.vectors)
            result.vectors.append(entry.vector)
        result.step_vectors.append(index_of[entry.vector])
        macs = entry.macs * step.num_samples
        result.num_samples += step.num_samples
        result.macs += macs
        result.loss_sum += step.loss * step.num_samples
        budget = yield StepCost(
            vector=entry.vector,
            macs=macs,
            full_macs=table().entries[-1].macs * step.num_samples,
            num_samples=step.num_samples,
            loss_sum=step.loss * step.num_samples,
        )
    if result.step_vectors:
        if keep_state is not None:
            keep_state(optimizer.state)
        result.delta = {name: value - job.weights[name] for name, value in weights.items()}
    return result
