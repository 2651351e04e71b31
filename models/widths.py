"""Width groups: which axes of which tensors shrink together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from models.graph import ModelGraph, Node


class WidthGroup(msgspec.Struct, frozen=True):
    """Channels that are kept or dropped together, such as all those a residual sum joins.

    Attributes:
        name: the parameter that first makes these channels.
        num_channels: how many there are at full width.
    """

    name: str
    num_channels: int


class Segment(msgspec.Struct, frozen=True):
    """A run of entries along one axis of a tensor.

    Attributes:
        group: index of the width group the entries follow, or None if they are always kept.
        num_channels: channels in this run at full width.
        repeat: consecutive entries per channel (height x width after a flatten, else 1).
    """

    group: int | None
    num_channels: int
    repeat: int = 1


class WidthPlan(msgspec.Struct, frozen=True):
    """How every parameter and statistic shrinks with the kept channels of each group.

    Attributes:
        groups: the width groups; a DropoutVector has one entry for each.
        axes: tensor name -> for each axis its segments, in order.
        values: value name -> segments of its channel axis (axis 1), for costs.
    """

    groups: tuple[WidthGroup, ...]
    axes: dict[str, tuple[tuple[Segment, ...], ...]]
    values: dict[str, tuple[Segment, ...]]


def plan_widths(graph: ModelGraph) -> WidthPlan:
    """Find the width groups of a graph: union-find over runs of channels.

    Each operator says how its output's channels follow from its inputs'. What the graph's input
    brings, what becomes a class score, and what an operator mixes by position (softmax or a sum
    over channels, a reshape or transpose that moves them, a constant for each channel, a grouped
    but not depthwise convolution) is pinned: it never shrinks.

    Args:
        graph: a valid graph.

    Returns:
        The plan; its groups are in the order in which the nodes make them.
    """
    search = _Search(graph)
    search.values[graph.input_name] = [search.pinned(graph.input_shape[0])]
    for node in graph.nodes:
        inputs = [search.values.get(name, []) for name in node.inputs]
        search.values[node.output] = _RULES[node.op](search, node, inputs)
    search.pin(search.values[graph.output_name])
    return search.plan()


@dataclass
class _Run:
    """One run of channels; `parent` leads to the run that stands for all runs tied to it."""

    num_channels: int
    name: str
    parent: _Run | None = None
    is_pinned: bool = False

    def root(self) -> _Run:
        run = self
        while run.parent is not None:
            run = run.parent
        return run


@dataclass(frozen=True)
class _Part:
    """A run as it lies along one axis, `repeat` entries for each channel."""

    run: _Run
    repeat: int = 1


_Axis = list[_Part]


@dataclass
class _Search:
    """What is known so far: the runs along each tensor's axes and each value's channel axis."""

    graph: ModelGraph
    values: dict[str, _Axis] = field(default_factory=dict)
    axes: dict[str, list[_Axis]] = field(default_factory=dict)
    made: list[_Run] = field(default_factory=list)

    def pinned(self, num_channels: int) -> _Part:
        return _Part(_Run(num_channels, "", is_pinned=True))

    def new(self, parameter: str, num_channels: int) -> _Axis:
        """The channels that a weight's first axis makes; tied to what it made before, if shared."""
        if parameter in self.axes:
            return self.axes[parameter][0]
        self.made.append(_Run(num_channels, parameter))
        return [_Part(self.made[-1])]

    def pin(self, axis: _Axis) -> _Axis:
        for part in axis:
            part.run.root().is_pinned = True
        return axis

    def tie(self, first: _Axis, second: _Axis) -> _Axis:
        """Both axes keep the same entries from now on; runs that do not line up are pinned."""
        if [(p.run.num_channels, p.repeat) for p in first] != [
            (p.run.num_channels, p.repeat) for p in second
        ]:
            self.pin(first)
            return self.pin(second)
        for one, other in zip(first, second, strict=True):
            a, b = one.run.root(), other.run.root()
            if a is not b:
                a.is_pinned = a.is_pinned or b.is_pinned
                b.parent = a
        return first

    def bind(self, name: str, *axes: _Axis) -> None:
        """A tensor's axes follow these runs; axes that are not given are never cut."""
        shape = self.graph.parameters.get(name) or self.graph.statistics[name]
        whole = [*axes, *([self.pinned(size)] for size in shape[len(axes) :])]
        for old, new in zip(self.axes.setdefault(name, whole), whole, strict=True):
            self.tie(old, new)

    def shape(self, name: str) -> tuple[int, ...]:
        """Sample shape of a value."""
        return self.graph.shapes[name]

    def plan(self) -> WidthPlan:
        """Number the groups that may shrink."""
        groups: dict[int, int] = {}
        names: list[WidthGroup] = []
        for run in self.made:
            root = run.root()
            if root.num_channels > 1 and not root.is_pinned and id(root) not in groups:
                groups[id(root)] = len(names)
                names.append(WidthGroup(run.name, run.num_channels))

        def segments(axis: _Axis) -> tuple[Segment, ...]:
            return tuple(
                Segment(groups.get(id(part.run.root())), part.run.num_channels, part.repeat) for part in axis
            )

        return WidthPlan(
            tuple(names),
            {name: tuple(segments(axis) for axis in axes) for name, axes in self.axes.items()},
            {name: segments(axis) for name, axis in self.values.items()},
        )


