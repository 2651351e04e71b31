"""Add, Sub, Mul and Div in NumPy, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from models.engines.numpy.memory import Buffers
from models.engines.numpy.rule import Attributes, Maker, Rule, Wanted
from models.subnet import Array


class _Operands(NamedTuple):
    """What the backward pass reads.

    Attributes:
        shapes: of both operands, as the graph has them.
        aligned: the shapes in which they were broadcast.
        values: both, broadcastable, or None where their gradients don't depend on them.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    aligned: tuple[tuple[int, ...], tuple[int, ...]]
    values: tuple[Array, Array] | None


_Share = Callable[[Array, Any], Array]
"""From the output's gradient and both operands an operand's gradient, before it is summed to its shape."""


def _arithmetic(
    function: Callable[..., Array], shares: tuple[_Share, _Share], *, reads_values: bool
) -> Maker:
    def make(_: Attributes, is_value: tuple[bool, ...]) -> Rule:
        def align(left: Array, right: Array) -> tuple[_Operands, tuple[Array, Array]]:
            num_axes = (left if is_value[0] else right).ndim
            values = (_aligned(left, num_axes, is_value[0]), _aligned(right, num_axes, is_value[1]))
            aligned = (values[0].shape, values[1].shape)
            saved = values if reads_values else None
            return _Operands((left.shape, right.shape), aligned, saved), values

        def forward(buffers: Buffers, left: Array, right: Array) -> tuple[Array, _Operands]:
            operands, values = align(left, right)
            made = buffers.value(*np.broadcast_shapes(*operands.aligned))
            return function(*values, out=made), operands

        def in_place(buffers: Buffers, left: Array, right: Array) -> tuple[Array, _Operands]:
            operands, values = align(left, right)
            if np.broadcast_shapes(*operands.aligned) != left.shape:
                return forward(buffers, left, right)
            return function(*values, out=left), operands

        return Rule(forward, backward, None if reads_values else in_place)

    def backward(
        buffers: Buffers, saved: _Operands, gradient: Array, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        made: list[Array | None] = [None, None]
        for side in (1, 0):  # the first operand last: it may be given the output's gradient itself
            if wanted[side]:
                found = _summed_to(shares[side](gradient, saved.values), saved.aligned[side])
                if found is gradient and side == 1 and wanted[0]:
                    found = buffers.copy(gradient)
                made[side] = found.reshape(saved.shapes[side])
        return tuple(made)

    return make


def _aligned(x: Array, num_axes: int, is_value: bool) -> Array:  # noqa: FBT001 - as the caller has it
    """An operand with as many axes as the values have; what the graph gives has the batch axis first."""
    if is_value:
        return x
    shape = ((1,) * num_axes + x.shape)[-num_axes:]
    return x.reshape((*shape[1:], 1))


def _summed_to(x: Array, shape: tuple[int, ...]) -> Array:
    """X itself, or its sums over the axes along which an operand of this shape was repeated."""
    axes = tuple(axis for axis, size in enumerate(shape) if size != x.shape[axis])
    return x.sum(axis=axes, keepdims=True) if axes else x


ARITHMETIC: dict[str, Maker] = {
    "Add": _arithmetic(np.add, (lambda g, _: g, lambda g, _: g), reads_values=False),
    "Sub": _arithmetic(np.subtract, (lambda g, _: g, lambda g, _: -g), reads_values=False),
    "Mul": _arithmetic(np.multiply, (lambda g, v: g * v[1], lambda g, v: g * v[0]), reads_values=True),
    "Div": _arithmetic(
        np.divide, (lambda g, v: g / v[1], lambda g, v: -g * v[0] / (v[1] * v[1])), reads_values=True
    ),
}
"""Each with its two operands' shares of the gradient."""
