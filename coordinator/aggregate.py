"""Aggregation of updates of any sub-networks: streaming, in O(model) memory.

For update i let n_i be its samples (times a caller's weight), d_i its delta, and s_i[e] the share of
its mini-batches whose sub-network held entry e. With N = sum n_i the new weights are

    w'[e] = w[e] + sum_i n_i d_i[e] / max( sum_i n_i s_i[e], N / cap )     where some s_i[e] > 0
    w'[e] = w[e]                                                          elsewhere

This is the mean of the deltas *per trained mini-batch*, d_i / s_i, with entry weight n_i s_i: an
entry that half of the batches trained is not diluted by the other half. An entry that hardly any
batch trained is raised at most `cap` times, because its delta is mostly noise. Where every update
is full, s_i = 1 and the rule is FedAvg.

The s_i are exact and cost nothing on the wire: the coordinator replays the draws. With the kept
channels of each step as rows of 0/1 matrices O and I (steps x output or input channels), the
number of steps that held a pair of channels is the matrix product O^T I, once a tensor.

References:
    DISTREAL, arXiv 2112.08761, trains a random sub-network per mini-batch. How its server combines
    them is not published in detail: this rule is a reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError, UserError
from models.subnet import Array, DropoutVector, Subnet, check_vector, full_vector, sample
from models.weights import check_against
from models.widths import Segment, WidthPlan

Draw = Callable[[WidthPlan, DropoutVector, int, int], Subnet]
"""(plan, vector, seed, step) -> the sub-network that this step trained."""

CHUNK_STEPS = 512
"""Steps replayed at a time, so that memory does not grow with the length of an update."""

MAX_NORM_RATIO = 10.0
"""A delta's L2 norm over the weights' own (or 1): more is no training, but would ruin the model for all."""


@dataclass(frozen=True)
class _Axis:
    """One axis that shrinks: blocks of entries that are always touched together.

    Attributes:
        columns: for each block its column in the matrix of kept channels.
        lengths: for each block its number of consecutive entries, or None where all are 1.
    """

    columns: NDArray[np.intp]
    lengths: NDArray[np.intp] | None


@dataclass(frozen=True)
class _Layout:
    """How a tensor's touch counts are laid out. Tensors of one layout share their counts.

    Attributes:
        axes: the axes that shrink; empty for a tensor that is always whole.
        shape: shape of the counts, spread to broadcast against the tensor: 1 on the other axes.
    """

    axes: tuple[_Axis, ...]
    shape: tuple[int, ...]


class Aggregator:
    """Folds updates into one new set of weights.

    Args:
        plan: the width plan that the devices trained with.
        base: the weights before the round, float32; not modified.
        cap: an entry's mean delta is raised at most this many times, 1 or more.
        draw: how the devices chose the kept channels of a step.

    Attributes:
        num_updates: updates folded so far.
        num_samples: their samples, weights left out.
    """

    def __init__(
        self, plan: WidthPlan, base: Mapping[str, Array], cap: float = 8.0, draw: Draw = sample
    ) -> None:
        if not cap >= 1:
            raise ValueError(f"cap is {cap}: below 1 it would weaken entries that every batch trained")
        self.num_updates = 0
        self.num_samples = 0
        self._plan = plan
        self._base = base
        self._cap = cap
        self._draw = draw
        self._full = full_vector(plan)
        # Column 0 of the matrix of kept channels is "always kept"; the groups follow.
        self._starts = np.cumsum([1, *(group.num_channels for group in plan.groups)])
        distinct: dict[tuple[tuple[Segment, ...], ...], int] = {}
        self._layout_of = {name: distinct.setdefault(plan.axes[name], len(distinct)) for name in base}
        self._layouts = tuple(_lay_out(axes, self._starts) for axes in distinct)
        self._touched = [np.zeros(_counts_shape(layout)) for layout in self._layouts]
        self._sums = {name: np.zeros(tensor.shape) for name, tensor in base.items()}
        self._weight = 0.0

    def fold(
        self,
        delta: Mapping[str, Array],
        num_samples: int,
        vectors: Sequence[DropoutVector],
        step_vectors: Sequence[int],
        seed: int,
        weight: float = 1.0,
    ) -> None:
        """Add one update. An update that is refused changes nothing.

        The caller bounds `len(step_vectors)` by the batches it ordered: each is replayed.

        Args:
            delta: weights after minus weights before, float32, full shapes.
            num_samples: samples trained, 1 or more.
            vectors: the distinct dropout vectors used.
            step_vectors: for each mini-batch the index of its vector.
            seed: seed of the draws.
            weight: multiplies the samples, more than 0; for instance less for a stale update.

        Raises:
            PeerError: the update does not fit the model, or holds values that cannot be used.
        """
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight is {weight}: leave the update out instead of folding it with no weight")
        _check_delta(delta, self._base)
        _check_steps(self._plan, num_samples, vectors, step_vectors)
        counts = self._count_touches(vectors, step_vectors, seed)
        amount = num_samples * weight
        for index, count in enumerate(counts):
            self._touched[index] += count / len(step_vectors) * amount
        for name, index in self._layout_of.items():
            part = delta[name] * np.float64(amount)
            if not counts[index].all():
                # What a device says about entries it did not train is not listened to.
                part = np.where(_spread(counts[index] > 0, self._layouts[index]), part, 0.0)
            self._sums[name] += part
        self._weight += amount
        self.num_updates += 1
        self.num_samples += num_samples

    def finish(self) -> dict[str, Array]:
        """The new weights: float32, full shapes, copies. Folding may go on afterwards."""
        new: dict[str, Array] = {}
        for name, tensor in self._base.items():
            touched = self._touched[self._layout_of[name]]
            # Divided by infinity, an entry that nobody trained keeps its value.
            divisor = np.where(touched > 0, np.maximum(touched, self._weight / self._cap), np.inf)
            mean = self._sums[name] / _spread(divisor, self._layouts[self._layout_of[name]])
            # Adding in float64 and rounding once is what float32 addition does with a float32 mean.
            new[name] = np.asarray(tensor + mean, dtype=np.float32)
        return new

    def _count_touches(
        self, vectors: Sequence[DropoutVector], step_vectors: Sequence[int], seed: int
    ) -> list[NDArray[np.float64]]:
        """For each layout, how many steps touched each block."""
        counts = [np.zeros(_counts_shape(layout)) for layout in self._layouts]
        for start in range(0, len(step_vectors), CHUNK_STEPS):
            kept = self._replay(vectors, step_vectors[start : start + CHUNK_STEPS], seed, start)
            for index, layout in enumerate(self._layouts):
                counts[index] += _count(kept, layout)
        return counts

    def _replay(
        self, vectors: Sequence[DropoutVector], step_vectors: Sequence[int], seed: int, first_step: int
    ) -> NDArray[np.float32]:
        """Matrix [steps, 1 + channels of all groups]: 1 where the step kept the channel."""
        kept = np.zeros((len(step_vectors), int(self._starts[-1])), dtype=np.float32)
        kept[:, 0] = 1
        for row, index in enumerate(step_vectors):
            vector = vectors[index]
            if vector == self._full:
                kept[row] = 1
                continue
            subnet = self._draw(self._plan, vector, seed, first_step + row)
            for start, channels in zip(self._starts, subnet.kept, strict=False):
                kept[row, start + channels] = 1
        return kept


def _lay_out(axes: tuple[tuple[Segment, ...], ...], starts: NDArray[np.intp]) -> _Layout:
    """Blocks of a tensor, from the segments of its axes."""
    shrinking: list[_Axis] = []
    shape: list[int] = []
    for segments in axes:
        if all(segment.group is None for segment in segments):
            shape.append(1)
            continue
        columns: list[int] = []
        lengths: list[int] = []
        for segment in segments:
            if segment.group is None:
                columns.append(0)
                lengths.append(segment.num_channels * segment.repeat)
            else:
                columns.extend(range(starts[segment.group], starts[segment.group] + segment.num_channels))
                lengths.extend([segment.repeat] * segment.num_channels)
        plain = all(length == 1 for length in lengths)
        shrinking.append(_Axis(np.array(columns), None if plain else np.array(lengths)))
        shape.append(sum(lengths))
    return _Layout(tuple(shrinking), tuple(shape))


def _counts_shape(layout: _Layout) -> tuple[int, ...]:
    return tuple(len(axis.columns) for axis in layout.axes)


def _count(kept: NDArray[np.float32], layout: _Layout) -> NDArray[np.floating]:
    """Steps that kept every block: sums of 0 and 1, exact in float32 for a chunk of steps."""
    if not layout.axes:
        return np.float32(len(kept)).reshape(())
    # [steps, blocks of all axes but the last] x [steps, blocks of the last]
    joint = kept[:, layout.axes[0].columns]
    if len(layout.axes) == 1:
        return joint.sum(axis=0)
    for axis in layout.axes[1:-1]:
        joint = (joint[:, :, None] * kept[:, None, axis.columns]).reshape(len(kept), -1)
    return (joint.T @ kept[:, layout.axes[-1].columns]).reshape(_counts_shape(layout))


def _spread(blocks: NDArray, layout: _Layout) -> NDArray:
    """Blocks' values as an array that broadcasts against the tensor."""
    for index, axis in enumerate(layout.axes):
        if axis.lengths is not None:
            blocks = np.repeat(blocks, axis.lengths, axis=index)
    return blocks.reshape(layout.shape)


