"""What each operator of an ONNX file becomes in the closed form: one function an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from firmware_profiles.errors import UserError
from models import operators
from models.canonical import Canonical, FileNode, Known, Parameter, Value
from models.folding import FOLDABLE, fold
from models.graph import Node
from models.onnx_reshapes import (
    Inputs,
    at,
    flatten,
    numbers_of,
    reshape,
    squeeze,
    unsqueeze,
    value_of,
    weight_of,
)
from models.operators import MAX_FLOAT32, OperatorError

_OF_TWO = ("Add", "Sub", "Mul", "Div", "MatMul")


def add(graph: Canonical, node: FileNode) -> None:
    """Take one operator of the file into the graph.

    Raises:
        UserError: names the operator, its place, and what to use instead.
    """
    try:
        inputs = [graph.read(name) for name in node.inputs]
        graph.known.update(dict.fromkeys(node.outputs[1:]))
        made = _take(graph, node, inputs)
    except OperatorError as error:
        place = f" at {node.place}" if node.place else ""
        raise UserError(f"{node.op}{place}: {error}") from None
    if node.outputs:
        graph.known[node.outputs[0]] = made


def _take(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    if node.op in FOLDABLE and all(known is None or isinstance(known, np.ndarray) for known in inputs):
        return fold(node.op, inputs, node.attributes)
    if node.op not in _RULES:
        raise OperatorError(operators.unsupported(node.op))
    if not inputs or (node.op in _OF_TWO and len(inputs) != 2):
        raise OperatorError(f"it has {len(inputs) or 'no'} input, which is the wrong number")
    return _RULES[node.op](graph, node, inputs)


def _windows(node: FileNode, x: Value, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Canonical window attributes: explicit pads, those of a Pad before included."""
    rank = len(kernel)
    strides = tuple(node.attributes.get("strides", (1,) * rank))
    dilations = tuple(node.attributes.get("dilations", (1,) * rank))
    pads = tuple(node.attributes.get("pads", (0,) * 2 * rank))
    auto = node.attributes.get("auto_pad", "NOTSET")
    if len(strides) != rank or len(dilations) != rank or len(x.shape) != rank + 1 or len(pads) != 2 * rank:
        raise OperatorError(f"its window has {rank} axes, its input [batch, {', '.join(map(str, x.shape))}]")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, width, stride, dilation in zip(x.shape[1:], kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // max(1, stride)) - 1) * stride + dilation * (width - 1) + 1 - size)
            less, more = total // 2, total - total // 2
            begins.append(less if auto == "SAME_UPPER" else more)
            ends.append(more if auto == "SAME_UPPER" else less)
        pads = (*begins, *ends)
    if x.pads:
        pads = tuple(a + b for a, b in zip(pads, x.pads, strict=True))
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}


