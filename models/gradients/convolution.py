"""The rule of Conv: gathered windows times the weights, in tiles that fit a processor's cache.

With X the gathered windows [C * taps, windows * N] and W the weights [O, C * taps] (Chellapilla et al. 2006):

    Y = W X        dW = dY X^T        dX = W' (windows of dY read backwards), W' = W with C and O swapped

X is never kept: it is gathered again for dW, a tile at a time. A strided convolution computes dX as
    Y = W X      dW = dY X^T      dX = W' (windows of dY read backwards), W' = W with C and O swapped
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Site
from models.gradients.windows import Window, has_idle_pixels, part_of, read_by, readers, reads, sliding_window

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
    matrix = _matrix(e, conv, weight)
    product = _forward(e, conv, pixels, matrix, *biases)
    output = e.reshape_to(product, (0, *conv.window.counts, -1))

    def pullback(gradient: str) -> tuple[str | None, ...]:
        d = e.reshape_to(gradient, (0, conv.window.num_windows, -1))
        made: list[str | None] = [_input_gradient(e, conv, d, weight, matrix) if site.wanted[0] else None]
        made.append(e.op("Reshape", _weight_gradient(e, conv, d, pixels), e.op("Shape", weight)))
        if biases:
            made.append(e.sum(e.op("Flatten", d, axis=1), (1,), keepdims=False))
        return tuple(made)

    return Emitted(output, pullback)


def _matrix(e: Emitter, conv: _Conv, weight: str) -> str:
    """The weights as [O, C * taps], or one such matrix a group."""
    if conv.groups == 1:
        return e.op("Flatten", weight, axis=1)
    return e.reshape_to(weight, (conv.groups, conv.outputs, conv.inputs * conv.window.num_taps))


def _forward(e: Emitter, conv: _Conv, pixels: str, matrix: str, bias: str | None = None) -> str:
    """[O, windows, N]."""
    column = bias and e.op("Unsqueeze", bias, e.integers(1))
    source, tiles = pixels, [None]
    if not conv.window.is_pointwise:
        source = _with_padding(e, pixels) if conv.window.reads_padding else pixels
        tiles = _tiles(conv.window, conv.window.counts, conv.channels[0])
    made = []
    for rows in tiles:
        columns = _columns(e, conv, source, rows)
        if conv.groups == 1:
            product = e.op("Gemm", matrix, columns, column) if column else e.op("MatMul", matrix, columns)
            made.append(e.reshape_to(product, (0, _positions(conv.window.counts, rows), -1)))
        else:
            product = e.op("MatMul", matrix, columns)
            made.append(e.reshape_to(product, (-1, _positions(conv.window.counts, rows)), conv.batch))
    output = _join(e, made)
    if conv.groups != 1 and bias:
        output = e.op("Add", output, e.op("Unsqueeze", bias, e.integers(1, 2)))
    return output


def _weight_gradient(e: Emitter, conv: _Conv, d: str, pixels: str) -> str:
    """DW = dY X^T, summed over the tiles."""
    source, tiles = pixels, [None]
    if not conv.window.is_pointwise:
        source = _with_padding(e, pixels) if conv.window.reads_padding else pixels
        tiles = _tiles(conv.window, conv.window.counts, conv.channels[0])
    total: str | None = None
    for rows, part in zip(tiles, _split_rows(e, d, conv.window.counts, tiles), strict=True):
        columns = _columns(e, conv, source, rows)
        if conv.groups == 1:
            flat = e.op("Flatten", part, axis=1)
            total = e.op("Gemm", flat, columns, *([total] if total else []), transB=1)
        else:
            grouped = _per_group(e, conv, part, conv.outputs, _positions(conv.window.counts, rows))
            product = e.op("MatMul", grouped, e.op("Transpose", columns, perm=(0, 2, 1)))
            total = e.op("Add", total, product) if total else product
    assert total is not None
    return total


def _input_gradient(e: Emitter, conv: _Conv, d: str, weight: str, matrix: str) -> str:
    """dX, in the shape of the input."""
    window = conv.window
    if window.is_pointwise or max(window.strides) > 1:
        if conv.groups == 1:
            columns = e.op("Gemm", matrix, e.op("Flatten", d, axis=1), transA=1)
        else:
            columns = e.op(
                "MatMul",
                e.op("Transpose", matrix, perm=(0, 2, 1)),
                _per_group(e, conv, d, conv.outputs, window.num_windows),
            )
        if window.is_pointwise:
            return e.reshape_to(columns, (-1, *window.sizes), conv.batch)
        pixels = gather_readers(
            e,
            e.reshape_to(columns, (-1, window.num_taps * window.num_windows), conv.batch),
            window,
            with_tap=True,
        )
        return e.reshape_to(pixels, (0, *window.sizes, -1))
    exchanged = _exchanged(e, conv, weight)
    source = _with_padding(e, d)
    made = []
    for rows in _tiles(window, window.sizes, conv.channels[1]):
        gathered = _gather(e, source, read_by(e, window), window.sizes, rows)
        if conv.groups == 1:
            product = e.op("MatMul", exchanged, e.op("Flatten", gathered, axis=2))
            made.append(e.reshape_to(product, (0, _positions(window.sizes, rows), -1)))
        else:
            positions = _positions(window.sizes, rows)
            columns = _per_group(e, conv, gathered, conv.outputs * window.num_taps, positions)
            product = e.op("MatMul", exchanged, columns)
            made.append(e.reshape_to(product, (-1, _positions(window.sizes, rows)), conv.batch))
    return e.reshape_to(_join(e, made), (0, *window.sizes, -1))


def gather_readers(e: Emitter, columns: str, window: Window, *, with_tap: bool) -> str:
    """Sum over each pixel's readers: [C, positions, N] -> [C, pixels, N]."""
    table, most = readers(e, window, with_tap=with_tap)
    source = _with_padding(e, columns) if has_idle_pixels(window) else columns
    gathered = e.op("Gather", source, table, axis=1)
    if most == 1:
        return e.op("Squeeze", gathered, e.integers(1))
    return e.sum(gathered, (1,), keepdims=False)


