"""What training a sub-network costs, as exact functions of its dropout vector.

Multiply-accumulates (MACs) are those of Conv, Gemm and MatMul; everything else grows with the
channels, not with their product, and is left out, as in DISTREAL (arXiv 2112.08761). For one sample

    forward  = sum over layers of output positions x output channels x inputs per output
    training = forward + input gradients (none for a layer that reads nothing trained) + weight gradients

Memory, in float32 values of 4 bytes, `full` at full width and `sub` at the vector's:

    3 x parameters(full)         weights, momentum, and the update that is sent
    + statistics(full)
    + 2 x parameters(sub)        the cut weights and their gradients
    + batch x activations(sub)   what the backward pass reads
    + batch x largest(sub)       inputs and output of the largest operator, whose gradients coexist
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.graph import ModelGraph, Node
from models.subnet import DropoutVector, check_vector, full_vector
from models.widths import Segment, WidthPlan

_READS_INPUT = {"Conv", "Gemm", "BatchNormalization", "LeakyRelu", "Clip", "HardSwish", "MaxPool"}
_READS_OUTPUT = {"Relu", "Sigmoid", "Tanh", "Softmax", "MaxPool"}
_READS_BOTH_INPUTS = {"Mul", "Div", "MatMul"}


@dataclass(frozen=True)
class Cost:
    """The cost of one dropout vector.

    Attributes:
        macs_forward: multiply-accumulates of one sample, forward.
        macs_training: of one sample, forward and backward.
        num_parameters: trained entries of the sub-network.
        activation_bytes: of one sample, kept for the backward pass.
        memory_bytes: of training one mini-batch, by the formula of this module.
    """

    macs_forward: int
    macs_training: int
    num_parameters: int
    activation_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Costs:
    """The costs of n dropout vectors: the fields of Cost, int64 [n] each."""

    macs_forward: NDArray[np.int64]
    macs_training: NDArray[np.int64]
    num_parameters: NDArray[np.int64]
    activation_bytes: NDArray[np.int64]
    memory_bytes: NDArray[np.int64]


def cost(graph: ModelGraph, plan: WidthPlan, vector: DropoutVector, batch_size: int) -> Cost:
    """The cost of one vector; use a CostModel for many.

    Raises:
        UserError: the vector does not fit the plan.
    """
    check_vector(plan, vector)
    many = CostModel(graph, plan, batch_size).costs([vector])
    return Cost(
        macs_forward=int(many.macs_forward[0]),
        macs_training=int(many.macs_training[0]),
        num_parameters=int(many.num_parameters[0]),
        activation_bytes=int(many.activation_bytes[0]),
        memory_bytes=int(many.memory_bytes[0]),
    )


class CostModel:
    """The cost formulas of one graph, evaluated for many vectors at once.

    The length of an axis is a linear form `a + b . vector`; every cost is a sum of products of two.

    Attributes:
        num_groups: entries of a vector.
        batch_size: samples of a mini-batch, which memory_bytes means.
    """

    def __init__(self, graph: ModelGraph, plan: WidthPlan, batch_size: int) -> None:
        self.num_groups = len(plan.groups)
        self.batch_size = batch_size
        self._forms: dict[tuple[int, ...], int] = {(1, *(0,) * self.num_groups): 0}
        trained = _trained_values(graph)
        forward = [self._macs(graph, plan, node) for node in graph.nodes]
        self._forward = _Products(forward)
        self._training = _Products(
            [
                (term[0] * _passes(graph, node, trained), *term[1:])
                for term, node in zip(forward, graph.nodes, strict=True)
            ]
        )
        self._parameters = _Products([self._size(plan, name) for name in graph.parameters])
        values = {name: self._value(graph, plan, name) for name in graph.shapes}
        self._activations = _Products([values[name] for name in sorted(_kept_values(graph))])
        self._operators = [
            _Products([values[name] for name in (*node.inputs, node.output) if name in values])
            for node in graph.nodes
        ]
        self._num_statistics = sum(math.prod(shape) for shape in graph.statistics.values())
        self._matrix = np.array(list(self._forms), np.int64)
        self._num_full = int(self._parameters(self._lengths([full_vector(plan)]))[0])

    def costs(self, vectors: Sequence[DropoutVector] | NDArray[np.int64], channel_block: int = 1) -> Costs:
        """Costs of int64 [n, num_groups] vectors, which must fit the plan.

        Args:
            vectors: kept channels of each group.
            channel_block: for MACs alone, axes that shrink count as if filled up to a multiple of it, as
                libraries compute whose kernels take so many channels at once.
        """
        lengths = self._lengths(vectors)
        filled = lengths.copy()
        filled[1:] = -(-lengths[1:] // channel_block) * channel_block  # the first form is the constant 1
        num_parameters = self._parameters(lengths)
        activations = self._activations(lengths)
        largest = np.max([operator(lengths) for operator in self._operators], axis=0)
        memory = (
            3 * self._num_full
            + self._num_statistics
            + 2 * num_parameters
            + self.batch_size * (activations + largest)
        )
        return Costs(
            self._forward(filled), self._training(filled), num_parameters, 4 * activations, 4 * memory
        )

    def _lengths(self, vectors: Sequence[DropoutVector] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Every linear form for every vector: int64 [forms, n]."""
        given = np.asarray(vectors, np.int64).reshape(len(vectors), self.num_groups)
        return self._matrix[:, :1] + self._matrix[:, 1:] @ given.T

    def _form(self, axis: tuple[Segment, ...]) -> int:
        """Index of the linear form that gives an axis' length."""
        form = [0] * (self.num_groups + 1)
        for segment in axis:
            if segment.group is None:
                form[0] += segment.num_channels * segment.repeat
            else:
                form[segment.group + 1] += segment.repeat
        return self._forms.setdefault(tuple(form), len(self._forms))

    def _size(self, plan: WidthPlan, name: str) -> tuple[int, int, int]:
        """Entries of a tensor, as (factor, form, form)."""
        factor, forms = 1, []
        for axis in plan.axes[name]:
            if all(segment.group is None for segment in axis):
                factor *= sum(segment.num_channels * segment.repeat for segment in axis)
            else:
                forms.append(self._form(axis))
        assert len(forms) <= 2, "no operator shrinks a third axis"
        return (factor, *forms, *(0,) * (2 - len(forms)))  # type: ignore[return-value]

    def _value(self, graph: ModelGraph, plan: WidthPlan, name: str) -> tuple[int, int, int]:
        return math.prod(graph.shapes[name][1:]), self._form(plan.values[name]), 0

    def _macs(self, graph: ModelGraph, plan: WidthPlan, node: Node) -> tuple[int, int, int]:
        """Forward multiply-accumulates of a node, as (factor, form, form)."""
        if node.op in ("Conv", "Gemm"):
            positions = math.prod(graph.shapes[node.output][1:])
            factor, *forms = self._size(plan, node.inputs[1])
            return (positions * factor, *forms)  # type: ignore[return-value]
        if node.op == "MatMul":
            factor, form, _ = self._value(graph, plan, node.output)
            inner = graph.shapes[node.inputs[0]][-1]
            if len(graph.shapes[node.inputs[0]]) == 1:
                return factor, form, self._form(plan.values[node.inputs[0]])
            return factor * inner, form, 0
        return 0, 0, 0


