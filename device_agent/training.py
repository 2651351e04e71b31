"""The training job: one order, mini-batch by mini-batch, as a generator.

The driver (the live runtime or the simulator) sends a budget before each mini-batch and supplies the
seconds; the job chooses, trains and says what it spent. It owns no clock, thread or file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from device_agent.residual_store import Sealed
from device_agent.strategies.strategy import CoreSeconds, DeviceStrategy, Moment, OrderStart
from firmware_profiles.errors import WorldError
from firmware_profiles.resources import Budget, Pause
from models.bundle import Bundle
from models.data.batches import shuffled_batches
from models.data.dataset import Dataset
from models.draws import make_draw
from models.engines.engine import Engine
from models.micro_batches import MicroBatches
from models.optim.optimizer import Optimizer
from models.optim.schedules import learning_rate_at
from models.optim.state import OptimizerState
from models.sub_step import SubStep
from models.subnet import Array, DropoutVector
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
        is_first: nothing was trained here with this bundle yet.
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
    is_first: bool = False


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one mini-batch took.

    Attributes:
        vector: kept channels of each width group.
        macs: training MACs, a teacher's included. full_macs: those the full network would have taken.
        num_samples: samples in the mini-batch. loss_sum: summed over them.
        num_parts: in which it was computed, one after the other.
    """

    vector: DropoutVector
    macs: int
    full_macs: int
    num_samples: int
    loss_sum: float
    num_parts: int = 1


@dataclass(kw_only=True)
class TrainingResult:
    """What a job learned.

    Attributes:
        delta: weights after minus weights before; empty if nothing was trained.
        reason: why what was trained is not reported, "" else.
        sealed: the delta as it travels, where it is compressed.
    """

    num_samples: int = 0
    vectors: list[DropoutVector] = field(default_factory=list)
    step_vectors: list[int] = field(default_factory=list)
    delta: dict[str, Array] = field(default_factory=dict)
    macs: int = 0
    loss_sum: float = 0.0
    reason: str = ""
    sealed: Sealed | None = None


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
        UserError: the bundle's schedule lacks a number, and the order has no learning rate; or absent
            classes are to be masked in a network that does not end in a Gemm.
        WorldError: loss or gradients are no longer finite.
    """
    settings = job.bundle.settings
    rate = job.learning_rate
    if rate is None:
        rate = learning_rate_at(settings.optimizer, max(0, job.round - 1))
    weights = {name: value.copy() for name, value in job.weights.items()}
    optimizer = Optimizer(settings.optimizer, learning_rate=rate, state=job.state)
    stream = shuffled_batches(len(data), settings.batch_size, job.seed)
    sub_step = _sub_step(job, data, engine)
    choose = job.strategy.begin(
        OrderStart(settings=settings.subnets, round_number=job.round, seed=job.seed, is_first=job.is_first)
    )
    result = TrainingResult()
    index_of: dict[DropoutVector, int] = {}

    size = min(settings.batch_size, len(data))
    seconds = _of_samples(_with_teacher(core_seconds, sub_step), size, settings.batch_size)
    budget = yield None
    while budget is not None and len(result.step_vectors) < job.num_batches:
        done = len(result.step_vectors)
        moment = Moment(
            table=sub_step.parts.table(table()) if sub_step.parts else table(),
            budget=budget,
            step=done,
            num_cores=num_cores,
            core_seconds=seconds,
            num_samples=size,
        )
        chosen = choose(moment)
        if isinstance(chosen, Pause):
            budget = yield chosen
            continue
        entry, largest, num_samples = chosen
        inputs, labels = data.batch(next(stream)[:num_samples])
        part_size = sub_step.parts.size(entry.vector, budget.memory_bytes) if sub_step.parts else len(inputs)
        step = sub_step.run(
            weights, optimizer, (entry.vector, largest.vector), done, inputs, labels, part_size
        )
        if not step.applied:
            if keep_state is not None:
                keep_state(None)
            raise WorldError(
                f"order {job.order}: loss or gradients are no longer finite (loss {step.loss}) "
                f"after {done} mini-batches; lower the learning rate"
            )
        if entry.vector not in index_of:
            index_of[entry.vector] = len(result.vectors)
            result.vectors.append(entry.vector)
        result.step_vectors.append(index_of[entry.vector])
        macs = (entry.macs + sub_step.teacher_macs(largest.vector)) * step.num_samples
        result.num_samples += step.num_samples
        result.macs += macs
        result.loss_sum += step.loss * step.num_samples
        budget = yield StepCost(
            vector=entry.vector,
            macs=macs,
            full_macs=moment.table.entries[-1].macs * step.num_samples,
            num_samples=step.num_samples,
            loss_sum=step.loss * step.num_samples,
            num_parts=-(-step.num_samples // part_size),
        )
    done = len(result.step_vectors)
    if 0 < done < job.num_batches and not settings.subnets.partial_work:
        return TrainingResult(
            reason=f"{done} of {job.num_batches} mini-batches were done in time, and a part does not count"
        )
    if done:
        if keep_state is not None:
            keep_state(optimizer.state)
        result.delta = {name: value - job.weights[name] for name, value in weights.items()}
        sub_step.silence_absent(result.delta)
    return result


def _sub_step(job: TrainingJob, data: Dataset, engine: Engine) -> SubStep:
    bundle = job.bundle
    draw = make_draw(
        bundle.settings.subnets, bundle.plan, seed=job.seed, round_number=job.round, weights=job.weights
    )
    settings = bundle.settings
    parts = None
    if settings.subnets.micro_batch:
        parts = MicroBatches(bundle.graph, bundle.plan, settings.batch_size, settings.subnets.micro_batch)
    class_counts = np.bincount(data.labels, minlength=bundle.graph.num_classes)
    return SubStep(engine, bundle.graph, bundle.plan, settings.subnets, draw, class_counts, parts)


def _of_samples(core_seconds: CoreSeconds, num_samples: int, batch_size: int) -> CoreSeconds:
    """Seconds of mini-batches that have fewer samples than ordered, because there are no more."""
    if num_samples == batch_size:
        return core_seconds
    return lambda entry: core_seconds(
        msgspec.structs.replace(entry, macs=max(1, entry.macs * num_samples // batch_size))
    )


def _with_teacher(core_seconds: CoreSeconds, sub_step: SubStep) -> CoreSeconds:
    """Seconds of an entry's mini-batch, those of a teacher of its own width included."""
    if not sub_step.settings.self_distillation:
        return core_seconds
    return lambda entry: core_seconds(
        msgspec.structs.replace(entry, macs=entry.macs + sub_step.teacher_macs(entry.vector))
    )
