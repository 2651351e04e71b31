"""Operators in NumPy that move values and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from models.engines.numpy.memory import Buffers
from models.engines.numpy.rule import Attributes, Rule, Wanted
from models.subnet import Array


def reshape(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """Reshape, where 0 copies a dimension and -1 infers one; the batch stays what it is."""
    wanted_sizes = tuple(attributes["shape"])[1:]

    def sizes(x: Array) -> tuple[int, ...]:
        made = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted_sizes)]
        if -1 in made:
            made[made.index(-1)] = math.prod(x.shape[:-1]) // -math.prod(made)
        return (*made, x.shape[-1])

    return _reshaped(sizes)


def flatten(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """Flatten everything but the batch."""
    return _reshaped(lambda x: (math.prod(x.shape[:-1]), x.shape[-1]))


def _reshaped(sizes: Callable[[Array], tuple[int, ...]]) -> Rule:
    def forward(_: Buffers, x: Array) -> tuple[Array, tuple[int, ...]]:
        return x.reshape(sizes(x)), x.shape

    def backward(_: Buffers, saved: tuple[int, ...], gradient: Array, _wanted: Wanted) -> tuple[Array]:
        return (gradient.reshape(saved),)

    return Rule(forward, backward)


def transpose(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """Transpose of all axes but the batch."""
    perm = [axis - 1 for axis in attributes["perm"][1:]]
    perm.append(len(perm))
    inverse = np.argsort(perm)

    def forward(_: Buffers, x: Array) -> tuple[Array, None]:
        return x.transpose(perm), None

    def backward(_: Buffers, _saved: None, gradient: Array, _wanted: Wanted) -> tuple[Array]:
        return (gradient.transpose(inverse),)

    return Rule(forward, backward)


def concatenate(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """Concat along an axis that is not the batch."""
    axis = attributes["axis"] - 1

    def part(start: int, size: int) -> tuple[slice, ...]:
        return (*(slice(None),) * axis, slice(start, start + size))

    def forward(buffers: Buffers, *xs: Array) -> tuple[Array, list[int]]:
        sizes = [x.shape[axis] for x in xs]
        shape = (*xs[0].shape[:axis], sum(sizes), *xs[0].shape[axis + 1 :])
        y, start = buffers.value(*shape), 0
        for x, size in zip(xs, sizes, strict=True):
            y[part(start, size)] = x
            start += size
        return y, sizes

    def backward(
        buffers: Buffers, saved: list[int], gradient: Array, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        made: list[Array | None] = []
        start = 0
        for size, is_wanted in zip(saved, wanted, strict=True):
            made.append(buffers.copy(gradient[part(start, size)]) if is_wanted else None)
            start += size
        return tuple(made)

    return Rule(forward, backward)
