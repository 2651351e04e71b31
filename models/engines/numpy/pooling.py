"""Pooling in NumPy: one axis after the other, columns first.

The largest of a window is the largest of its rows' largest, and the first row that has it, then the
first column of that row that has it, is the first of the window in row-major order, as in torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.engines.numpy.memory import Buffers
from models.engines.numpy.rule import Attributes, Rule, Wanted
from models.engines.numpy.window import Slide, slides_of
from models.subnet import Array


class _Winners(NamedTuple):
    """Which tap was the largest along one axis of a value.

    Attributes:
        slide: the window along that axis.
        axis: of the value.
        shape: of what was pooled.
        taps: number of the first tap with the largest value, in the shape of what came out.
    """

    slide: Slide
    axis: int
    shape: tuple[int, ...]
    taps: NDArray[Any]


def maximum_pool(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """MaxPool in one or two dimensions."""
    slides = slides_of(attributes)

    def forward(buffers: Buffers, x: Array) -> tuple[Array, list[_Winners]]:
        saved = []
        for axis in range(len(slides), 0, -1):
            x, winners = _maximum_along(buffers, slides[axis - 1], axis, x)
            saved.append(winners)
        return x, saved

    def backward(buffers: Buffers, saved: list[_Winners], gradient: Array, _: Wanted) -> tuple[Array]:
        for winners in reversed(saved):
            gradient = _to_winners(buffers, winners, gradient)
        return (gradient,)

    return Rule(forward, backward)


def _maximum_along(buffers: Buffers, slide: Slide, axis: int, x: Array) -> tuple[Array, _Winners]:
    y = _pooled(buffers, slide, axis, x)
    marks = buffers.marks(y, np.uint8 if slide.num_taps <= 256 else np.uint16)
    winners = _Winners(slide, axis, x.shape, marks)
    if _halves(winners):
        first, second = _pairs(x, axis, y.shape[axis])
        np.greater(second, first, out=winners.taps.view(np.bool_))
        return np.maximum(first, second, out=y), winners
    y.fill(-np.inf)
    winners.taps.fill(0)
    for tap, outputs, inputs in slide.taps(x.shape[axis], y.shape[axis]):
        best, found = _part(y, axis, outputs), _part(x, axis, inputs)
        taps = _part(winners.taps, axis, outputs)
        np.maximum(taps, np.greater(found, best) * taps.dtype.type(tap), out=taps)
        np.maximum(best, found, out=best)
    return y, winners


def _to_winners(buffers: Buffers, winners: _Winners, gradient: Array) -> Array:
    slide, axis, taps = winners.slide, winners.axis, winners.taps
    made = buffers.value(*winners.shape)
    if _halves(winners):
        first, second = _pairs(made, axis, gradient.shape[axis])
        np.multiply(gradient, taps.view(np.bool_), out=second)
        np.subtract(gradient, second, out=first)
        _part(made, axis, slice(2 * gradient.shape[axis], None)).fill(0.0)
        return made
    made.fill(0.0)
    for tap, outputs, inputs in slide.taps(made.shape[axis], gradient.shape[axis]):
        target = _part(made, axis, inputs)
        target += _part(gradient, axis, outputs) * (_part(taps, axis, outputs) == tap)
    return made


def _halves(winners: _Winners) -> bool:
    """Whether each window is a pair of neighbours inside the input, and no two windows share one."""
    slide, size = winners.slide, winners.shape[winners.axis]
    return slide.num_taps == slide.stride == 2 and not slide.begin and 2 * slide.output_size(size) <= size


def _pairs(x: Array, axis: int, num_pairs: int) -> tuple[Array, Array]:
    stop = 2 * num_pairs
    return _part(x, axis, slice(0, stop, 2)), _part(x, axis, slice(1, stop, 2))


def average_pool(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """AveragePool in one or two dimensions; padding counts only if `count_include_pad` says so."""
    slides, count_padding = slides_of(attributes), bool(attributes["count_include_pad"])

    def forward(buffers: Buffers, x: Array) -> tuple[Array, tuple[int, ...]]:
        shape = x.shape
        for axis in range(len(slides), 0, -1):
            slide, source = slides[axis - 1], x
            x = _pooled(buffers, slide, axis, source)
            x.fill(0.0)
            for _tap, outputs, inputs in slide.taps(source.shape[axis], x.shape[axis]):
                target = _part(x, axis, outputs)
                target += _part(source, axis, inputs)
            x *= _share(slide, shape, axis, count_padding=count_padding)
        return x, shape

    def backward(buffers: Buffers, saved: tuple[int, ...], gradient: Array, _wanted: Wanted) -> tuple[Array]:
        for axis, slide in enumerate(slides, 1):
            gradient *= _share(slide, saved, axis, count_padding=count_padding)
            shape = (*gradient.shape[:axis], saved[axis], *gradient.shape[axis + 1 :])
            made = buffers.value(*shape)
            made.fill(0.0)
            for _tap, outputs, inputs in slide.taps(saved[axis], gradient.shape[axis]):
                target = _part(made, axis, inputs)
                target += _part(gradient, axis, outputs)
            gradient = made
        return (gradient,)

    return Rule(forward, backward)


def _share(slide: Slide, shape: tuple[int, ...], axis: int, *, count_padding: bool) -> Array:
    """What one input counts for in each output along an axis, in a form that broadcasts."""
    counts: Array = np.zeros(slide.output_size(shape[axis]), np.float32)
    for _tap, outputs, _inputs in slide.taps(shape[axis], len(counts)):
        counts[outputs] += 1
    if count_padding:
        counts.fill(slide.num_taps)
    return np.reciprocal(counts).reshape((-1, *(1,) * (len(shape) - 1 - axis)))


def _pooled(buffers: Buffers, slide: Slide, axis: int, x: Array) -> Array:
    """An undefined array for what comes out of pooling x along an axis."""
    return buffers.value(*x.shape[:axis], slide.output_size(x.shape[axis]), *x.shape[axis + 1 :])


def _part(x: NDArray, axis: int, part: slice) -> NDArray:
    return x[(slice(None),) * axis + (part,)]
