"""The operator table of the torch engine: operator -> a function of its inputs, attributes bound.

Semantics are those of `models.graph.OPERATORS` (ONNX opset 17). Widths are read from the tensors,
so that the same function serves every sub-network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]
Compute = Callable[..., Tensor]


def _halves(pads: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """ONNX pads (all begins, then all ends) -> (begins, ends)."""
    half = len(pads) // 2
    return tuple(pads[:half]), tuple(pads[half:])


def _edges(pads: tuple[int, ...]) -> list[int]:
    """ONNX pads -> the order of `torch.nn.functional.pad`: last axis first, begin and end together."""
    begins, ends = _halves(pads)
    return [edge for pair in zip(reversed(begins), reversed(ends), strict=True) for edge in pair]


def convolve(attributes: Attributes) -> Compute:
    """Conv in one or two dimensions; the number of groups follows from the shapes."""
    strides, dilations = tuple(attributes["strides"]), tuple(attributes["dilations"])
    begins, ends = _halves(attributes["pads"])
    symmetric, edges = begins == ends, _edges(attributes["pads"])
    convolution = {1: functional.conv1d, 2: functional.conv2d}[len(strides)]
    padding = begins if symmetric else (0,) * len(begins)
    # torch 2.13 on x86 crashes in the weight gradient of a strided 1x1 convolution in channels_last
    # with fewer than 8 input channels. The same convolution of the subsampled input does not.
    subsample = max(attributes["kernel_shape"]) == 1 and max(strides) > 1
    window = (slice(None), slice(None), *[slice(None, None, stride) for stride in strides])
    if subsample:
        symmetric, strides, padding = not any(attributes["pads"]), (1,) * len(strides), (0,) * len(strides)

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not symmetric:
            x = functional.pad(x, edges)
        if subsample:
            x = x[window]
        return convolution(x, weight, bias, strides, padding, dilations, x.shape[1] // weight.shape[1])

    return compute


def pool_maximum(attributes: Attributes) -> Compute:
    """MaxPool in one or two dimensions."""
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes["strides"])
    begins, ends = _halves(attributes["pads"])
    native = begins == ends and all(2 * begin <= size for begin, size in zip(begins, kernel, strict=True))
    padding, edges = begins if native else 0, _edges(attributes["pads"])
    ceil_mode = bool(attributes["ceil_mode"])
    pool = {1: functional.max_pool1d, 2: functional.max_pool2d}[len(kernel)]

    def compute(x: Tensor) -> Tensor:
        if not native:
            x = functional.pad(x, edges, value=float("-inf"))
        return pool(x, kernel, strides, padding, 1, ceil_mode)

    return compute


def pool_average(attributes: Attributes) -> Compute:
    """AveragePool in one or two dimensions; padding counts only if `count_include_pad` says so."""
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes["strides"])
    begins, ends = _halves(attributes["pads"])
    native = begins == ends and all(2 * begin <= size for begin, size in zip(begins, kernel, strict=True))
    padding, edges = begins if native else 0, _edges(attributes["pads"])
    ceil_mode, count_pad = bool(attributes["ceil_mode"]), bool(attributes["count_include_pad"])
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d}[len(kernel)]

    def compute(x: Tensor) -> Tensor:
        if native:
            return pool(x, kernel, strides, padding, ceil_mode, count_pad)
        sums = pool(functional.pad(x, edges), kernel, strides, 0, ceil_mode)
        if count_pad:
            return sums
        inside = functional.pad(torch.ones_like(x[:1, :1]), edges)
        return sums / pool(inside, kernel, strides, 0, ceil_mode)

    return compute


def clip(attributes: Attributes) -> Compute:
    """Clip to [min, max]; the gradient at either limit is 0, as of ReLU6."""
    low, high = float(attributes["min"]), float(attributes["max"])
    return lambda x: functional.hardtanh(x, low, high)


def reduce_by(function: Callable[..., Tensor]) -> Callable[[Attributes], Compute]:
    """ReduceMean, ReduceSum."""

    def bind(attributes: Attributes) -> Compute:
        axes, keep = tuple(attributes["axes"]), bool(attributes["keepdims"])
        return lambda x: function(x, dim=axes, keepdim=keep)

    return bind


def reshape(attributes: Attributes) -> Compute:
    """Reshape, where 0 copies a dimension and -1 infers one."""
    wanted = tuple(attributes["shape"])
    return lambda x: x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)])


def normalise_batch(epsilon: float) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Batch norm by the batch's own moments; returns (y, mean, 1 / sqrt(biased variance + epsilon))."""
    return lambda x, scale, bias: torch.native_batch_norm(x, scale, bias, None, None, True, 0.0, epsilon)


def normalise_given(epsilon: float) -> Compute:
    """Batch norm by given moments."""
    return lambda x, scale, bias, mean, variance: functional.batch_norm(
        x, mean, variance, scale, bias, training=False, eps=epsilon
    )


def relu_in_place(x: Tensor) -> Tensor:
    """Relu of a value that nobody reads any more."""
    return torch.relu_(x)


def _constant(function: Compute) -> Callable[[Attributes], Compute]:
    return lambda _: function


OPERATORS: dict[str, Callable[[Attributes], Compute]] = {
    "Conv": convolve,
    "Gemm": _constant(functional.linear),
    "MatMul": _constant(torch.matmul),
    "Add": _constant(torch.add),
    "Sub": _constant(torch.sub),
    "Mul": _constant(torch.mul),
    "Div": _constant(torch.div),
    "Relu": _constant(torch.relu),
    "LeakyRelu": lambda attributes: lambda x: functional.leaky_relu(x, attributes["alpha"]),
    "Clip": clip,
    "Sigmoid": _constant(torch.sigmoid),
    "Tanh": _constant(torch.tanh),
    "HardSwish": _constant(functional.hardswish),
    "MaxPool": pool_maximum,
    "AveragePool": pool_average,
    "GlobalAveragePool": _constant(lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)),
    "ReduceMean": reduce_by(torch.mean),
    "ReduceSum": reduce_by(torch.sum),
    "Reshape": reshape,
    "Flatten": _constant(lambda x: x.flatten(1)),
    "Transpose": lambda attributes: lambda x: x.permute(tuple(attributes["perm"])),
    "Concat": lambda attributes: lambda *xs: torch.cat(xs, dim=attributes["axis"]),
    "Softmax": lambda attributes: lambda x: functional.softmax(x, dim=attributes["axis"]),
}
"""Every operator but BatchNormalization, whose two forms are `normalise_batch` and `normalise_given`."""
