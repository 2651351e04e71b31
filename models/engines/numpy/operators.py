"""The operator table of the numpy engine: operator -> its rule, attributes bound.

Semantics are those of `models.graph.OPERATORS` (ONNX opset 17); within the engine the batch is the last
axis. Widths are read from the arrays, so that the same rule serves every sub-network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from models.engines.numpy import elementwise, shapes
from models.engines.numpy.arithmetic import ARITHMETIC
from models.engines.numpy.convolution import convolution
from models.engines.numpy.memory import Buffers
from models.engines.numpy.pooling import average_pool, maximum_pool
from models.engines.numpy.rule import Attributes, Maker, Rule, Wanted
from models.subnet import Array


def gemm(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """Gemm: weight [out, in] @ x [in, N] + bias [out]."""

    def forward(
        buffers: Buffers, x: Array, weight: Array, bias: Array | None = None
    ) -> tuple[Array, tuple[Array, Array, bool]]:
        y = np.matmul(weight, x, out=buffers.take(len(weight), x.shape[1]))
        if bias is not None:
            y += bias[:, None]
        return y, (x, weight, bias is not None)

    def backward(
        buffers: Buffers, saved: tuple[Array, Array, bool], gradient: Array, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        x, weight, has_bias = saved
        dx = np.matmul(weight.T, gradient, out=buffers.like(x)) if wanted[0] else None
        dbias = (gradient.sum(axis=1),) if has_bias else ()
        return (dx, gradient @ x.T, *dbias)

    return Rule(forward, backward)


def matrix_product(_: Attributes, is_value: tuple[bool, ...]) -> Rule:
    """MatMul of values with a parameter [in, out], or of two values, sample by sample."""
    return _product_of_values() if is_value[1] else _product_with_parameter()


def _product_with_parameter() -> Rule:
    def forward(buffers: Buffers, x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
        y = buffers.value(*x.shape[:-2], weight.shape[1], x.shape[-1])
        return np.matmul(weight.T, x, out=y), (x, weight)

    def backward(
        buffers: Buffers, saved: tuple[Array, Array], gradient: Array, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        x, weight = saved
        dx = np.matmul(weight, gradient, out=buffers.like(x)) if wanted[0] else None
        products = np.matmul(x, gradient.swapaxes(-1, -2))
        return dx, products.reshape(-1, *weight.shape).sum(axis=0)

    return Rule(forward, backward)


def _product_of_values() -> Rule:
    def forward(_: Buffers, x: Array, other: Array) -> tuple[Array, tuple[Array, Array]]:
        saved = (_batch_first(x), _batch_first(other))
        return _batch_last(np.matmul(*saved)), saved

    def backward(
        _: Buffers, saved: tuple[Array, Array], gradient: Array, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        dy = _batch_first(gradient)
        dx = _batch_last(np.matmul(dy, saved[1].swapaxes(-1, -2))) if wanted[0] else None
        dother = _batch_last(np.matmul(saved[0].swapaxes(-1, -2), dy)) if wanted[1] else None
        return dx, dother

    return Rule(forward, backward)


def _batch_first(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, -1, 0))


def _batch_last(x: Array) -> Array:
    return np.moveaxis(x, 0, -1)


def global_average_pool(_attributes: Attributes, _kinds: tuple[bool, ...]) -> Rule:
    """GlobalAveragePool: the mean over space, whose axes stay with size 1."""
    return _reduction(lambda x: tuple(range(1, x.ndim - 1)), keeps_axes=True, is_mean=True)


def reduce_mean(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """ReduceMean."""
    axes = tuple(axis - 1 for axis in attributes["axes"])
    return _reduction(lambda _: axes, keeps_axes=bool(attributes["keepdims"]), is_mean=True)


def reduce_sum(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """ReduceSum."""
    axes = tuple(axis - 1 for axis in attributes["axes"])
    return _reduction(lambda _: axes, keeps_axes=bool(attributes["keepdims"]), is_mean=False)


def _reduction(axes_of: Callable[[Array], tuple[int, ...]], *, keeps_axes: bool, is_mean: bool) -> Rule:
    def forward(_: Buffers, x: Array) -> tuple[Array, tuple[int, ...]]:
        axes = axes_of(x)
        y = x.mean(axis=axes, keepdims=keeps_axes) if is_mean else x.sum(axis=axes, keepdims=keeps_axes)
        return y, x.shape

    def backward(buffers: Buffers, saved: tuple[int, ...], gradient: Array, _wanted: Wanted) -> tuple[Array]:
        dx = buffers.value(*saved)
        axes = axes_of(dx)
        if is_mean:
            gradient *= np.float32(1 / math.prod(saved[axis] for axis in axes))
        np.copyto(dx, gradient if keeps_axes else np.expand_dims(gradient, axes))
        return (dx,)

    return Rule(forward, backward)


def softmax(attributes: Attributes, _: tuple[bool, ...]) -> Rule:
    """Softmax along an axis that is not the batch."""
    axis = attributes["axis"] - 1

    def forward(_: Buffers, x: Array) -> tuple[Array, Array]:
        y = np.exp(x - x.max(axis=axis, keepdims=True))
        y /= y.sum(axis=axis, keepdims=True)
        return y, y

    def backward(_: Buffers, saved: Array, gradient: Array, _wanted: Wanted) -> tuple[Array]:
        gradient -= (gradient * saved).sum(axis=axis, keepdims=True)
        gradient *= saved
        return (gradient,)

    return Rule(forward, backward)


OPERATORS: dict[str, Maker] = {
    "Conv": convolution,
    "Gemm": gemm,
    "MatMul": matrix_product,
    **ARITHMETIC,
    "Relu": elementwise.relu,
    "LeakyRelu": elementwise.leaky_relu,
    "Clip": elementwise.clip,
    "Sigmoid": elementwise.sigmoid,
    "Tanh": elementwise.tanh,
    "HardSwish": elementwise.hard_swish,
    "MaxPool": maximum_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "ReduceMean": reduce_mean,
    "ReduceSum": reduce_sum,
    "Reshape": shapes.reshape,
    "Flatten": shapes.flatten,
    "Transpose": shapes.transpose,
    "Concat": shapes.concatenate,
    "Softmax": softmax,
}
"""Every operator but BatchNormalization, whose two forms are in `models.engines.numpy.normalisation`."""
