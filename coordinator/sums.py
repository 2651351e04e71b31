"""Weighted sums of many sets of float32 tensors: nearly as fast as memory allows, nearly as exact as float64.

Each set is multiplied and added in one pass (BLAS axpy) to a float32 partial sum; a few sets at a time it
goes into a float64 total. So most additions move half as many bytes as in float64, and rounding errors grow
with the sets of one partial sum only, and not with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from models.subnet import Array

PARTIAL_SETS = 16
"""Sets of one partial sum. More would hardly save time and lose accuracy."""

MAX_RATIO = 2.0**16
"""Between factors of one partial sum, so that float32 holds all of it."""

MIN_ROW_ENTRIES = 4
"""Rows of fewer entries are masked by multiplication; longer ones are put back faster."""

Key = TypeVar("Key", bound=Hashable)
[_saxpy] = get_blas_funcs(("axpy",), dtype=np.float32)
[_daxpy] = get_blas_funcs(("axpy",), dtype=np.float64)


class WeightedSums(Generic[Key]):
    """The sum of factor x set over sets of tensors; memory: 12 bytes for each entry of one set.

    Args:
        shapes: of every tensor by its key.
    """

    def __init__(self, shapes: Mapping[Key, tuple[int, ...]]) -> None:
        self._shapes = dict(shapes)
        sizes = {key: math.prod(shape) for key, shape in self._shapes.items()}
        self._totals = {key: np.zeros(size) for key, size in sizes.items()}
        self._partials = {key: np.zeros(size, np.float32) for key, size in sizes.items()}
        # Partial sums are in units of their first set's factor: what is added has the size of the sets.
        self._unit = 1.0
        self._num_partial = 0

    def add(
        self,
        tensors: Mapping[Key, Array],
        factor: float,
        masks: Mapping[Key, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Add one set.

        Args:
            tensors: finite float32 in the shapes given, whatever their order in memory.
            factor: more than 0, finite.
            masks: key -> true for the entries to add, in a shape that broadcasts to the tensor's; a tensor
                without one is added whole.
        """
        if self._num_partial == PARTIAL_SETS or not 1 / MAX_RATIO <= factor / self._unit <= MAX_RATIO:
            self._settle()
        if self._num_partial == 0:
            self._unit = factor
        self._num_partial += 1
        for key, partial in self._partials.items():
            mask = None if masks is None else masks.get(key)
            if mask is None:
                _add(partial, tensors[key], factor / self._unit)
            else:
                _add_masked(partial, tensors[key], factor / self._unit, mask)

    def total(self, key: Key) -> NDArray[np.float64]:
        """The sum for one tensor: float64 in its shape, a copy."""
        found = self._partials[key].astype(np.float64)
        found *= self._unit
        found += self._totals[key]
        return found.reshape(self._shapes[key])

    def _settle(self) -> None:
        """Move the partial sums into the totals."""
        for key, partial in self._partials.items():
            if partial.size:
                _daxpy(partial, self._totals[key], a=self._unit)
            partial.fill(0.0)
        self._num_partial = 0


def _add(partial: Array, tensor: Array, ratio: float) -> None:
    """Partial, which is flat, += ratio x tensor."""
    if partial.size:
        _saxpy(tensor.reshape(-1), partial, a=ratio)


def _add_masked(partial: Array, tensor: Array, ratio: float, mask: NDArray[np.bool_]) -> None:
    """Add where the mask is true; elsewhere the partial sum stays as it is, to the bit.

    Trailing axes that the mask does not tell apart make rows of entries, added together or not at all.
    """
    num_axes = max((axis + 1 for axis, length in enumerate(mask.shape) if length > 1), default=0)
    row_entries = math.prod(tensor.shape[num_axes:])
    if row_entries < MIN_ROW_ENTRIES:
        _add(partial, tensor * mask, ratio)
        return
    rows = partial.view(np.dtype((np.void, partial.itemsize * row_entries)))  # gathered faster than entries
    is_added = np.broadcast_to(mask.reshape(mask.shape[:num_axes]), tensor.shape[:num_axes])
    left_out = np.flatnonzero(~is_added)
    before = rows.take(left_out)
    _add(partial, tensor, ratio)
    rows[left_out] = before