def _conv(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    x, weight = inputs[0], node.inputs[1]
    num_out, num_in_per_group = search.graph.parameters[weight][:2]
    group = int(str(node.attributes["group"]))
    if group == 1:
        out = search.new(weight, num_out)
        search.bind(weight, out, x)
    elif num_in_per_group == 1:  # depthwise: each input channel makes `num_out / group` outputs of its own
        out = [_Part(part.run, part.repeat * (num_out // group)) for part in x]
        search.bind(weight, out)
    else:
        search.pin(x)
        out = [search.pinned(num_out)]
        search.bind(weight, out)
    if len(node.inputs) == 3:
        search.bind(node.inputs[2], out)
    return out


def _gemm(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    out = search.new(node.inputs[1], search.graph.parameters[node.inputs[1]][0])
    search.bind(node.inputs[1], out, inputs[0])
    if len(node.inputs) == 3:
        search.bind(node.inputs[2], out)
    return out


def _matmul(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    x, weight = inputs[0], node.inputs[1]
    if weight in search.graph.parameters:
        search.bind(weight)  # the last axis is features, not channels: it stays whole
        if len(search.shape(node.inputs[0])) > 1:
            return x
        search.pin(x)
        return [search.pinned(search.graph.parameters[weight][1])]
    if len(search.shape(weight)) > 2:
        return search.tie(x, inputs[1])
    search.pin(inputs[1])  # [N, a, b] @ [N, b, c]: b is summed over by position
    return x


def _binary(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    names = node.inputs
    values = [(name, axis) for name, axis in zip(names, inputs, strict=True) if name in search.values]
    if len(values) == 2:
        (first, a), (second, b) = values
        sizes = search.shape(first)[0], search.shape(second)[0]
        if sizes[0] == sizes[1]:
            return search.tie(a, b)
        return search.pin(a if sizes[1] == 1 else b)  # one channel meets many: the many stay as they are
    name, x = values[0]
    other = names[0] if names[1] == name else names[1]
    made = search.shape(node.output)[0]
    if made != search.shape(name)[0]:
        x = [search.pinned(made)]
    constant = search.graph.constants.get(other)
    shape = search.graph.parameters[other] if constant is None else constant.shape
    place = len(shape) - len(search.shape(name))  # the axis of `other` that meets the channels
    per_channel = place >= 0 and shape[place] == made > 1
    if constant is not None:
        return search.pin(x) if per_channel else x
    search.bind(
        other, *([search.pinned(size)] for size in shape[: max(place, 0)]), *([x] if per_channel else [])
    )
    return x


def _batch_norm(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    for name in node.inputs[1:]:
        search.bind(name, inputs[0])
    return inputs[0]


def _reduce(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    return inputs[0] if 1 not in _axes(node, "axes") else _moved(search, node, inputs)


def _reshape(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    shape = _axes(node, "shape")
    return inputs[0] if len(shape) > 1 and shape[1] == 0 else _moved(search, node, inputs)


def _transpose(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    return inputs[0] if _axes(node, "perm")[1] == 1 else _moved(search, node, inputs)


def _softmax(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    return search.pin(inputs[0]) if node.attributes["axis"] == 1 else inputs[0]


def _flatten(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    positions = math.prod(search.shape(node.inputs[0])[1:])
    return [_Part(part.run, part.repeat * positions) for part in inputs[0]]


def _concat(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    if node.attributes["axis"] == 1:
        return [part for axis in inputs for part in axis]
    for axis in inputs[1:]:
        search.tie(inputs[0], axis)
    return inputs[0]


def _moved(search: _Search, node: Node, inputs: list[_Axis]) -> _Axis:
    """Axis 1 of the output is no longer the input's channels."""
    search.pin(inputs[0])
    return [search.pinned(search.shape(node.output)[0])]


def _same(_search: _Search, _node: Node, inputs: list[_Axis]) -> _Axis:
    return inputs[0]


def _axes(node: Node, key: str) -> tuple[int, ...]:
    value = node.attributes[key]
    assert isinstance(value, tuple)
    return value


_RULES: dict[str, Callable[[_Search, Node, list[_Axis]], _Axis]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    **dict.fromkeys(("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool"), _same),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduce),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Softmax": _softmax,
}
