"""Calibration: how long this board takes for the vectors of a table, measured and fitted.

Some vectors of the table are timed with the real training step and the cost model (`models.cost_fit`) is
fitted to them; others are timed to see how well it predicts what it was not fitted to. Mini-batches of all
of them are interleaved, so that what disturbs the board disturbs all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.cost import CostModel
from models.cost_fit import CHANNEL_BLOCKS, Floats, StepCoefficients, fit, relative_errors
from models.engines.engine import Engine
from models.optim.optimizer import Optimizer
from models.optim.settings import DEFAULT_RATES
from models.step import training_step
from models.subnet import Array, DropoutVector, sample
from models.table import ParetoTable
from models.zoo.initial import initial_weights

STEPS_A_VISIT = 2
"""Steps timed in a row, after one that is not: a library keeps what it prepared for these shapes."""

_LEAST_PRESENCE = 0.8
"""On one thread: share of the wall's time that a step computed; below it others had taken the core."""

_LEAST_STEPS = 3
_TINY_RATE = 1e-6  # weights hardly move, so that nothing can blow up however long it is timed

Clocks = tuple[Callable[[], float], Callable[[], float]]
LIVE_CLOCKS: Clocks = (time.process_time, time.perf_counter)
"""Core-seconds of this process, and the wall's seconds."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one vector.

    Attributes:
        vector: kept channels of each width group.
        core_seconds: of one core for a mini-batch: the median.
        num_steps: steps that count. num_disturbed: steps that were left out.
    """

    vector: DropoutVector
    core_seconds: float
    num_steps: int
    num_disturbed: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a board takes for the vectors of a table.

    Attributes:
        fitted: what the model was fitted to. validated: what it was then compared with.
        errors: relative error of each of `validated` as predicted from `fitted`; where nothing was left
            to validate, of each of `fitted` as predicted from the others.
        coefficients: fitted to everything measured.
        exact_coefficients: likewise with MACs as they are, for profiles and simulations.
        table: with core_seconds of every entry: measured, or predicted.
    """

    fitted: tuple[Timing, ...]
    validated: tuple[Timing, ...]
    errors: tuple[float, ...]
    coefficients: StepCoefficients
    exact_coefficients: StepCoefficients
    table: ParetoTable

    @property
    def median_error(self) -> float:
        """The median of the errors, as a share."""
        return statistics.median(self.errors)

    @property
    def worst_error(self) -> float:
        """The largest error, as a share."""
        return max(self.errors)


def spread(table: ParetoTable, num_vectors: int) -> tuple[list[int], list[int]]:
    """Choose which entries to time: for the fit, both ends among them, and for validation between them.

    Args:
        table: to choose from.
        num_vectors: for the fit, 2 or more; a small table gives up to two thirds of its entries.

    Returns:
        Indices of entries, rising: as many others for validation as for the fit, if there are.
    """
    size = len(table.entries)
    num_fitted = min(num_vectors, max(min(size, 3), -(-2 * size // 3)))
    fitted = _evenly(list(range(size)), num_fitted)
    others = [index for index in range(size) if index not in fitted]
    return fitted, _evenly(others, min(len(others), num_vectors))


def calibrate(
    bundle: Bundle,
    engine: Engine,
    *,
    inputs: Array,
    targets: Mapping[str, NDArray],
    num_vectors: int,
    num_repeats: int,
    num_threads: int,
    clocks: Clocks = LIVE_CLOCKS,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Calibration:
    """Time vectors of the bundle's table, and fit and validate the cost model.

    Args:
        bundle: network, table and settings; its batch size is the table's.
        engine: of the bundle.
        inputs: float32 [batch_size, *input_shape].
        targets: what the loss wants of them.
        num_vectors: for the fit, 2 or more.
        num_repeats: passes over all vectors, 1 or more.
        num_threads: of the engine.
        clocks: core-seconds and wall seconds.
        on_progress: told the passes done, and of how many.
    """
    table = bundle.table
    fitted, validated = spread(table, num_vectors)
    vectors = [table.entries[index].vector for index in (*fitted, *validated)]
    step = _make_step(bundle, engine, inputs, targets)
    timings = time_steps(
        step, vectors, num_repeats, clocks=clocks, one_thread=num_threads == 1, on_progress=on_progress
    )
    model = CostModel(bundle.graph, bundle.plan, table.batch_size)
    return conclude(
        model, table, timings[: len(fitted)], timings[len(fitted) :], CHANNEL_BLOCKS.get(engine.name, 1)
    )


def time_steps(
    step: Callable[[DropoutVector], object],
    vectors: Sequence[DropoutVector],
    num_repeats: int,
    *,
    clocks: Clocks = LIVE_CLOCKS,
    one_thread: bool = True,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Timing]:
    """Time a step with each vector, in passes over all of them whose order changes.

    A pass in which everything was slow is divided by how slow it was as a whole; then the median counts.

    Args:
        step: makes one with a vector.
        vectors: to be timed.
        num_repeats: passes.
        clocks: core-seconds and wall seconds.
        one_thread: whether a step's core-seconds should be the wall's; steps in which the core was
            taken away are left out then, unless too few others are left.
        on_progress: told the passes done, and of how many.
    """
    cpu_clock, wall_clock = clocks
    shape = (len(vectors), num_repeats, STEPS_A_VISIT)
    core_s, present = np.empty(shape), np.ones(shape)
    order = np.random.default_rng(0)
    for vector in vectors:
        step(vector)  # has the library set itself up
    for repeat in range(num_repeats):
        for index in order.permutation(len(vectors)):
            step(vectors[index])
            for visit in range(STEPS_A_VISIT):
                cpu_began_s, wall_began_s = cpu_clock(), wall_clock()
                step(vectors[index])
                core_s[index, repeat, visit] = cpu_clock() - cpu_began_s
                wall_s = wall_clock() - wall_began_s
                if one_thread and wall_s > 0:
                    present[index, repeat, visit] = core_s[index, repeat, visit] / wall_s
        on_progress(repeat + 1, num_repeats)
    core_s = np.maximum(core_s, 1e-9)  # a coarse clock may see nothing pass
    slowness = np.median(core_s / np.median(core_s, axis=(1, 2), keepdims=True), axis=(0, 2))
    core_s /= slowness[None, :, None]
    return [
        _timing(vector, core_s[index].ravel(), present[index].ravel() >= _LEAST_PRESENCE)
        for index, vector in enumerate(vectors)
    ]


def conclude(
    model: CostModel,
    table: ParetoTable,
    fitted: Sequence[Timing],
    validated: Sequence[Timing],
    channel_block: int = 1,
) -> Calibration:
    """Fit to some timings, compare with others, and rewrite the table from all of them.

    Args:
        model: the costs of the network at the table's batch size.
        table: its other fields stay.
        fitted: at least one.
        validated: any number.
        channel_block: see `models.cost_fit.StepCoefficients`.
    """
    first = fit(model, _vectors(fitted), _seconds(fitted), channel_block)
    if validated:
        predicted = first.coefficients.predict(model, _vectors(validated))
        errors = relative_errors(predicted, np.array(_seconds(validated)))
    else:
        errors = np.abs(first.left_out_errors)
    both = (*fitted, *validated)
    coefficients = fit(model, _vectors(both), _seconds(both), channel_block).coefficients
    exact = fit(model, _vectors(both), _seconds(both)).coefficients
    return Calibration(
        fitted=tuple(fitted),
        validated=tuple(validated),
        errors=tuple(float(error) for error in errors),
        coefficients=coefficients,
        exact_coefficients=exact,
        table=_rewritten(table, both, coefficients.predict(model, [e.vector for e in table.entries])),
    )


def _rewritten(table: ParetoTable, timings: Sequence[Timing], predicted: Floats) -> ParetoTable:
    measured = {timing.vector: timing.core_seconds for timing in timings}
    entries = tuple(
        msgspec.structs.replace(entry, core_seconds=_rounded(measured.get(entry.vector, float(seconds))))
        for entry, seconds in zip(table.entries, predicted, strict=True)
    )
    return msgspec.structs.replace(table, entries=entries)


def _make_step(
    bundle: Bundle, engine: Engine, inputs: Array, targets: Mapping[str, NDArray]
) -> Callable[[DropoutVector], object]:
    settings = bundle.settings.optimizer
    weights = {
        name: value
        for name, value in initial_weights(bundle.graph, 0).items()
        if name in bundle.graph.parameters
    }
    rate = _TINY_RATE * (settings.learning_rate or DEFAULT_RATES[settings.method])
    optimizer = Optimizer(settings, learning_rate=rate)
    num_steps = 0

    def step(vector: DropoutVector) -> object:
        nonlocal num_steps
        num_steps += 1
        subnet = sample(bundle.plan, vector, 0, num_steps)
        return training_step(engine, bundle.plan, weights, optimizer, subnet, inputs, targets)

    return step


def _timing(vector: DropoutVector, core_s: Floats, undisturbed: NDArray[np.bool_]) -> Timing:
    if undisturbed.sum() < min(_LEAST_STEPS, len(core_s)):
        undisturbed = np.ones(len(core_s), bool)
    return Timing(
        vector=vector,
        core_seconds=float(np.median(core_s[undisturbed])),
        num_steps=int(undisturbed.sum()),
        num_disturbed=int((~undisturbed).sum()),
    )


def _evenly(indices: list[int], count: int) -> list[int]:
    """So many of them with even gaps, the ends among them."""
    if count <= 0:
        return []
    places = np.linspace(0, len(indices) - 1, count) if count > 1 else np.array([(len(indices) - 1) / 2])
    return sorted({indices[round(float(place))] for place in places})


def _vectors(timings: Sequence[Timing]) -> list[DropoutVector]:
    return [timing.vector for timing in timings]


def _seconds(timings: Sequence[Timing]) -> list[float]:
    return [timing.core_seconds for timing in timings]


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
