"""The rule of Conv: gathered windows times the weights, in tiles that fit a processor's cache.

With X the gathered windows of x [C * taps, windows * N] and W the weights [O, C * taps], after Chellapilla
et al. (2006), High Performance Convolutional Neural Networks for Document Processing:

    Y = W X        dW = dY X^T        dx = W' D        dW' = D x^T

where D are the gathered windows of dY read backwards [O * taps, pixels * N], and W' is W with its channels
exchanged [C, O * taps]. Gathered windows are never kept for the backward pass. Where the strides are 1, D
serves both gradients; else most of D would be padding, and X is gathered again for dW, while dx is W^T dY
with the few readers of each pixel summed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Site
from models.gradients.windows import (
    Window,
    has_idle_pixels,
    part_of,
    read_by,
    readers,
    reads,
    sliding_window,
)

_TILE_FLOATS = 2**20
"""Floats of a gathered tile at full width: 4 MiB. Measured: up to here nothing is lost, at 18 MiB a third."""
_NOMINAL_BATCH = 32
_MAX_TILES = 64


class _Conv(NamedTuple):
    """One convolution.

    Attributes:
        window: its windows.
        groups: 1 for a dense one; else how many, or -1 for a depthwise one, whose groups are its channels.
        inputs, outputs: channels of one group at full width.
        channels: of the input and of the output, all groups together, at full width.
        batch: int64 [1].
    """

    window: Window
    groups: int
    inputs: int
    outputs: int
    channels: tuple[int, int]
    batch: str


class _Tile(NamedTuple):
    """Some rows of windows or pixels.

    Attributes:
        positions: how many windows or pixels.
        columns: their gathered neighbours [C * taps, positions * N], or one such matrix a group.
    """

    positions: int
    columns: str


def convolve(e: Emitter, site: Site) -> Emitted:
    """Conv in one or two dimensions, grouped or not."""
    weight_shape = site.operands[1].shape
    groups = site.int("group")
    conv = _Conv(
        window=sliding_window(site),
        groups=-1 if groups > 1 and weight_shape[1] == 1 else groups,
        inputs=weight_shape[1],
        outputs=weight_shape[0] // groups,
        channels=(weight_shape[1] * groups, weight_shape[0]),
        batch=site.batch,
    )
    x, weight, *biases = site.inputs
    pixels = e.reshape_to(x, (0, conv.window.num_pixels, -1))
    output = e.reshape_to(_forward(e, conv, pixels, weight, *biases), (0, *conv.window.counts, -1))

    def pullback(gradient: str) -> tuple[str | None, ...]:
        d = e.reshape_to(gradient, (0, conv.window.num_windows, -1))
        if conv.window.is_dense and site.wanted[0]:
            d_pixels, d_weight = _both_gradients(e, conv, d, pixels, weight)
        else:
            d_pixels = _input_gradient(e, conv, d, weight) if site.wanted[0] else None
            d_weight = _weight_gradient(e, conv, d, pixels)
        made: list[str | None] = [d_pixels and e.reshape_to(d_pixels, (0, *conv.window.sizes, -1))]
        made.append(e.op("Reshape", d_weight, e.op("Shape", weight)))
        if biases:
            made.append(e.sum(e.op("Flatten", d, axis=1), (1,), keepdims=False))
        return tuple(made)

    return Emitted(output, pullback)


def gather_readers(e: Emitter, columns: str, window: Window, *, with_tap: bool) -> str:
    """Sum over each pixel's readers: [C, positions, N] -> [C, pixels, N]."""
    table, most = readers(e, window, with_tap=with_tap)
    source = _with_padding(e, columns) if has_idle_pixels(window) else columns
    gathered = e.op("Gather", source, table, axis=1)
    if most == 1:
        return e.op("Squeeze", gathered, e.integers(1))
    return e.sum(gathered, (1,), keepdims=False)


