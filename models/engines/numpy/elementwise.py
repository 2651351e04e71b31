"""Activations in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.engines.numpy.memory import Buffers
from models.engines.numpy.rule import Attributes, Rule, Wanted
from models.subnet import Array

_ZERO, _ONE, _HALF, _SIX = (np.float32(value) for value in (0, 1, 0.5, 6))


def relu(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """Relu; the slope at 0 is 0."""

    def forward(buffers: Buffers, x: Array) -> tuple[Array, Array]:
        y = np.maximum(x, _ZERO, out=buffers.like(x))
        return y, y

    def in_place(_: Buffers, x: Array) -> tuple[Array, Array]:
        np.maximum(x, _ZERO, out=x)
        return x, x

    def backward(_: Buffers, saved: Array, gradient: Array, _wanted: Wanted) -> tuple[Array]:
        gradient *= saved > 0  # a product is many times faster than an assignment under a mask
        return (gradient,)

    return Rule(forward, backward, in_place)


def leaky_relu(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """LeakyRelu; the slope at 0 is that of the negative side."""
    alpha = np.float32(attributes["alpha"])

    def slope(x: Array) -> Array:
        return np.where(x > 0, _ONE, alpha)

    return _activation(lambda x: x * slope(x), slope)


def clip(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """Clip; the slope at either limit is 0, as of ReLU6."""
    low, high = np.float32(attributes["min"]), np.float32(attributes["max"])
    return _activation(lambda x: np.clip(x, low, high), lambda x: (x > low) & (x < high))


def hard_swish(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """HardSwish: x clip(x / 6 + 1 / 2, 0, 1); the slope is 0 at -3 and 1 at 3."""

    def gate(x: Array) -> Any:
        return np.clip(x / _SIX + _HALF, _ZERO, _ONE)

    return _activation(lambda x: x * gate(x), lambda x: gate(x) + (np.abs(x) < 3) * x / _SIX)


def sigmoid(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """Sigmoid, through tanh, which does not overflow."""
    return _activation(
        lambda x: _HALF + _HALF * np.tanh(_HALF * x), lambda y: y - y * y, slope_of_output=True
    )


def tanh(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """Tanh."""
    return _activation(np.tanh, lambda y: _ONE - y * y, slope_of_output=True)


def _activation(
    function: Callable[[Array], Any], slope: Callable[[Array], Any], *, slope_of_output: bool = False
) -> Rule:
    """An activation and its derivative, as a function of its input or of its output."""

    def forward(_: Buffers, x: Array) -> tuple[Array, Array]:
        y = function(x)
        return y, y if slope_of_output else x

    def backward(_: Buffers, saved: Array, gradient: Array, _wanted: Wanted) -> tuple[Array]:
        gradient *= slope(saved)
        return (gradient,)

    return Rule(forward, backward)