def _conv(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    x, weight = value_of(inputs[0]), weight_of(at(inputs, 1), "weight")
    if weight.is_transposed:
        raise OperatorError("its weight is transposed first; give it as [out, in, ...]")
    windows = _windows(node, x, weight.shape[2:])
    bias = None if at(inputs, 2) is None else weight_of(inputs[2], "bias")
    plain = Value(x.name, x.shape)
    return graph.emit(node, "Conv", [plain, weight, bias], **windows, group=node.attributes.get("group", 1))


def _gemm(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    x, weight = value_of(inputs[0]), weight_of(at(inputs, 1), "weight")
    unusual = [
        key
        for key, usual in (("alpha", 1), ("beta", 1), ("transA", 0))
        if node.attributes.get(key, usual) != usual
    ]
    if unusual:
        raise OperatorError(f"its {unusual[0]} is not the usual one; scale or transpose outside of it")
    return _linear(graph, node, x, weight, at(inputs, 2), is_out_in=bool(node.attributes.get("transB", 0)))


def _linear(
    graph: Canonical, node: FileNode, x: Value, weight: Parameter, bias: Known | None, *, is_out_in: bool
) -> Value:
    if len(weight.shape) != 2:
        raise OperatorError(f"its weight has the shape {list(weight.shape)}; it must have two axes")
    if not is_out_in:
        weight = Parameter(weight.name, weight.shape[::-1], not weight.is_transposed)
    added = None if bias is None else weight_of(bias, "bias")
    return graph.emit(node, "Gemm", [x, weight, added])


def _matmul(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    x, other = value_of(inputs[0]), inputs[1]
    if isinstance(other, Parameter) and len(x.shape) == 1:
        return _linear(graph, node, x, weight_of(other, "weight"), None, is_out_in=False)
    return graph.emit(node, "MatMul", [x, other])


def _add(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """A bias added to a Gemm without one becomes its bias."""
    for x, bias in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
        if not (isinstance(x, Value) and isinstance(bias, Parameter) and graph.nodes):
            continue
        before = graph.nodes[-1]
        if (
            before.output == x.name
            and before.op == "Gemm"
            and len(before.inputs) == 2
            and bias.shape == x.shape
        ):
            graph.nodes.pop()
            name = graph.store(bias)
            graph.nodes.append(Node("Gemm", (*before.inputs, name), before.output, {}, before.place))
            return x
    return _binary(graph, node, inputs)


def _binary(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    if not any(isinstance(known, Value) for known in inputs):
        raise OperatorError(
            "it computes weights from weights; remove the parametrisation (such as weight_norm)"
        )
    return graph.emit(node, node.op, inputs)


def _activation(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    return graph.emit(node, node.op, [value_of(inputs[0])])


def _leaky_relu(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    return graph.emit(
        node, "LeakyRelu", [value_of(inputs[0])], alpha=_rounded(node.attributes.get("alpha", 0.01))
    )


def _rounded(value: Any) -> float:
    """A float32 as the shortest decimal that means it: 0.1, not 0.10000000149."""
    return float(np.format_float_scientific(np.float32(value), unique=True))


def _clip(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    limits = []
    for place, (key, default) in enumerate((("min", -MAX_FLOAT32), ("max", MAX_FLOAT32)), 1):
        limit = at(inputs, place)
        if limit is not None and not (isinstance(limit, np.ndarray) and limit.size == 1):
            raise OperatorError(f"its {key} is not a constant number")
        number = node.attributes.get(key, default) if limit is None else limit.item()
        limits.append(min(MAX_FLOAT32, max(-MAX_FLOAT32, float(number))))
    low, high = limits
    if (low, high) == (0.0, MAX_FLOAT32):
        return graph.emit(node, "Relu", [value_of(inputs[0])])
    return graph.emit(node, "Clip", [value_of(inputs[0])], min=low, max=high)


def _hard_sigmoid(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """clip(alpha * x + beta, 0, 1)."""
    alpha = np.float32(node.attributes.get("alpha", 0.2))
    scaled = graph.emit(node, "Mul", [value_of(inputs[0]), np.asarray(alpha)])
    moved = graph.emit(node, "Add", [scaled, np.asarray(np.float32(node.attributes.get("beta", 0.5)))])
    return graph.emit(node, "Clip", [moved], min=0.0, max=1.0)


def _pool(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    x = value_of(inputs[0])
    kernel = tuple(node.attributes.get("kernel_shape", ()))
    windows = _windows(node, x, kernel)
    if set(windows.pop("dilations")) != {1}:
        raise OperatorError("a dilated pool; use dilation=1")
    ceil = int(node.attributes.get("ceil_mode", 0))
    floor_sizes = operators.window_sizes(x.shape[1:], {**windows, "ceil_mode": 0})
    if ceil and operators.window_sizes(x.shape[1:], {**windows, "ceil_mode": 1}) == floor_sizes:
        ceil = 0
    windows["ceil_mode"] = ceil
    if node.op == "AveragePool":
        windows["count_include_pad"] = (
            int(node.attributes.get("count_include_pad", 0)) if any(windows["pads"]) else 0
        )
        if x.pads:
            if not node.attributes.get("count_include_pad", 0) and any(node.attributes.get("pads", ())):
                raise OperatorError(operators.unsupported("Pad"))
            windows["count_include_pad"] = 1
    elif x.pads:
        raise OperatorError(operators.unsupported("Pad"))
    return graph.emit(node, node.op, [Value(x.name, x.shape)], **windows)


def _pad(_graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """Zeros around space wait for the convolution or pool that reads them."""
    x = value_of(inputs[0])
    pads = numbers_of(at(inputs, 1), node.attributes.get("pads", ()))
    fill = at(inputs, 2)
    rank = len(x.shape) + 1
    is_zero = (
        (isinstance(fill, np.ndarray) and not fill.any())
        if fill is not None
        else not node.attributes.get("value")
    )
    if (
        len(pads) != 2 * rank
        or not is_zero
        or node.attributes.get("mode", "constant") != "constant"
        or min(pads) < 0
    ):
        raise OperatorError(operators.unsupported("Pad"))
    if any(pads[:2]) or any(pads[rank : rank + 2]):
        raise OperatorError("it pads channels; use a 1x1 convolution for shortcuts that widen")
    spatial = (*pads[2:rank], *pads[rank + 2 :])
    total = tuple(a + b for a, b in zip(spatial, x.pads or (0,) * len(spatial), strict=True))
    return Value(x.name, x.shape, total if any(total) else ())


def _global_pool(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    return graph.emit(node, "GlobalAveragePool", [value_of(inputs[0])])


def _reduce(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    x = value_of(inputs[0])
    rank = len(x.shape) + 1
    axes = numbers_of(at(inputs, 1), node.attributes.get("axes", range(rank)))
    axes = tuple(sorted({axis + rank if axis < 0 else axis for axis in axes}))
    keepdims = int(node.attributes.get("keepdims", 1))
    if 0 in axes:
        raise OperatorError("it reduces over the batch; a prediction must depend on no other sample")
    if node.op == "ReduceMean" and rank > 2 and axes == tuple(range(2, rank)):
        pooled = graph.emit(node, "GlobalAveragePool", [x])
        return pooled if keepdims else graph.emit(node, "Flatten", [pooled])
    return graph.emit(node, node.op, [x], axes=axes, keepdims=keepdims)


def _batch_norm(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    scale, bias = weight_of(at(inputs, 1), "scale"), weight_of(at(inputs, 2), "bias")
    prefix = scale.name.rpartition(".")[0] or scale.name
    count = 2
    while f"{prefix}.mean" in graph.statistics:  # a norm used twice has moments for each use
        prefix = f"{prefix.rpartition('.use')[0] or prefix}.use{count}"
        count += 1
    moments: list[Known | None] = []
    for moment, place in (("mean", 3), ("var", 4)):
        known = at(inputs, place)
        graph.statistics[f"{prefix}.{moment}"] = (
            known.name if isinstance(known, Parameter) else "",
            scale.shape,
        )
        moments.append(Parameter(f"{prefix}.{moment}", scale.shape))
    epsilon = _rounded(node.attributes.get("epsilon", 1e-5))
    return graph.emit(
        node, "BatchNormalization", [value_of(inputs[0]), scale, bias, *moments], epsilon=epsilon
    )


def _transpose(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    x = inputs[0]
    rank = len(x.shape) if isinstance(x, Parameter) else len(value_of(x).shape) + 1
    perm = tuple(node.attributes.get("perm", range(rank)[::-1]))
    if not isinstance(x, Parameter):
        return (
            graph.emit(node, "Transpose", [value_of(x)], perm=perm)
            if perm != tuple(range(rank))
            else value_of(x)
        )
    if perm == tuple(range(rank)):
        return x
    if perm != (1, 0) or x.is_reshaped:
        raise OperatorError(f"it reorders the axes of the weight {x.name}; store the weight as it is used")
    return Parameter(x.name, x.shape[::-1], not x.is_transposed)


def _concat(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    rank = len(value_of(inputs[0]).shape) + 1
    axis = int(node.attributes.get("axis", 1))
    return graph.emit(
        node, "Concat", [value_of(known) for known in inputs], axis=axis + rank if axis < 0 else axis
    )


def _softmax(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    rank = len(value_of(inputs[0]).shape) + 1
    axis = int(node.attributes.get("axis", -1))
    return graph.emit(node, "Softmax", [value_of(inputs[0])], axis=axis + rank if axis < 0 else axis)


def _shape(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    known = inputs[0]
    sizes = [*known.shape] if isinstance(known, Parameter) else [graph.batch_size, *value_of(known).shape]
    if isinstance(known, Value) and known.pads:
        raise OperatorError(operators.unsupported("Pad"))
    return np.array(sizes[node.attributes.get("start", 0) : node.attributes.get("end", len(sizes))], np.int64)


def _identity(_graph: Canonical, _node: FileNode, inputs: Inputs) -> Known:
    if inputs[0] is None:
        raise OperatorError("it has no input")
    return inputs[0]


_RULES: dict[str, Callable[[Canonical, FileNode, Inputs], Known]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    **dict.fromkeys(("Sub", "Mul", "Div"), _binary),
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "HardSwish"), _activation),
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "Pad": _pad,
    "GlobalAveragePool": _global_pool,
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduce),
    "BatchNormalization": _batch_norm,
    "Reshape": reshape,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "Flatten": flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Softmax": _softmax,
    "Shape": _shape,
    **dict.fromkeys(("Identity", "Dropout"), _identity),
}
