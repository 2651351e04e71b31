"""Depthwise convolution in NumPy: each tap is a product of whole runs, no matrix product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.engines.numpy.memory import Buffers, blocks, channel_sums
from models.engines.numpy.window import Window
from models.subnet import Array


def convolve_depthwise(buffers: Buffers, window: Window, x: Array, weight: Array, y: Array) -> None:
    """Write the convolution of x [H, C, W, N] with weight [C, 1, kh, kw] to y [H', C, W', N]."""
    for channels in _channel_blocks(y):
        out, scratch = y[:, channels], buffers.take(y[:, channels].size)
        out.fill(0.0)
        for i, j, outputs, inputs in _taps(window, x, y):
            share = x[:, channels][inputs]
            product = scratch[: share.size].reshape(share.shape)
            np.multiply(share, weight[channels, 0, i, j, None, None], out=product)
            out[outputs] += product


def differentiate_depthwise(
    buffers: Buffers, window: Window, x: Array, weight: Array, dy: Array, dx: Array | None, dweight: Array
) -> None:
    """Write the gradients for dy [H', C, W', N] to dx (if there is one) and dweight."""
    dweight.fill(0.0)
    if dx is not None:
        dx.fill(0.0)
    for channels in _channel_blocks(dy):
        scratch = buffers.take(dy[:, channels].size)
        for i, j, outputs, inputs in _taps(window, x, dy):
            gradient = dy[:, channels][outputs]
            product = scratch[: gradient.size].reshape(gradient.shape)
            np.multiply(gradient, x[:, channels][inputs], out=product)
            dweight[channels, 0, i, j] = channel_sums(product.reshape(*product.shape[:2], -1))
            if dx is not None:
                np.multiply(gradient, weight[channels, 0, i, j, None, None], out=product)
                dx[:, channels][inputs] += product


def _channel_blocks(y: Array) -> Iterator[slice]:
    for _, channels in blocks((1, y.shape[1], y[:, :1].size)):
        yield channels


def _taps(window: Window, x: Array, y: Array) -> Iterator[tuple[int, int, tuple, tuple]]:
    """Each tap (row, column) with the part of the output it counts for and the part of the input it reads."""
    for i, rows_out, rows_in in window.rows.taps(x.shape[0], y.shape[0]):
        for j, columns_out, columns_in in window.columns.taps(x.shape[2], y.shape[2]):
            if rows_out.stop > rows_out.start and columns_out.stop > columns_out.start:
                yield i, j, (rows_out, slice(None), columns_out), (rows_in, slice(None), columns_in)
