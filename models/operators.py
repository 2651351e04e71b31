"""What each operator of a ModelGraph accepts, and the shape it makes: one function an operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

MAX_RANK = 6
MAX_DIMENSION = 2**24
MAX_ELEMENTS = 2**31
MAX_FLOAT32 = 3.4028234663852886e38

Shape = tuple[int, ...]

SUGGESTIONS: dict[str, str] = {
    "ArgMax": "give the class scores out; the loss and the metric take the argmax",
    "AveragePool": "use nn.AvgPool2d with a window that divides the input",
    "Cast": "keep every tensor float32",
    "ConvTranspose": "use convolutions and pools only; transposed convolution is not trained here",
    "Dropout": "remove it: sub-networks are the dropout here",
    "Einsum": "write it as matrix products (torch.matmul)",
    "Elu": "use nn.LeakyReLU or nn.ReLU",
    "Erf": "use nn.ReLU, nn.SiLU or nn.Hardswish instead of GELU",
    "Exp": "use nn.Softmax, nn.Sigmoid or nn.Tanh",
    "Expand": "let + and * broadcast instead of expand()",
    "Gather": "use layers whose inputs are whole tensors; indexing and nn.Embedding are not supported",
    "GlobalMaxPool": "use nn.AdaptiveAvgPool2d(1), or nn.MaxPool2d with the size of the map",
    "GRU": "use nn.Conv1d over time",
    "If": "write the forward pass without branches on data",
    "InstanceNormalization": "use nn.BatchNorm1d or nn.BatchNorm2d instead of group or instance norm",
    "GroupNormalization": "use nn.BatchNorm1d or nn.BatchNorm2d",
    "LayerNormalization": "use nn.BatchNorm1d or nn.BatchNorm2d",
    "Log": "give the class scores out without log-softmax; the loss adds it",
    "LogSoftmax": "give the class scores out without log-softmax; the loss adds it",
    "Loop": "write the forward pass without loops over data",
    "LSTM": "use nn.Conv1d over time",
    "Pad": "use padding= of the convolution or pooling layer that follows, with zeros",
    "PRelu": "use nn.LeakyReLU or nn.ReLU",
    "Pow": "write x * x",
    "ReduceMax": "use nn.MaxPool2d with the size of the map, or mean()",
    "Resize": "use strides or pooling; resizing is not supported",
    "RNN": "use nn.Conv1d over time",
    "Scan": "write the forward pass without loops over data",
    "Slice": "use a strided 1x1 convolution for shortcuts, or separate layers instead of slices",
    "Softplus": "use nn.ReLU or nn.SiLU",
    "Split": "use separate layers instead of split() or chunk()",
    "Sqrt": "use nn.BatchNorm1d or nn.BatchNorm2d for normalisation",
    "Where": "write the forward pass without branches on data",
}


class OperatorError(ValueError):
    """What is wrong with one node; the caller adds which node and where."""


class Operand(NamedTuple):
    """What a node reads.

    Attributes:
        kind: "value" (an activation), "parameter", "statistic" or "constant".
        shape: of one sample for a value (no batch axis), else the full shape.
    """

    kind: str
    shape: Shape


Attributes = Mapping[str, Any]


def unsupported(op: str) -> str:
    """Why an operator is refused, and what to use instead."""
    advice = SUGGESTIONS.get(op, "`edgetide models check --help` names the operators that are")
    return f"the operator {op[:80]} is not supported; {advice}"


def check_shape(shape: Shape, min_rank: int) -> None:
    """Refuse shapes no real network has."""
    if not min_rank <= len(shape) <= MAX_RANK:
        raise OperatorError(
            f"the shape {list(shape[:8])} has {len(shape)} axes; {min_rank} to {MAX_RANK} are supported"
        )
    if any(not 1 <= size <= MAX_DIMENSION for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise OperatorError(f"the shape {list(shape)} is empty or too large")


def output_shape(op: str, inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    """Shape of one sample of the operator's output.

    Raises:
        OperatorError: the inputs or attributes are not what the operator takes.
    """
    shape = _SHAPES[op](inputs, attributes)
    check_shape(shape, 1)
    return shape


def window_sizes(sizes: Sequence[int], attributes: Attributes) -> Shape:
    """Output sizes of a sliding window (convolution or pool) over spatial `sizes`."""
    kernel, strides, pads = (_ints(attributes, key) for key in ("kernel_shape", "strides", "pads"))
    dilations = _ints(attributes, "dilations") if "dilations" in attributes else (1,) * len(kernel)
    rank = len(sizes)
    if rank not in (1, 2):
        raise OperatorError(f"it slides over {rank} spatial axes; 1 and 2 are supported")
    if not len(kernel) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise OperatorError(f"kernel_shape, strides, dilations and pads must fit {rank} spatial axes")
    if (
        min(*kernel, *strides, *dilations) < 1
        or min(pads) < 0
        or max(*kernel, *strides, *dilations, *pads) > 2**16
    ):
        raise OperatorError("kernel_shape, strides and dilations must be positive, pads must not be negative")
    made = []
    for axis, size in enumerate(sizes):
        begin, end = pads[axis], pads[axis + rank]
        room = size + begin + end - dilations[axis] * (kernel[axis] - 1) - 1
        if room < 0:
            raise OperatorError(
                f"its window is larger than the input {list(sizes)}; use a larger input or fewer pools"
            )
        steps = room // strides[axis]
        if attributes.get("ceil_mode"):
            steps = -(-room // strides[axis])
            if steps * strides[axis] >= size + begin:
                raise OperatorError(
                    "ceil_mode adds a window that lies outside the input; use ceil_mode=False"
                )
        made.append(steps + 1)
    return tuple(made)


def broadcast(left: Operand, right: Operand) -> Shape:
    """Sample shape of an element-wise operation; only values have a batch axis of their own."""
    values = [operand.shape for operand in (left, right) if operand.kind == "value"]
    if not values:
        raise OperatorError("it computes weights from other weights; give the result as one parameter")
    if len(values) == 2 and len(values[0]) != len(values[1]):
        raise OperatorError(
            f"it joins {_text(values[0])} and {_text(values[1])}; give both the same number of axes"
        )
    rank = len(values[0]) + 1
    full = [(1, *operand.shape) if operand.kind == "value" else operand.shape for operand in (left, right)]
    if max(len(shape) for shape in full) > rank:
        raise OperatorError(
            f"a parameter of shape {list(max(full, key=len))} has more axes than {_text(values[0])}"
        )
    full = [(1,) * (rank - len(shape)) + shape for shape in full]
    if full[0][0] != 1 or full[1][0] != 1:
        raise OperatorError("a parameter has an own entry for each sample of the batch")
    made = []
    for a, b in zip(full[0][1:], full[1][1:], strict=True):
        if a != b and 1 not in (a, b):
            raise OperatorError(f"the shapes {list(full[0][1:])} and {list(full[1][1:])} do not fit together")
        made.append(max(a, b))
    return tuple(made)


def reshape_sizes(sizes: Shape, shape: Sequence[int]) -> Shape:
    """Sample shape after Reshape: shape[0] is 0 (the batch), 0 copies, one -1 is inferred."""
    if not shape or shape[0] != 0:
        raise OperatorError("its shape must begin with 0, which keeps the batch")
    made = []
    for axis, size in enumerate(shape[1:]):
        if size == 0 and axis >= len(sizes):
            raise OperatorError(
                f"0 in place {axis + 1} of its shape copies an axis that {_text(sizes)} does not have"
            )
        made.append(sizes[axis] if size == 0 else size)
    known = math.prod(size for size in made if size != -1)
    if made.count(-1) > 1 or any(size < 1 and size != -1 for size in made):
        raise OperatorError(f"its shape {list(shape)} is not one")
    if -1 in made and known and math.prod(sizes) % known == 0:
        made[made.index(-1)] = math.prod(sizes) // known
    if -1 in made or math.prod(made) != math.prod(sizes):
        raise OperatorError(
            f"{_text(sizes)} cannot take the shape {list(shape)}: it would mix samples or drop values"
        )
    return tuple(made)


def _conv(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    _kinds(inputs, "value", "parameter", "parameter?")
    x, weight = inputs[0].shape, inputs[1].shape
    group = _int(attributes, "group", 1, MAX_DIMENSION)
    if len(weight) < 2 or weight[2:] != _ints(attributes, "kernel_shape") or len(weight) != len(x) + 1:
        raise OperatorError(f"its weight {list(weight)} does not fit kernel_shape and the input {_text(x)}")
    if x[0] != weight[1] * group or weight[0] % group:
        raise OperatorError(
            f"its weight {list(weight)} with group={group} does not fit {x[0]} input channels"
        )
    if len(inputs) == 3 and inputs[2].shape != weight[:1]:
        raise OperatorError(f"its bias {list(inputs[2].shape)} does not fit {weight[0]} output channels")
    return (weight[0], *window_sizes(x[1:], attributes))


def _gemm(inputs: Sequence[Operand], _: Attributes) -> Shape:
    _kinds(inputs, "value", "parameter", "parameter?")
    x, weight = inputs[0].shape, inputs[1].shape
    if len(x) != 1 or len(weight) != 2 or x[0] != weight[1]:
        raise OperatorError(
            f"its weight {list(weight)} ([out, in]) does not fit the input {_text(x)}; flatten first?"
        )
    if len(inputs) == 3 and inputs[2].shape != weight[:1]:
        raise OperatorError(f"its bias {list(inputs[2].shape)} does not fit {weight[0]} outputs")
    return weight[:1]


def _matmul(inputs: Sequence[Operand], _: Attributes) -> Shape:
    _kinds(inputs, "value", "parameter|value")
    x, other = inputs[0].shape, inputs[1].shape
    if inputs[1].kind == "parameter":
        if len(other) != 2 or x[-1] != other[0]:
            raise OperatorError(f"its weight {list(other)} ([in, out]) does not fit the input {_text(x)}")
        return (*x[:-1], other[1])
    if len(x) != len(other) or len(x) < 2 or x[-1] != other[-2] or x[:-2] != other[:-2]:
        raise OperatorError(f"{_text(x)} and {_text(other)} cannot be multiplied")
    return (*x[:-1], other[-1])


def _binary(inputs: Sequence[Operand], _: Attributes) -> Shape:
    _kinds(inputs, "value|parameter|constant", "value|parameter|constant")
    return broadcast(inputs[0], inputs[1])


def _same(inputs: Sequence[Operand], _: Attributes) -> Shape:
    _kinds(inputs, "value")
    return inputs[0].shape


def _leaky_relu(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    _float(attributes, "alpha")
    return _same(inputs, attributes)


def _clip(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    if _float(attributes, "min") > _float(attributes, "max"):
        raise OperatorError("its min is above its max")
    return _same(inputs, attributes)


def _pool(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    x = _same(inputs, attributes)
    ceil = _int(attributes, "ceil_mode", 0, 1)
    if "count_include_pad" in attributes:
        _int(attributes, "count_include_pad", 0, 1)
        if ceil:
            raise OperatorError("average pooling with ceil_mode=True; use a window that divides the input")
    made = window_sizes(x[1:], attributes)
    kernel, pads = _ints(attributes, "kernel_shape"), _ints(attributes, "pads")
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
        raise OperatorError("its padding is as large as its window")
    return (x[0], *made)


def _global_pool(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    x = _same(inputs, attributes)
    if len(x) < 2:
        raise OperatorError(f"it averages over space, and {_text(x)} has none")
    return (x[0], *(1,) * (len(x) - 1))


def _batch_norm(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    _kinds(inputs, "value", "parameter", "parameter", "statistic", "statistic")
    if not 0 <= _float(attributes, "epsilon") <= 1:
        raise OperatorError("its epsilon is outside 0..1")
    channels = inputs[0].shape[:1]
    if any(operand.shape != channels for operand in inputs[1:]):
        raise OperatorError(f"its tensors must have {channels[0]} entries, one for each channel")
    return inputs[0].shape


def _reduce(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    x = _same(inputs, attributes)
    axes, keepdims = _ints(attributes, "axes"), _int(attributes, "keepdims", 0, 1)
    if not axes or sorted(set(axes)) != list(axes) or axes[0] < 1 or axes[-1] > len(x):
        raise OperatorError(f"its axes {list(axes)} must be rising, from 1 (0 is the batch) to {len(x)}")
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(x, 1))
    return tuple(size for axis, size in enumerate(x, 1) if axis not in axes)


def _reshape(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    return reshape_sizes(_same(inputs, attributes), _ints(attributes, "shape"))


def _flatten(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    return (math.prod(_same(inputs, attributes)),)


def _transpose(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    x, perm = _same(inputs, attributes), _ints(attributes, "perm")
    if sorted(perm) != list(range(len(x) + 1)) or perm[0] != 0:
        raise OperatorError(f"its perm {list(perm)} must reorder all axes and leave the batch first")
    return tuple(x[axis - 1] for axis in perm[1:])


def _concat(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    _kinds(inputs, *("value",) * max(1, len(inputs)))
    first = inputs[0].shape
    axis = _int(attributes, "axis", 1, len(first)) - 1
    for operand in inputs:
        if operand.shape[:axis] + operand.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise OperatorError(
                f"{_text(first)} and {_text(operand.shape)} differ in more than axis {axis + 1}"
            )
    return (*first[:axis], sum(operand.shape[axis] for operand in inputs), *first[axis + 1 :])


def _softmax(inputs: Sequence[Operand], attributes: Attributes) -> Shape:
    x = _same(inputs, attributes)
    _int(attributes, "axis", 1, len(x))
    return x


_SHAPES: dict[str, Callable[[Sequence[Operand], Attributes], Shape]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _binary,
    "Sub": _binary,
    "Mul": _binary,
    "Div": _binary,
    "Relu": _same,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Sigmoid": _same,
    "Tanh": _same,
    "HardSwish": _same,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "BatchNormalization": _batch_norm,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Softmax": _softmax,
}


def _text(shape: Shape) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"


def _kinds(inputs: Sequence[Operand], *expected: str) -> None:
    least = sum(not kind.endswith("?") for kind in expected)
    if not least <= len(inputs) <= len(expected):
        raise OperatorError(f"it has {len(inputs)} inputs; it takes {' , '.join(expected)}")
    for place, (operand, kinds) in enumerate(zip(inputs, expected, strict=False)):
        if operand.kind not in kinds.rstrip("?").split("|"):
            raise OperatorError(f"its input {place} is a {operand.kind}; it must be a {kinds.rstrip('?')}")


def _ints(attributes: Attributes, key: str) -> Shape:
    value = attributes[key]
    if (
        not isinstance(value, tuple)
        or len(value) > 2 * MAX_RANK
        or not all(type(item) is int for item in value)
    ):
        raise OperatorError(f"its {key} must be a few whole numbers")
    return value


def _int(attributes: Attributes, key: str, low: int, high: int) -> int:
    value = attributes[key]
    if type(value) is not int or not low <= value <= high:
        raise OperatorError(f"its {key} must be a whole number from {low} to {high}")
    return value


def _float(attributes: Attributes, key: str) -> float:
    value = attributes[key]
    if type(value) not in (int, float) or not abs(value) <= MAX_FLOAT32:
        raise OperatorError(f"its {key} must be a finite number")
    return float(value)
