"""Where the numpy engine's arrays lie: the order of their axes in memory, and buffers used again.

Inside the engine the batch is the last axis: a value of `ModelGraph.shapes` [C, H, W] is an array
[C, H, W, N]. Its memory order is [H, C, W, N]. A row of pixels is then one [C, W * N] matrix, which
matrix products take as it lies; a shift along W moves whole runs of N; and rows that follow each other
are one matrix of C times as many rows, so that a convolution need not copy its vertical taps.
Values of other ranks lie in plain row-major order.
"""

from __future__ import annotations

import bisect
import math
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.subnet import Array

AnyArray = TypeVar("AnyArray", bound=NDArray[Any])

_MIN_KEPT_VALUES = 4096
"""Smaller arrays are left to the C library, which does not return their memory to the system."""

_MAX_WASTE = 2
"""A buffer serves requests down to this part of its size."""

_CACHE_VALUES = 128 * 1024
"""Values of one array in a block that several passes work on: it stays in a core's second-level cache."""


class Buffers:
    """Float32 memory that serves again as soon as no array lies in it any more.

    A fresh large array costs a page fault for every 4 KiB, and frees them again; a training step needs
    the same sizes over and over. An array taken here is used like any other; that nothing refers to it
    any more is read from the buffer's reference count, which views share. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._buffers: list[Array] = []  # rising by size
        self._last_taken: list[int] = []
        self._step = 0

    def next_step(self) -> None:
        """Drop the buffers that the last step had no use for."""
        used = [index for index, step in enumerate(self._last_taken) if step == self._step]
        self._step += 1
        self._buffers = [self._buffers[index] for index in used]
        self._last_taken = [0] * len(used)

    def take(self, *shape: int) -> Array:
        """An array in row-major order, its values undefined."""
        num_values = math.prod(shape)
        if num_values < _MIN_KEPT_VALUES:
            return np.empty(shape, np.float32)
        index = self._find(num_values)
        self._last_taken[index] = self._step
        return self._buffers[index][:num_values].reshape(shape)

    def value(self, *shape: int) -> Array:
        """An array [C, ..., N] in the memory order of values of its rank, undefined."""
        if len(shape) != 4:
            return self.take(*shape)
        channels, height, width, batch = shape
        return self.take(height, channels, width, batch).transpose(1, 0, 2, 3)

    def like(self, x: Array) -> Array:
        """An array in the shape and the memory order of a value, undefined."""
        return self.value(*x.shape)

    def copy(self, x: Array) -> Array:
        """A copy of a value."""
        made = self.like(x)
        np.copyto(made, x)
        return made

    def marks(self, x: Array, dtype: type[np.integer]) -> NDArray[Any]:
        """As `like`, of small integers."""
        made = self.take(-(-x.size * np.dtype(dtype).itemsize // 4)).view(dtype)[: x.size]
        return from_planes(made.reshape(planes_shape(x.shape)), x.shape)

    def _find(self, num_values: int) -> int:
        start = bisect.bisect_left(self._buffers, num_values, key=len)
        for index in range(start, len(self._buffers)):
            if len(self._buffers[index]) > _MAX_WASTE * num_values:
                break
            if _count_references(self._buffers, index) == _IDLE_REFERENCES:
                return index
        self._buffers.insert(start, np.empty(num_values, np.float32))
        self._last_taken.insert(start, self._step)
        return start


def _count_references(buffers: list[Array], index: int) -> int:
    return sys.getrefcount(buffers[index])


_IDLE_REFERENCES = _count_references([np.empty(1, np.float32)], 0)
"""Of a buffer in which no array lies."""


def rows(x: Array) -> Array:
    """A value [C, H, W, N] as its memory [H, C, W, N], contiguous; a copy only if it lies otherwise."""
    return np.ascontiguousarray(x.transpose(1, 0, 2, 3))


def planes_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A, C, B of a value [C, ..., N]: its memory is A times C runs of B values."""
    num_planes = shape[1] if len(shape) == 4 else 1
    return num_planes, shape[0], math.prod(shape[1:]) // num_planes


def planes(x: Array) -> Array:
    """A value [C, ..., N] as [A, C, B], see `planes_shape`; a copy only if it lies otherwise."""
    lying = rows(x) if x.ndim == 4 else np.ascontiguousarray(x)
    return lying.reshape(planes_shape(x.shape))


def from_planes(x: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    """Inverse of `planes`: a view of [A, C, B] as a value of this shape."""
    if len(shape) != 4:
        made: Any = x.reshape(shape)
        return made
    channels, height, width, batch = shape
    lying: Any = x.reshape(height, channels, width, batch)
    return lying.transpose(1, 0, 2, 3)


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Parts of an array [A, C, ...] that fit the cache, as slices of its first two axes."""
    num_planes, num_channels = shape[:2]
    plane = max(1, math.prod(shape[1:]))
    if num_planes > 1:
        size = max(1, _CACHE_VALUES // plane)
        for start in range(0, num_planes, size):
            yield slice(start, start + size), slice(None)
    else:
        size = max(1, _CACHE_VALUES * num_channels // plane)
        for start in range(0, num_channels, size):
            yield slice(None), slice(start, start + size)


def channel_sums(x: Array) -> Array:
    """Sums over A and B of [A, C, B]: [C]. A product with ones, which is faster than `sum`."""
    return np.matmul(x, np.ones(x.shape[2], np.float32)).sum(axis=0)


def channel_products(x: Array, y: Array) -> Array:
    """Sums of x * y over A and B of two arrays [A, C, B]: [C]."""
    return np.matmul(x[:, :, None, :], y[:, :, :, None])[:, :, 0, 0].sum(axis=0)
