"""Convolution in NumPy: columns that are mostly not copied, and matrix products.

For one output row the columns are a matrix [taps * C, W' * N]. The horizontal taps are copied next to
each other, row by row of the input: [rows, kw, C, W', N]. The kh rows that an output row reads follow
each other there, so its columns are a view, and those of neighbouring rows overlap.

The gradient of the input, where the stride is 1, is the convolution of the output's gradient with the
flipped weight; the columns made for it yield the weight's gradient too. Where the stride is larger the
columns' gradients are added back tap by tap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from models.engines.numpy.depthwise import convolve_depthwise, differentiate_depthwise
from models.engines.numpy.memory import Buffers, channel_sums, rows
from models.engines.numpy.rule import Attributes, Rule, Wanted
from models.engines.numpy.window import Window, overlap, window_of
from models.subnet import Array

_BLOCK_VALUES = 2**19
"""Values of copied taps in one block of rows, about: they stay in the cache, and a large batch needs no
more memory than a small one."""


class _Saved(NamedTuple):
    """What the backward pass reads: x [H, C, W, N] and the weight [O, C / groups, kh, kw]."""

    x: Array
    weight: Array
    has_bias: bool
    is_flat: bool  # one spatial axis


def convolution(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """Conv in one or two dimensions; the number of groups follows from the shapes."""
    window = window_of(attributes)

    def forward(buffers: Buffers, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, _Saved]:
        is_flat = x.ndim == 3
        saved = _Saved(_image(x), _kernels(weight), bias is not None, is_flat)
        y = _convolve(buffers, window, saved.x, saved.weight, bias).transpose(1, 0, 2, 3)
        return (y[:, 0] if is_flat else y), saved

    def backward(
        buffers: Buffers, saved: _Saved, gradient: Array, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        dy = _image(gradient)
        dx, dweight = _differentiate(buffers, window, saved.x, saved.weight, dy, with_input=wanted[0])
        if dx is not None:
            dx = dx.transpose(1, 0, 2, 3)
            dx = dx[:, 0] if saved.is_flat else dx
        dweight = dweight[:, :, 0] if saved.is_flat else dweight
        dbias = (channel_sums(_matrices(dy)),) if saved.has_bias else ()
        return (dx, dweight, *dbias)

    return Rule(forward, backward)


def _image(x: Array) -> Array:
    """A value [C, H, W, N] or [C, L, N] as [H, C, W, N], contiguous; H is 1 for the latter."""
    return rows(x[:, None] if x.ndim == 3 else x)


def _kernels(weight: Array) -> Array:
    return weight[:, :, None] if weight.ndim == 3 else weight


def _matrices(x: Array) -> Array:
    """[H, C, W, N] as [H, C, W * N], a view."""
    return x.reshape(*x.shape[:2], -1)


def _groups(x: Array, weight: Array) -> Iterator[tuple[slice, slice]]:
    """Input and output channels of each group."""
    size = weight.shape[1]
    num_groups = x.shape[1] // size
    made = len(weight) // num_groups
    for group in range(num_groups):
        yield slice(group * size, (group + 1) * size), slice(group * made, (group + 1) * made)


def _is_depthwise(x: Array, weight: Array) -> bool:
    return weight.shape[1] == 1 and len(weight) == x.shape[1] > 1


def _convolve(buffers: Buffers, window: Window, x: Array, weight: Array, bias: Array | None) -> Array:
    height, width = window.rows.output_size(x.shape[0]), window.columns.output_size(x.shape[2])
    y = buffers.take(height, len(weight), width, x.shape[3])
    if _is_depthwise(x, weight):
        convolve_depthwise(buffers, window, x, weight, y)
        if bias is not None:
            y += bias[:, None, None]
        return y
    for read, made in _groups(x, weight):
        matrix = weight[made].transpose(0, 2, 3, 1).reshape(made.stop - made.start, -1)
        out = _matrices(y[:, made])
        for block in _row_blocks(window, x[:, read], height, width):
            np.matmul(matrix, _columns(buffers, window, x[:, read], block, width), out=out[block])
            if bias is not None:
                out[block] += bias[made, None]
    return y


def _differentiate(
    buffers: Buffers, window: Window, x: Array, weight: Array, dy: Array, *, with_input: bool
) -> tuple[Array | None, Array]:
    dweight = np.empty_like(weight, order="C")
    dx = buffers.take(*x.shape) if with_input else None
    if _is_depthwise(x, weight):
        differentiate_depthwise(buffers, window, x, weight, dy, dx, dweight)
        return dx, dweight
    for read, made in _groups(x, weight):
        group = (x[:, read], weight[made], dy[:, made])
        if dx is None:
            dweight[made] = _weight_gradient(buffers, window, *group)
        elif window.is_dense:
            dweight[made] = _both_gradients(buffers, window, *group, dx[:, read])
        else:
            dweight[made] = _weight_gradient(buffers, window, *group)
            _add_back(buffers, window, weight[made], dy[:, made], dx[:, read])
    return dx, dweight


def _both_gradients(buffers: Buffers, window: Window, x: Array, weight: Array, dy: Array, dx: Array) -> Array:
    """The weight's gradient at stride 1, from the columns that make the input's gradient `dx`."""
    height, num_channels, width, _ = x.shape
    back = window.transposed()
    flipped = weight[:, :, ::-1, ::-1].transpose(1, 2, 3, 0)  # [C, kh, kw, O]
    matrix, out, inputs = flipped.reshape(num_channels, -1), _matrices(dx), _matrices(x)
    sums = np.zeros(matrix.shape[::-1], np.float32)
    for block in _row_blocks(back, dy, height, width):
        columns = _columns(buffers, back, dy, block, width)
        np.matmul(matrix, columns, out=out[block])
        _add_products(sums, columns, inputs[block])
    return sums.reshape(*flipped.shape[1:], num_channels).transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]


def _weight_gradient(buffers: Buffers, window: Window, x: Array, weight: Array, dy: Array) -> Array:
    num_made, num_channels, *kernel = weight.shape
    height, width = dy.shape[0], dy.shape[2]
    sums, outputs = np.zeros((weight[0].size, num_made), np.float32), _matrices(dy)
    for block in _row_blocks(window, x, height, width):
        _add_products(sums, _columns(buffers, window, x, block, width), outputs[block])
    return sums.reshape(*kernel, num_channels, num_made).transpose(3, 2, 0, 1)


def _add_products(sums: Array, left: Array, right: Array) -> None:
    """Sums += left[r] @ right[r].T of every row r; left is [R, M, L], right is [R, K, L]."""
    product = np.empty_like(sums)
    for one, other in zip(left, right, strict=True):
        sums += np.matmul(one, other.T, out=product)


def _add_back(buffers: Buffers, window: Window, weight: Array, dy: Array, dx: Array) -> None:
    """The input's gradient at any stride: each tap's share of it added in its place."""
    num_made, num_channels, kernel_height, kernel_width = weight.shape
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, num_made)
    height, _, width, batch = dy.shape
    slide = window.rows
    dx.fill(0.0)
    for block in _row_blocks(window, dx, height, width):
        num_rows = block.stop - block.start
        shares = buffers.take(num_rows, len(matrix), width * batch)
        np.matmul(matrix, _matrices(dy)[block], out=shares)
        shares = shares.reshape(num_rows, kernel_height, kernel_width, num_channels, width, batch)
        for i in range(kernel_height):
            start = block.start * slide.stride + i * slide.dilation - slide.begin
            rows_out, rows_in = overlap(len(dx), num_rows, start, slide.stride)
            for j, columns_out, columns_in in window.columns.taps(dx.shape[2], width):
                dx[rows_in, :, columns_in] += shares[rows_out, i, j, :, columns_out]


def _row_blocks(window: Window, x: Array, height: int, width: int) -> Iterator[slice]:
    """Blocks of output rows whose columns are made together."""
    per_row = window.columns.num_taps * window.rows.stride * x.shape[1] * width * x.shape[3]
    size = height if window.is_point else max(1, _BLOCK_VALUES // per_row)
    for start in range(0, height, size):
        yield slice(start, min(start + size, height))


def _columns(buffers: Buffers, window: Window, x: Array, block: slice, width: int) -> Array:
    """What the outputs of a block of rows read: [rows, kh * kw * C, W' * N], not to be written to."""
    num_rows, num_channels, batch = block.stop - block.start, x.shape[1], x.shape[3]
    slide, kernel_height, kernel_width = window.rows, window.rows.num_taps, window.columns.num_taps
    if window.is_point:
        return _matrices(x[block])
    start = block.start * slide.stride - slide.begin
    if slide.dilation > 1 or kernel_height <= slide.stride:
        made = buffers.take(num_rows, kernel_height, kernel_width, num_channels, width, batch)
        for i in range(kernel_height):
            _copy_taps(window, x, start + i * slide.dilation, slide.stride, made[:, i])
        return made.reshape(num_rows, -1, width * batch)
    made = buffers.take(
        (num_rows - 1) * slide.stride + kernel_height, kernel_width, num_channels, width, batch
    )
    _copy_taps(window, x, start, 1, made)
    shape = (num_rows, kernel_height * kernel_width * num_channels, width * batch)
    run = shape[2] * made.itemsize
    strides = (slide.stride * kernel_width * num_channels * run, run, made.itemsize)
    return np.ndarray(shape, np.float32, made, strides=strides)  # overlapping rows


def _copy_taps(window: Window, x: Array, start: int, step: int, made: Array) -> None:
    """Copy the rows start, start + step, ... of x [H, C, W, N] into made [R, kw, C, W', N], tap by tap."""
    inside, read = overlap(len(x), len(made), start, step)
    made[: inside.start] = 0.0
    made[inside.stop :] = 0.0
    for tap, columns, columns_read in window.columns.taps(x.shape[2], made.shape[3]):
        target = made[inside, tap]
        target[:, :, : columns.start] = 0.0
        target[:, :, columns.stop :] = 0.0
        target[:, :, columns] = x[read, :, columns_read]