def _check_delta(delta: Mapping[str, Array], base: Mapping[str, Array]) -> None:
    check_against(delta, {name: tensor.shape for name, tensor in base.items()})
    largest = max((float(np.abs(values).max(initial=0.0)) for values in delta.values()), default=0.0)
    limit = MAX_NORM_RATIO * max(1.0, _norm(base))
    # The largest entry first: its square might not be a float32.
    if largest > limit or _norm(delta) > limit:
        raise PeerError(
            f"the delta is over {MAX_NORM_RATIO:g} times as large as the weights "
            f"(an entry moves by {largest:g}): that is no training"
        )


def _norm(tensors: Mapping[str, Array]) -> float:
    """L2 norm of all entries together."""
    return math.sqrt(
        sum(float(np.dot(values.reshape(-1), values.reshape(-1))) for values in tensors.values())
    )


def _check_steps(
    plan: WidthPlan, num_samples: int, vectors: Sequence[DropoutVector], step_vectors: Sequence[int]
) -> None:
    if num_samples < 1 or not step_vectors:
        raise PeerError(f"update of {num_samples} samples and {len(step_vectors)} steps trained nothing")
    if not 0 <= min(step_vectors) <= max(step_vectors) < len(vectors):
        raise PeerError(
            f"steps name vectors {min(step_vectors)} to {max(step_vectors)}, the update has {len(vectors)}"
        )
    try:
        for vector in vectors:
            check_vector(plan, vector)
    except UserError as error:
        raise PeerError(f"update cannot be replayed: {error}") from error
