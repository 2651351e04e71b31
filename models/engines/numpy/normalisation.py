"""Batch normalisation in NumPy, by the batch's own moments and by given ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.engines.numpy.memory import (
    Buffers,
    blocks,
    channel_products,
    channel_sums,
    from_planes,
    planes,
    planes_shape,
)
from models.engines.numpy.rule import Attributes, Rule, Wanted
from models.subnet import Array


class Moments(NamedTuple):
    """What the backward pass reads.

    Attributes:
        mean: of each channel over the batch and space, [C].
        variance: likewise, biased.
        centred: x - mean, [A, C, B] as `models.engines.numpy.memory.planes` has it.
        inverse_deviation: 1 / sqrt(variance + epsilon).
        scale: the parameter.
        shape: of x.
    """

    mean: Array
    variance: Array
    centred: Array
    inverse_deviation: Array
    scale: Array
    shape: tuple[int, ...]


def batch_normalisation(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """BatchNormalization by the moments of the batch; what it saves are `Moments`.

    References:
        Ioffe, Szegedy, Batch normalization, section 3, arXiv 1502.03167.
    """
    epsilon = np.float32(attributes["epsilon"])

    def forward(buffers: Buffers, x: Array, scale: Array, bias: Array) -> tuple[Array, Moments]:
        return normalise(buffers, x, scale, bias, buffers.take(*planes_shape(x.shape)))

    def in_place(buffers: Buffers, x: Array, scale: Array, bias: Array) -> tuple[Array, Moments]:
        return normalise(buffers, x, scale, bias, planes(x))

    def normalise(
        buffers: Buffers, x: Array, scale: Array, bias: Array, centred: Array
    ) -> tuple[Array, Moments]:
        given = planes(x)
        num_values = given.size // len(scale)
        mean, squares = channel_sums(given), np.zeros_like(scale)
        mean /= num_values
        for block in blocks(given.shape):
            part, channels = centred[block], block[1]
            np.subtract(given[block], mean[channels, None], out=part)
            squares[channels] += channel_products(part, part)
        squares /= num_values
        moments = Moments(mean, squares, centred, _inverse_root(squares, epsilon), scale, x.shape)
        made = buffers.take(*given.shape)
        _scale_and_shift(centred, scale * moments.inverse_deviation, bias, made)
        return from_planes(made, x.shape), moments

    return Rule(forward, _differentiate, in_place)


def _differentiate(_: Buffers, saved: Moments, gradient: Array, wanted: Wanted) -> tuple:
    dy, centred = planes(gradient), saved.centred
    dbias, products = np.zeros_like(saved.scale), np.zeros_like(saved.scale)
    for block in blocks(dy.shape):
        dbias[block[1]] += channel_sums(dy[block])
        products[block[1]] += channel_products(dy[block], centred[block])
    dscale = products * saved.inverse_deviation
    if not wanted[0]:
        return None, dscale, dbias
    # dx = s (dy - mean(dy) - (x - mean) mean(dy (x - mean)) / (var + epsilon)); s = scale * inverse deviation
    slope = saved.scale * saved.inverse_deviation
    num_values = np.float32(dy.size // len(slope))
    tilt = -slope * saved.inverse_deviation * dscale / num_values
    shift = -slope * dbias / num_values
    for block in blocks(dy.shape):
        part, channels = dy[block], block[1]
        part *= slope[channels, None]
        part += shift[channels, None]
        centred[block] *= tilt[channels, None]
        part += centred[block]
    return from_planes(dy, saved.shape), dscale, dbias


def given_normalisation(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """BatchNormalization by given moments, for evaluation: it has no backward pass."""
    epsilon = np.float32(attributes["epsilon"])

    def forward(
        buffers: Buffers, x: Array, scale: Array, bias: Array, mean: Array, variance: Array
    ) -> tuple[Array, None]:
        slope = scale * _inverse_root(variance, epsilon)
        made = buffers.take(*planes_shape(x.shape))
        _scale_and_shift(planes(x), slope, np.subtract(bias, mean * slope), made)
        return from_planes(made, x.shape), None

    def backward(_: Buffers, _saved: None, _gradient: Array, _wanted: Wanted) -> tuple:
        raise NotImplementedError

    return Rule(forward, backward)


def _inverse_root(variance: Array, epsilon: np.float32) -> Array:
    return np.reciprocal(np.sqrt(variance + epsilon))


def _scale_and_shift(x: Array, slope: Array, shift: Array, made: Array) -> None:
    """Write x * slope + shift of each channel of x [A, C, B]."""
    for block in blocks(x.shape):
        channels, part = block[1], made[block]
        np.multiply(x[block], slope[channels, None], out=part)
        part += shift[channels, None]
