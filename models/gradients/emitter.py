"""ONNX nodes under construction, as plain data: nothing here needs the ONNX package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

AttributeValue: TypeAlias = "int | float | tuple[int, ...]"


class EmittedNode(NamedTuple):
    """One ONNX node of the default domain.

    Attributes:
        op: its ONNX operator.
        inputs: names of what it reads; "" for one that is left out.
        outputs: names of what it makes.
        attributes: of the operator.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, AttributeValue]


class Emitter:
    """Collects nodes and constants; a node that is there already is not made twice.

    Made names begin with "@", which no name of a ModelGraph contains.
    """

    def __init__(self) -> None:
        self.nodes: list[EmittedNode] = []
        self.constants: dict[str, NDArray] = {}
        self.outputs: dict[str, int] = {}
        self._made: dict[tuple, tuple[str, ...]] = {}
        self._num_values = 0

    def op(self, op: str, *inputs: str, **attributes: AttributeValue) -> str:
        """Add a node with one output and return the output's name."""
        return self.ops(op, inputs, 1, **attributes)[0]

    def again(self, op: str, *inputs: str, **attributes: AttributeValue) -> str:
        """Add a node with one output even if it is there: computed anew, a value need not be kept."""
        output = self._new_names(1)
        self.nodes.append(EmittedNode(op, inputs, output, attributes))
        return output[0]

    def ops(
        self, op: str, inputs: Iterable[str], num_outputs: int, **attributes: AttributeValue
    ) -> tuple[str, ...]:
        """Add a node and return its outputs' names."""
        inputs = tuple(inputs)
        key = (op, inputs, num_outputs, tuple(sorted(attributes.items())))
        if key not in self._made:
            outputs = self._new_names(num_outputs)
            self.nodes.append(EmittedNode(op, inputs, outputs, attributes))
            self._made[key] = outputs
        return self._made[key]

    def integers(self, *values: int) -> str:
        """An int64 vector: axes, shapes, positions."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def _new_names(self, num: int) -> tuple[str, ...]:
        first, self._num_values = self._num_values, self._num_values + num
        return tuple(f"@{index}" for index in range(first, first + num))

    def constant(self, array: NDArray) -> str:
        """Any constant; equal ones are one."""
        key = ("", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            name = f"@c{len(self.constants)}"
            self.constants[name] = array
            self._made[key] = (name,)
        return self._made[key][0]

    def output(self, name: str, public: str, rank: int) -> None:
        """Give a value of `rank` axes out under a public name."""
        self.nodes.append(EmittedNode("Identity", (name,), (public,), {}))
        self.outputs[public] = rank

    def size(self, name: str, axis: int) -> str:
        """A value's size along one axis, int64 [1]."""
        return self.op("Shape", name, start=axis, end=axis + 1)

    def as_float(self, name: str) -> str:
        """A whole number as float32."""
        return self.op("Cast", name, to=_FLOAT)

    def reshape_to(self, name: str, shape: tuple[int, ...], *ends: str) -> str:
        """Reshape to a fixed shape (0 copies, -1 infers) that sizes known only at run time follow."""
        target = self.integers(*shape)
        if ends:
            target = self.op("Concat", target, *ends, axis=0)
        return self.op("Reshape", name, target)

    def scale(self, name: str, factor: float) -> str:
        """A value times a number."""
        return name if factor == 1.0 else self.op("Mul", name, self.number(factor))

    def sum(self, name: str, axes: Iterable[int], *, keepdims: bool = True) -> str:
        """Sum over axes."""
        return self.op("ReduceSum", name, self.integers(*axes), keepdims=int(keepdims))

    def positive(self, name: str) -> str:
        """1 where a value is above 0, else 0.

        A hard sigmoid as steep as float32 allows: one vectorised pass, where Greater and Cast are two
        and Where is slower than both.
        """
        return self.op("HardSigmoid", name, alpha=_STEEP, beta=0.0)


_STEEP = 3e38
_FLOAT = 1  # onnx.TensorProto.FLOAT