def _exchanged(e: Emitter, conv: _Conv, weight: str) -> str:
    """W with its input and output channels exchanged: [C, O * taps], or one such matrix a group."""
    rank = len(conv.window.kernel)
    if conv.groups == 1:
        return e.op("Flatten", e.op("Transpose", weight, perm=(1, 0, *range(2, rank + 2))), axis=1)
    taps = conv.window.num_taps
    grouped = e.reshape_to(weight, (conv.groups, conv.outputs, conv.inputs, taps))
    return e.reshape_to(e.op("Transpose", grouped, perm=(0, 2, 1, 3)), (0, conv.inputs, conv.outputs * taps))


def _columns(e: Emitter, conv: _Conv, source: str, rows: range | None) -> str:
    """The gathered windows of a tile as [C * taps, windows * N], or one such matrix a group."""
    if rows is None:  # pointwise
        gathered = source
        if conv.groups == 1:
            return e.op("Flatten", gathered, axis=1)
    else:
        gathered = _gather(e, source, reads(e, conv.window), conv.window.counts, rows)
        if conv.groups == 1:
            return e.op("Flatten", gathered, axis=2)
    depth = conv.inputs * conv.window.num_taps
    return _per_group(e, conv, gathered, depth, _positions(conv.window.counts, rows))


def _gather(e: Emitter, source: str, table: str, sizes: tuple[int, ...], rows: range) -> str:
    """Windows of those rows, [C, taps, windows, N]."""
    if len(rows) < sizes[0]:
        row = math.prod(sizes[1:])
        table = part_of(e, table, range(rows.start * row, rows.stop * row))
    return e.again("Gather", source, table, axis=1)


def _per_group(e: Emitter, conv: _Conv, values: str, depth: int, positions: int) -> str:
    """Values of [channels, ..., N] as [groups, depth, positions * N]."""
    if conv.groups != -1:
        return e.reshape_to(values, (conv.groups, depth, -1))
    return e.reshape_to(values, (-1, depth), e.op("Mul", conv.batch, e.integers(positions)))


def _with_padding(e: Emitter, pixels: str) -> str:
    """[C, positions, N] with a position of zeros appended."""
    return e.op("Pad", pixels, e.integers(0, 0, 0, 0, 1, 0))


def _tiles(window: Window, positions: tuple[int, ...], num_channels: int) -> list[range]:
    """Runs of rows whose gathered windows fit a tile."""
    floats = window.num_taps * num_channels * math.prod(positions) * _NOMINAL_BATCH
    num_tiles = max(1, min(_MAX_TILES, positions[0], -(-floats // _TILE_FLOATS)))
    bounds = [positions[0] * index // num_tiles for index in range(num_tiles + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


def _positions(sizes: tuple[int, ...], rows: range | None) -> int:
    return math.prod(sizes) if rows is None else len(rows) * math.prod(sizes[1:])


def _split_rows(e: Emitter, d: str, counts: tuple[int, ...], tiles: list) -> tuple[str, ...]:
    """The tiles' parts of [O, windows, N]."""
    if len(tiles) == 1:
        return (d,)
    sizes = e.integers(*(_positions(counts, rows) for rows in tiles))
    return e.ops("Split", (d, sizes), len(tiles), axis=1)


def _join(e: Emitter, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else e.op("Concat", *parts, axis=1)