def _forward(e: Emitter, conv: _Conv, pixels: str, weight: str, bias: str | None = None) -> str:
    """Y = W X + bias: [O, windows, N]."""
    matrix = _matrix(e, conv, weight)
    column = bias and e.op("Unsqueeze", bias, e.integers(1))
    made = []
    for tile in _windows(e, conv, pixels):
        if column and conv.groups == 1:
            made.append(_channels(e, conv, e.op("Gemm", matrix, tile.columns, column), tile.positions))
        else:
            made.append(_channels(e, conv, e.op("MatMul", matrix, tile.columns), tile.positions))
    output = _join(e, made)
    if bias and conv.groups != 1:
        output = e.op("Add", output, e.op("Unsqueeze", bias, e.integers(1, 2)))
    return output


def _weight_gradient(e: Emitter, conv: _Conv, d: str, pixels: str) -> str:
    """DW = dY X^T, summed over the tiles."""
    total: str | None = None
    parts = _split(e, d, _tiles(conv.window, conv.window.counts, conv.channels[0]), conv.window.counts)
    for tile, part in zip(_windows(e, conv, pixels), parts, strict=True):
        total = _add_product(
            e, conv, total, _per_group(e, conv, part, conv.outputs, tile.positions), tile.columns
        )
    assert total is not None
    return total


def _input_gradient(e: Emitter, conv: _Conv, d: str, weight: str) -> str:
    """The strided form, W^T dY with each pixel's readers summed: [C, pixels, N]."""
    window = conv.window
    grouped = _per_group(e, conv, d, conv.outputs, window.num_windows)
    matrix = _matrix(e, conv, weight)
    if conv.groups == 1:
        columns = e.op("Gemm", matrix, grouped, transA=1)
    else:
        columns = e.op("MatMul", e.op("Transpose", matrix, perm=(0, 2, 1)), grouped)
    positions = e.reshape_to(columns, (-1, window.num_taps * window.num_windows), conv.batch)
    return gather_readers(e, positions, window, with_tap=True)


def _both_gradients(e: Emitter, conv: _Conv, d: str, pixels: str, weight: str) -> tuple[str, str]:
    """With strides of 1: dx = W' D, [C, pixels, N], and dW = (D x^T)', in an order like the weights'."""
    exchanged = _exchanged(e, conv, weight)
    made, total = [], None
    parts = _split(e, pixels, _tiles(conv.window, conv.window.sizes, conv.channels[1]), conv.window.sizes)
    for tile, part in zip(_windows_of_gradient(e, conv, d), parts, strict=True):
        made.append(_channels(e, conv, e.op("MatMul", exchanged, tile.columns), tile.positions))
        total = _add_product(
            e, conv, total, tile.columns, _per_group(e, conv, part, conv.inputs, tile.positions)
        )
    assert total is not None
    taps = conv.window.num_taps
    if conv.groups == 1:
        by_tap = e.reshape_to(total, (-1, taps), e.size(pixels, 0))
        return _join(e, made), e.op("Transpose", by_tap, perm=(0, 2, 1))
    by_tap = e.reshape_to(total, (0, conv.outputs, taps, conv.inputs))
    return _join(e, made), e.op("Transpose", by_tap, perm=(0, 1, 3, 2))


def _matrix(e: Emitter, conv: _Conv, weight: str) -> str:
    """The weights as W [O, C * taps], or one such matrix a group."""
    if conv.groups == 1:
        return e.op("Flatten", weight, axis=1)
    return e.reshape_to(weight, (conv.groups, conv.outputs, conv.inputs * conv.window.num_taps))


def _exchanged(e: Emitter, conv: _Conv, weight: str) -> str:
    """The weights as W' [C, O * taps], or one such matrix a group."""
    rank = len(conv.window.kernel)
    if conv.groups == 1:
        return e.op("Flatten", e.op("Transpose", weight, perm=(1, 0, *range(2, rank + 2))), axis=1)
    taps = conv.window.num_taps
    grouped = e.reshape_to(weight, (conv.groups, conv.outputs, conv.inputs, taps))
    return e.reshape_to(e.op("Transpose", grouped, perm=(0, 2, 1, 3)), (0, conv.inputs, conv.outputs * taps))


