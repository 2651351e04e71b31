"""The rules of MaxPool, AveragePool and GlobalAveragePool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from models.gradients.convolution import gather_readers
from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Site
from models.gradients.windows import Window, reads, sliding_window

_FEW_TAPS = 16
"""Of a window: up to here each tap has nodes of its own."""

_Highest: TypeAlias = "tuple[str, Callable[[str], str]]"
"""Each window's highest pixel, and what hands it a gradient: [C, 1, windows, N] -> [C, taps, windows, N]."""


def pool_maximum(e: Emitter, site: Site) -> Emitted:
    """MaxPool: of equal pixels the first one of a window takes the gradient, as in PyTorch."""
    window = sliding_window(site)
    pixels = e.reshape_to(site.inputs[0], (0, window.num_pixels, -1))
    if window.reads_padding:
        pixels = e.op("Pad", pixels, e.integers(0, 0, 0, 0, 1, 0), e.number(-np.inf))
    gathered = e.op("Gather", pixels, reads(e, window), axis=1)
    highest, share = (_highest_tap_by_tap if window.num_taps <= _FEW_TAPS else _highest)(e, window, gathered)

    def pullback(gradient: str) -> tuple[str | None, ...]:
        spread = share(e.op("Unsqueeze", e.reshape_to(gradient, (0, window.num_windows, -1)), e.integers(1)))
        columns = e.reshape_to(spread, (0, window.num_taps * window.num_windows, -1))
        return (e.reshape_to(gather_readers(e, columns, window, with_tap=True), (0, *window.sizes, -1)),)

    return Emitted(e.reshape_to(highest, (0, *window.counts, -1)), pullback)


def _highest_tap_by_tap(e: Emitter, window: Window, gathered: str) -> _Highest:
    """The form that is fastest at run time; each tap costs nodes, and many take minutes to load."""
    taps = (gathered,)
    if window.num_taps > 1:
        taps = e.ops("Split", (gathered, e.integers(*(1,) * window.num_taps)), window.num_taps, axis=1)
    highest = e.op("Max", *taps) if len(taps) > 1 else gathered

    def share(rest: str) -> str:
        made = []
        for tap in taps[:-1]:
            left = e.op("Mul", rest, e.positive(e.op("Sub", highest, tap)))
            made.append(e.op("Sub", rest, left))
            rest = left
        return e.op("Concat", *made, rest, axis=1) if made else rest

    return highest, share


def _highest(e: Emitter, window: Window, gathered: str) -> _Highest:
    """The form whose size does not grow with the window."""

    def share(rest: str) -> str:
        winner = e.op("ArgMax", gathered, axis=1, keepdims=1, select_last_index=0)
        places = e.constant(np.arange(window.num_taps, dtype=np.int64).reshape(-1, 1, 1))
        return e.op("Where", e.op("Equal", winner, places), rest, e.number(0.0))

    return e.op("ReduceMax", gathered, axes=(1,), keepdims=1), share


def pool_average(e: Emitter, site: Site) -> Emitted:
    """AveragePool; the padding counts if `count_include_pad` says so."""
    window = sliding_window(site)
    pixels = e.reshape_to(site.inputs[0], (0, window.num_pixels, -1))
    if window.reads_padding:
        pixels = e.op("Pad", pixels, e.integers(0, 0, 0, 0, 1, 0))
    sums = e.sum(e.op("Gather", pixels, reads(e, window), axis=1), (1,), keepdims=False)
    share = e.constant(_shares(site))

    def pullback(gradient: str) -> tuple[str | None, ...]:
        d = e.op("Mul", e.reshape_to(gradient, (0, window.num_windows, -1)), share)
        return (e.reshape_to(gather_readers(e, d, window, with_tap=False), (0, *window.sizes, -1)),)

    return Emitted(e.reshape_to(e.op("Mul", sums, share), (0, *window.counts, -1)), pullback)


def pool_globally(e: Emitter, site: Site) -> Emitted:
    """GlobalAveragePool: the mean over space."""
    x = site.inputs[0]
    sizes = site.operands[0].shape[1:]
    shape = e.op("Shape", x)

    def pullback(gradient: str) -> tuple[str | None, ...]:
        return (e.op("Expand", e.scale(gradient, 1.0 / np.prod(sizes)), shape),)

    return Emitted(e.op("ReduceMean", x, axes=tuple(range(1, len(sizes) + 1)), keepdims=1), pullback)


def _shares(site: Site) -> np.ndarray:
    """What a pixel adds to its window's mean: float32 [] or [windows, 1] where the padding does not count."""
    window = sliding_window(site)
    if site.int("count_include_pad") or not window.reads_padding:
        return np.array(1.0 / window.num_taps, np.float32)
    counts = np.ones(1)
    for axis, count in enumerate(window.counts):
        starts = np.arange(count) * window.strides[axis] - window.begins[axis]
        inside = np.minimum(starts + window.kernel[axis], window.sizes[axis]) - np.maximum(starts, 0)
        counts = np.multiply.outer(counts, inside)
    return (1.0 / counts.reshape(-1, 1)).astype(np.float32)
