"""How many mini-batches of an update trained each entry of each tensor, by replaying its draws.

The counts are exact and cost nothing on the wire. With the kept channels of each mini-batch as rows of 0/1
matrices O and I (mini-batches x output or input channels), the number of mini-batches that held a pair of
channels is the matrix product O^T I, once a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.draws import Draw
from models.random_draw import RandomDraw
from models.subnet import DropoutVector, full_vector
from models.widths import Segment, WidthPlan

CHUNK_STEPS = 512
"""Mini-batches replayed at a time, so that memory does not grow with the length of an update."""


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

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Blocks along each axis that shrinks: the shape of the counts."""
        return tuple(len(axis.columns) for axis in self.axes)


Counts = NDArray[np.float32]
"""Of a layout's blocks, in the shape of `Touches.zeros`; exact to 2**24 mini-batches."""


class Touches:
    """Counts of the entries of one network.

    Args:
        plan: the width plan that the devices trained with.
        names: the tensors.
        class_names: tensors of the last layer whose rows of masked classes count as not trained.
        num_classes: rows of these.
    """

    def __init__(
        self, plan: WidthPlan, names: Iterable[str], class_names: Sequence[str] = (), num_classes: int = 0
    ) -> None:
        self._full = full_vector(plan)
        # Column 0 of the matrix of kept channels is "always kept"; the groups follow, and then the classes.
        sizes = [1, *self._full, num_classes]
        self._starts = np.cumsum(sizes)
        classes = (Segment(len(self._full), num_classes),)
        distinct: dict[tuple[tuple[Segment, ...], ...], int] = {}
        self._layout_of: dict[str, int] = {}
        for name in names:
            axes = plan.axes[name]
            axes = (classes, *axes[1:]) if name in class_names else axes
            self._layout_of[name] = distinct.setdefault(axes, len(distinct))
        self._layouts = tuple(_lay_out(axes, self._starts) for axes in distinct)

    def index(self, name: str) -> int:
        """Place of a tensor's counts: tensors whose entries drop alike share theirs."""
        return self._layout_of[name]

    def zeros(self) -> list[Counts]:
        """Counts of nothing."""
        return [np.zeros(layout.num_blocks, np.float32) for layout in self._layouts]

    def count(
        self,
        draw: Draw,
        vectors: Sequence[DropoutVector],
        step_vectors: Sequence[int],
        is_present: NDArray[np.bool_] | None = None,
    ) -> list[Counts]:
        """Mini-batches that trained each block.

        Args:
            draw: of the order.
            vectors: the distinct dropout vectors used.
            step_vectors: for each mini-batch the index of its vector.
            is_present: bool [classes], those that were not masked; None: all.
        """
        counts: list[Counts] = []
        for start in range(0, len(step_vectors), CHUNK_STEPS):
            kept = self._replay(draw, vectors, step_vectors[start : start + CHUNK_STEPS], start)
            if is_present is not None:
                kept[:, self._starts[-2] :] = is_present
            of_columns = np.ones(len(kept), np.float32) @ kept
            chunk = [_count(kept, of_columns, layout) for layout in self._layouts]
            counts = [np.add(*both) for both in zip(counts, chunk, strict=True)] if counts else chunk
        return counts or self.zeros()

    def spread(self, blocks: NDArray, index: int) -> NDArray:
        """Blocks' values as an array that broadcasts against the tensors of that place."""
        layout = self._layouts[index]
        for axis, block in enumerate(layout.axes):
            if block.lengths is not None:
                blocks = np.repeat(blocks, block.lengths, axis=axis)
        return blocks.reshape(layout.shape)

    def _replay(
        self, draw: Draw, vectors: Sequence[DropoutVector], step_vectors: Sequence[int], first_step: int
    ) -> NDArray[np.float32]:
        """Matrix [mini-batches, 1 + channels of all groups + classes]: 1 where it kept the channel."""
        kept = np.zeros((len(step_vectors), int(self._starts[-1])), dtype=np.float32)
        kept[:, 0] = 1
        kept[:, self._starts[-2] :] = 1
        if isinstance(draw, RandomDraw):
            used = [vectors[index] for index in step_vectors]
            kept[:, self._starts[0] : self._starts[-2]] = draw.replay(used, first_step)
            return kept
        for row, index in enumerate(step_vectors):
            vector = vectors[index]
            if vector == self._full:
                kept[row] = 1
                continue
            for start, channels in zip(self._starts, draw(vector, first_step + row).kept, strict=False):
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


def _count(kept: NDArray[np.float32], of_columns: Counts, layout: _Layout) -> Counts:
    """Steps that kept every block: sums of 0 and 1, exact in float32 for a chunk of steps."""
    if not layout.axes:
        return np.float32(len(kept)).reshape(())
    if len(layout.axes) == 1:
        return of_columns[layout.axes[0].columns]
    # [steps, blocks of all axes but the last] x [steps, blocks of the last]
    joint = kept[:, layout.axes[0].columns]
    for axis in layout.axes[1:-1]:
        joint = (joint[:, :, None] * kept[:, None, axis.columns]).reshape(len(kept), -1)
    return (joint.T @ kept[:, layout.axes[-1].columns]).reshape(layout.num_blocks)