def _windows(e: Emitter, conv: _Conv, pixels: str) -> Iterator[_Tile]:
    """X, a tile at a time."""
    window = conv.window
    if window.is_pointwise:
        yield _Tile(window.num_windows, _per_group(e, conv, pixels, conv.inputs, window.num_windows))
        return
    source = _with_padding(e, pixels) if window.reads_padding else pixels
    for rows in _tiles(window, window.counts, conv.channels[0]):
        gathered = _gather(e, source, reads(e, window), window.counts, rows)
        yield _tile(e, conv, gathered, conv.inputs, len(rows) * math.prod(window.counts[1:]))


def _windows_of_gradient(e: Emitter, conv: _Conv, d: str) -> Iterator[_Tile]:
    """D, a tile at a time."""
    window = conv.window
    if window.is_pointwise:
        yield _Tile(window.num_pixels, _per_group(e, conv, d, conv.outputs, window.num_pixels))
        return
    source = _with_padding(e, d)
    for rows in _tiles(window, window.sizes, conv.channels[1]):
        gathered = _gather(e, source, read_by(e, window), window.sizes, rows)
        yield _tile(e, conv, gathered, conv.outputs, len(rows) * math.prod(window.sizes[1:]))


def _gather(e: Emitter, source: str, table: str, sizes: tuple[int, ...], rows: range) -> str:
    """Neighbours of the positions in some rows, [C, taps, positions, N]; made anew, lest they be kept."""
    if len(rows) < sizes[0]:
        row = math.prod(sizes[1:])
        table = part_of(e, table, range(rows.start * row, rows.stop * row))
    return e.again("Gather", source, table, axis=1)


def _tile(e: Emitter, conv: _Conv, gathered: str, channels: int, positions: int) -> _Tile:
    if conv.groups == 1:
        return _Tile(positions, e.op("Flatten", gathered, axis=2))
    return _Tile(positions, _per_group(e, conv, gathered, channels * conv.window.num_taps, positions))


def _per_group(e: Emitter, conv: _Conv, values: str, depth: int, positions: int) -> str:
    """Values [channels, positions, N] as [channels, positions * N], or [groups, depth, positions * N]."""
    if conv.groups == 1:
        return e.op("Flatten", values, axis=1)
    if conv.groups != -1:
        return e.reshape_to(values, (conv.groups, depth, -1))
    return e.reshape_to(values, (-1, depth), e.op("Mul", conv.batch, e.integers(positions)))


def _channels(e: Emitter, conv: _Conv, product: str, positions: int) -> str:
    """A product as [channels, positions, N]."""
    if conv.groups == 1:
        return e.reshape_to(product, (0, positions, -1))
    return e.reshape_to(product, (-1, positions), conv.batch)


def _add_product(e: Emitter, conv: _Conv, total: str | None, left: str, right: str) -> str:
    """Left times right transposed, added to what there is."""
    if conv.groups == 1:
        return e.op("Gemm", left, right, *([total] if total else []), transB=1)
    product = e.op("MatMul", left, e.op("Transpose", right, perm=(0, 2, 1)))
    return e.op("Add", total, product) if total else product


def _with_padding(e: Emitter, pixels: str) -> str:
    """[C, positions, N] with a position of zeros appended."""
    return e.op("Pad", pixels, e.integers(0, 0, 0, 0, 1, 0))


def _tiles(window: Window, sizes: tuple[int, ...], num_channels: int) -> list[range]:
    """Runs of rows whose gathered neighbours fit a tile; all rows where nothing is gathered."""
    floats = window.num_taps * num_channels * math.prod(sizes) * _NOMINAL_BATCH
    wanted = 1 if window.is_pointwise else -(-floats // _TILE_FLOATS)
    num_tiles = max(1, min(_MAX_TILES, sizes[0], wanted))
    bounds = [sizes[0] * index // num_tiles for index in range(num_tiles + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


def _split(e: Emitter, values: str, tiles: list[range], sizes: tuple[int, ...]) -> tuple[str, ...]:
    """The tiles' parts of [channels, positions, N]."""
    if len(tiles) == 1:
        return (values,)
    row = math.prod(sizes[1:])
    return e.ops("Split", (values, e.integers(*(len(rows) * row for rows in tiles))), len(tiles), axis=1)


def _join(e: Emitter, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else e.op("Concat", *parts, axis=1)
