"""What the inputs of an ONNX operator must be, and what becomes of reshapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models import operators
from models.canonical import Canonical, FileNode, Known, Parameter, Value
from models.folding import BATCH_MARK
from models.operators import OperatorError

Inputs = list[Known | None]


def value_of(known: Known | None, what: str = "its input") -> Value:
    """An activation."""
    if not isinstance(known, Value):
        raise OperatorError(f"{what} is a weight or a constant; it must be computed from the network's input")
    return known


def weight_of(known: Known | None, what: str) -> Parameter:
    """A weight in its own shape."""
    if not isinstance(known, Parameter):
        advice = "use affine=True" if what == "scale" else "use a layer with a weight of its own"
        raise OperatorError(f"its {what} is not a trained weight; {advice}")
    if known.is_reshaped:
        raise OperatorError(f"its {what} {known.name} is reshaped first; give the weight in its final shape")
    return known


def numbers_of(known: Known | None, fallback: Any = ()) -> tuple[int, ...]:
    """Whole numbers that must be constant."""
    if known is None:
        return tuple(int(value) for value in np.ravel(fallback))
    if not isinstance(known, np.ndarray):
        raise OperatorError("a shape or list of axes depends on data; it must be constant")
    return tuple(int(value) for value in known.ravel())


def at(inputs: Inputs, place: int) -> Known | None:
    """An input that may be left out."""
    return inputs[place] if place < len(inputs) else None


def reshape(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """Reshape with a constant shape, or one worked out from Shape."""
    if isinstance(inputs[0], Parameter):
        return _reshaped_parameter(inputs[0], numbers_of(at(inputs, 1)))
    x = value_of(inputs[0])
    shape = list(numbers_of(at(inputs, 1), node.attributes.get("shape", ())))
    sizes = list(x.shape)
    if not node.attributes.get("allowzero", 0):
        shape = [
            (graph.batch_size if place == 0 else sizes[place - 1])
            if size == 0 and place <= len(sizes)
            else size
            for place, size in enumerate(shape)
        ]
    if not shape or shape[0] not in (-1, graph.batch_size):
        raise OperatorError(
            f"the shape {shape[:6]} mixes samples; keep the batch first: x.view(x.size(0), ...)"
        )
    return _shaped(graph, node, x, operators.reshape_sizes(x.shape, (0, *shape[1:])))


def _shaped(graph: Canonical, node: FileNode, x: Value, made: tuple[int, ...]) -> Value:
    """The canonical form of a reshape: nothing, Flatten, channels kept, or channels moved."""
    if made == x.shape:
        return x
    if len(made) == 1:
        return graph.emit(node, "Flatten", [x])
    shape = (0, 0, *made[1:]) if made[0] == x.shape[0] else (0, *made)
    return graph.emit(node, "Reshape", [x], shape=shape)


def _reshaped_parameter(known: Parameter, shape: tuple[int, ...]) -> Parameter:
    if -1 in shape and math.prod(size for size in shape if size != -1):
        rest = math.prod(known.shape) // math.prod(size for size in shape if size != -1)
        shape = tuple(rest if size == -1 else size for size in shape)
    if math.prod(shape) != math.prod(known.shape):
        raise OperatorError(
            f"the weight {known.name} {list(known.shape)} cannot take the shape {list(shape)}"
        )
    return Parameter(
        known.name, shape, known.is_transposed, is_reshaped=shape != known.shape or known.is_reshaped
    )


def unsqueeze(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """Axes of 1 put in."""
    x = inputs[0]
    axes = numbers_of(at(inputs, 1), node.attributes.get("axes", ()))
    sizes = list(x.shape) if isinstance(x, Parameter) else [BATCH_MARK, *value_of(x).shape]
    rank = len(sizes) + len(axes)
    for axis in sorted(axis + rank if axis < 0 else axis for axis in axes):
        sizes.insert(axis, 1)
    if isinstance(x, Parameter):
        return _reshaped_parameter(x, tuple(sizes))
    return _keep_batch(graph, node, value_of(x), sizes)


def squeeze(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """Axes of 1 taken out."""
    x = value_of(inputs[0])
    sizes = [BATCH_MARK, *x.shape]
    axes = numbers_of(
        at(inputs, 1), node.attributes.get("axes", [i for i, size in enumerate(sizes) if size == 1])
    )
    gone = {axis + len(sizes) if axis < 0 else axis for axis in axes}
    if any(axis >= len(sizes) or sizes[axis] != 1 for axis in gone):
        raise OperatorError("it squeezes an axis that is longer than 1")
    return _keep_batch(graph, node, x, [size for axis, size in enumerate(sizes) if axis not in gone])


def _keep_batch(graph: Canonical, node: FileNode, x: Value, sizes: list[int]) -> Value:
    if sizes[0] != BATCH_MARK or len(sizes) < 2:
        raise OperatorError("it moves the batch axis; keep the batch first")
    return _shaped(graph, node, x, tuple(sizes[1:]))


def flatten(graph: Canonical, node: FileNode, inputs: Inputs) -> Known:
    """Flatten at axis 1."""
    x = value_of(inputs[0])
    axis = int(node.attributes.get("axis", 1))
    if axis not in (1, -len(x.shape)):
        raise OperatorError("it flattens samples together; use axis 1 (nn.Flatten())")
    return _shaped(graph, node, x, (math.prod(x.shape),))
