"""How often each entry of each tensor was updated, at the resolution at which entries drop.

Entries of a tensor drop by channels of its axes, so all entries of one channel pair of a convolution's
kernel share a count: counts have the channels along each axis that shrinks, and 1 along the others.
While nothing of a tensor has ever been dropped, one number stands for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from models.subnet import Array, Subnet, cut, kept_rows, scatter
from models.widths import Segment, WidthPlan

_KEY = "count/"
"""Before a tensor's name: a sub-network remembers kept rows by name, and a tensor's are not its counts'."""


class UpdateCounts:
    """Counts of updates, float32 (exact to 2**24).

    Every step updates every tensor, so tensors of the same channels share their counts, under the name of
    the first of them.

    Args:
        plan: the width plan of the tensors that are updated.
        limit: counts stop here.
        counts: to go on from, in the names and shapes of `count_shapes`.
    """

    def __init__(self, plan: WidthPlan, limit: int, counts: Mapping[str, Array] | None = None) -> None:
        assert limit < 2**24, "float32 counts are exact up to here"
        self._coarse = _coarse_plan(plan)
        self._blocks = {name: tuple(map(_block, axes)) for name, axes in plan.axes.items()}
        self._shared = _shared_names(plan)
        self._limit = limit
        self._counts: dict[str, int | Array] = {
            name: int(values.flat[0]) if values.size and (values == values.flat[0]).all() else values
            for name, values in (counts or {}).items()
        }

    def add(self, names: Iterable[str], subnet: Subnet) -> dict[str, int | Array]:
        """Count one update of the kept entries of these tensors.

        Returns:
            By the name that `shared` gives: the kept entries' counts with this one, a number if they are
            the same for the whole tensor, else float32 that broadcasts against `blocks`.
        """
        return {name: self._add(name, subnet) for name in {self._shared[name]: None for name in names}}

    def _add(self, name: str, subnet: Subnet) -> int | Array:
        count, key = self._counts.get(name, 0), _KEY + name
        is_whole = kept_rows(self._coarse, key, subnet).rows is None
        if isinstance(count, int) and is_whole:
            self._counts[name] = count = min(count + 1, self._limit)
            return count
        self._counts[name] = full = self._array(name)
        kept = cut(self._coarse, {key: full}, subnet)[key]
        kept += 1
        np.minimum(kept, np.float32(self._limit), out=kept)
        scatter(self._coarse, {key: full}, {key: kept}, subnet)
        return kept.reshape([part for length in kept.shape for part in (length, 1)])

    def shared(self, name: str) -> str:
        """The name under which a tensor's counts are kept."""
        return self._shared[name]

    def blocks(self, name: str, kept: Array) -> Array:
        """A view of a tensor's dense kept entries against which its counts broadcast."""
        shape: list[int] = []
        for length, block in zip(kept.shape, self._blocks[name], strict=True):
            shape += (length // block, block)
        return kept.reshape(shape)

    def arrays(self) -> dict[str, Array]:
        """All counts, in the names and shapes of `count_shapes`; they share memory with these."""
        return {name: self._array(name) for name in self._counts}

    def _array(self, name: str) -> Array:
        count = self._counts.get(name, 0)
        if not isinstance(count, int):
            return count
        return np.full(_shape(self._coarse.axes[_KEY + name]), count, np.float32)


def count_shapes(plan: WidthPlan, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the counts of these tensors."""
    shared = _shared_names(plan)
    return {shared[name]: _shape(tuple(map(_coarse_axis, plan.axes[name]))) for name in names}


def _shared_names(plan: WidthPlan) -> dict[str, str]:
    """For each tensor the first one whose entries drop just as its own do."""
    first: dict[tuple[tuple[Segment, ...], ...], str] = {}
    return {name: first.setdefault(tuple(map(_coarse_axis, axes)), name) for name, axes in plan.axes.items()}


def _coarse_plan(plan: WidthPlan) -> WidthPlan:
    return WidthPlan(
        groups=plan.groups,
        axes={_KEY + name: tuple(map(_coarse_axis, axes)) for name, axes in plan.axes.items()},
        values={},
    )


def _coarse_axis(axis: tuple[Segment, ...]) -> tuple[Segment, ...]:
    if all(segment.group is None for segment in axis):
        return (Segment(None, 1),)
    block = _block(axis)
    return tuple(Segment(segment.group, segment.num_channels, segment.repeat // block) for segment in axis)


def _block(axis: tuple[Segment, ...]) -> int:
    """Consecutive entries along an axis that share a count."""
    if all(segment.group is None for segment in axis):
        return sum(segment.num_channels * segment.repeat for segment in axis)
    return math.gcd(*(segment.repeat for segment in axis))


def _shape(axes: tuple[tuple[Segment, ...], ...]) -> tuple[int, ...]:
    return tuple(sum(segment.num_channels * segment.repeat for segment in axis) for axis in axes)