class _Products:
    """A sum of factor x form x form."""

    def __init__(self, terms: list[tuple[int, int, int]]) -> None:
        kept = [term for term in terms if term[0]]
        self._factors = np.array([term[0] for term in kept], np.int64)
        self._left = [term[1] for term in kept]
        self._right = [term[2] for term in kept]

    def __call__(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._factors @ (lengths[self._left] * lengths[self._right])


def _trained_values(graph: ModelGraph) -> set[str]:
    """Values that depend on a parameter, and so need a gradient."""
    trained: set[str] = set()
    for node in graph.nodes:
        if any(name in graph.parameters or name in trained for name in node.inputs):
            trained.add(node.output)
    return trained


def _passes(graph: ModelGraph, node: Node, trained: set[str]) -> int:
    """Products of the forward's size that training makes: the output and each factor's gradient."""
    return 1 + sum(name in graph.parameters or name in trained for name in node.inputs[:2])


def _kept_values(graph: ModelGraph) -> set[str]:
    """Values that a backward rule reads."""
    kept: set[str] = set()
    for node in graph.nodes:
        if node.op in _READS_INPUT:
            kept.add(node.inputs[0])
        if node.op in _READS_OUTPUT:
            kept.add(node.output)
        if node.op in _READS_BOTH_INPUTS:
            kept.update(node.inputs)
    return kept & set(graph.shapes)
