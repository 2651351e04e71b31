"""The closed form of a model file as it grows: nodes, weights and constants under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models import operators
from models.graph import Attribute, Constant, Node
from models.operators import Operand, OperatorError


@dataclass(frozen=True)
class FileNode:
    """One operator of a file, its attributes as plain Python values and arrays."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    place: str


@dataclass(frozen=True)
class Value:
    """An activation; `pads` are zeros still to be put around it by the window that reads it."""

    name: str
    shape: tuple[int, ...]
    pads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A weight of the file, perhaps read with its axes in another order or with axes of 1 put in."""

    name: str
    shape: tuple[int, ...]
    is_transposed: bool = False
    is_reshaped: bool = False


Known = Value | Parameter | np.ndarray


@dataclass
class Canonical:
    """The graph as it grows.

    Attributes:
        frozen: weights of the file that are not trained, such as a registered buffer.
        batch_size: the batch the file was made for, or BATCH_MARK if it is free.
        known: every name of the file that has been met.
        nodes: canonical nodes so far.
        stored: weight name -> (its shape in the graph, whether that is the file's transposed).
        statistics: graph's name of a moment -> (file's name or "", shape).
        constants: as in the graph.
    """

    frozen: Mapping[str, np.ndarray]
    batch_size: int
    known: dict[str, Known | None] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    stored: dict[str, tuple[tuple[int, ...], bool]] = field(default_factory=dict)
    statistics: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)

    def emit(self, node: FileNode, op: str, inputs: list[Known | None], **attributes: Attribute) -> Value:
        """Append a canonical node."""
        names, operands = [], []
        for known in inputs:
            if known is None:
                continue
            name, operand = self._operand(known)
            names.append(name)
            operands.append(operand)
        shape = operators.output_shape(op, operands, attributes)
        made = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(Node(op, tuple(names), made, dict(attributes), node.place))
        return Value(made, shape)

    def store(self, parameter: Parameter) -> str:
        """Note how a weight is stored; all who read it must agree."""
        form = (parameter.shape, parameter.is_transposed)
        if self.stored.setdefault(parameter.name, form) != form:
            raise OperatorError(
                f"{parameter.name} is read in two layouts; give each layer a weight of its own"
            )
        return parameter.name

    def read(self, name: str) -> Known | None:
        """What a name of the file stands for; None for an input left out."""
        if not name:
            return None
        if name not in self.known:
            raise OperatorError(f"its input {name[:80]!r} is made by no operator before it")
        known = self.known[name]
        if known is None:
            raise OperatorError(
                f"its input {name[:80]!r} is a second output, which only training runtimes make"
            )
        return known

    def _operand(self, known: Known) -> tuple[str, Operand]:
        if isinstance(known, Value):
            if known.pads:
                raise OperatorError(operators.unsupported("Pad"))
            return known.name, Operand("value", known.shape)
        if isinstance(known, Parameter):
            if known.name in self.statistics:
                return known.name, Operand("statistic", known.shape)
            if known.name not in self.frozen:
                return self.store(known), Operand("parameter", known.shape)
            values = self.frozen[known.name]
            known = (values.T if known.is_transposed else values).reshape(known.shape)
        values = np.asarray(known, np.float32)
        if values.size == 1:
            values = values.reshape(())
        constant = Constant(values.shape, tuple(float(value) for value in values.ravel()))
        for name, other in self.constants.items():
            if other == constant:
                return name, Operand("constant", constant.shape)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = constant
        return name, Operand("constant", constant.shape)
