"""Constant expressions of ONNX files, worked out with NumPy: shapes, scalars, small tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.operators import OperatorError

MAX_FOLDED = 2**20
BATCH_MARK = 1_000_003
"""Stands for the batch size in folded shapes; a prime that no real size is a multiple of."""

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]

_DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}


def fold(op: str, inputs: Inputs, attributes: Attributes) -> np.ndarray:
    """The value of an operator whose inputs are all known.

    Args:
        op: a key of FOLDABLE.
        inputs: arrays, None for inputs left out.
        attributes: as in the file.

    Raises:
        OperatorError: the expression is malformed or its value is huge.
    """
    try:
        made = np.asarray(FOLDABLE[op](inputs, attributes))
    except OperatorError:
        raise
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise OperatorError(f"a constant expression is malformed: {error}") from None
    if made.size > MAX_FOLDED:
        raise OperatorError(
            f"a constant expression makes {made.size} values; at most {MAX_FOLDED} are folded"
        )
    return made


def _constant(_: Inputs, attributes: Attributes) -> np.ndarray:
    for key, dtype in (("value", None), ("value_float", np.float32), ("value_int", np.int64)):
        if key in attributes:
            return np.asarray(attributes[key], dtype)
    for key, dtype in (("value_floats", np.float32), ("value_ints", np.int64)):
        if key in attributes:
            return np.asarray(attributes[key], dtype)
    raise OperatorError("a constant without a number in it")


def _constant_of_shape(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    shape = [int(size) for size in inputs[0]]
    if math.prod(shape) > MAX_FOLDED or min(shape, default=0) < 0:
        raise OperatorError(f"a constant of shape {shape[:8]} is too large to fold")
    return np.full(shape, np.ravel(attributes.get("value", np.zeros(1, np.float32)))[0])


def _axes(inputs: Inputs, attributes: Attributes) -> list[int] | None:
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attributes.get("axes")
    return None if axes is None else [int(axis) for axis in np.ravel(axes)]


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    return np.expand_dims(inputs[0], tuple(_axes(inputs, attributes) or ()))


def _squeeze(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    axes = _axes(inputs, attributes)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _slice(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    if len(inputs) > 1:
        starts, ends = np.ravel(inputs[1]), np.ravel(inputs[2])
        axes = np.ravel(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else np.arange(len(starts))
        steps = (
            np.ravel(inputs[4])
            if len(inputs) > 4 and inputs[4] is not None
            else np.ones(len(starts), np.int64)
        )
    else:
        starts, ends = np.ravel(attributes["starts"]), np.ravel(attributes["ends"])
        axes, steps = np.ravel(attributes.get("axes", np.arange(len(starts)))), np.ones(len(starts), np.int64)
    where = [slice(None)] * inputs[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        lowest = -(2**62)
        where[int(axis)] = slice(int(start), None if step < 0 and end < lowest else int(end), int(step))
    return inputs[0][tuple(where)]


def _reshape(inputs: Inputs, _: Attributes) -> np.ndarray:
    shape = [inputs[0].shape[place] if size == 0 else int(size) for place, size in enumerate(inputs[1])]
    return inputs[0].reshape(shape)


def _cast(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    return inputs[0].astype(_DTYPES[attributes["to"]])


def _divide(inputs: Inputs, _: Attributes) -> np.ndarray:
    if np.issubdtype(inputs[0].dtype, np.integer):
        return np.asarray(np.trunc(inputs[0] / inputs[1])).astype(inputs[0].dtype)
    return inputs[0] / inputs[1]


def _range(inputs: Inputs, _: Attributes) -> np.ndarray:
    start, end, step = (float(value) for value in inputs)
    if (end - start) / step > MAX_FOLDED:
        raise OperatorError("a constant range is too long to fold")
    return np.arange(*(np.asarray(value).item() for value in inputs))


FOLDABLE: dict[str, Callable[[Inputs, Attributes], Any]] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Identity": lambda inputs, _: inputs[0],
    "Shape": lambda inputs, _: np.array(inputs[0].shape, np.int64),
    "Gather": lambda inputs, attributes: np.take(inputs[0], inputs[1], attributes.get("axis", 0)),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": lambda inputs, attributes: np.concatenate(inputs, attributes["axis"]),
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda inputs, attributes: np.transpose(inputs[0], attributes.get("perm")),
    "Cast": _cast,
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Div": _divide,
    "Mod": lambda inputs, _: np.mod(inputs[0], inputs[1]),
    "Neg": lambda inputs, _: -inputs[0],
    "Sqrt": lambda inputs, _: np.sqrt(inputs[0]),
    "Floor": lambda inputs, _: np.floor(inputs[0]),
    "Range": _range,
    "ReduceProd": lambda inputs, attributes: np.prod(inputs[0], keepdims=bool(attributes.get("keepdims", 1))),
}
