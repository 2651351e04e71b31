"""Narrower networks: the same structure with fewer channels in every width group."""

from __future__ import annotations

import msgspec

from firmware_profiles.errors import UserError
from models.graph import ModelGraph, Node, validate
from models.subnet import DropoutVector, uniform_vector
from models.widths import Segment, WidthPlan, plan_widths

_MAX_NAME = 64


def narrow(graph: ModelGraph, keep_fraction: float) -> ModelGraph:
    """Scale every width group of a network; it is then an ordinary network of that width.

    Args:
        graph: a valid graph.
        keep_fraction: 0 < keep <= 1 of the channels of each group, rounded, at least one; 1 gives the graph
            itself.

    Returns:
        A valid graph whose name tells the share: cnn-28-w45 keeps 45 %.

    Raises:
        UserError: the share is outside its range, or the network has no width group.
    """
    plan = plan_widths(graph)
    if keep_fraction == 1.0:
        return graph
    if not plan.groups:
        raise UserError(f"model {graph.name} has no width group, so it cannot be made narrower")
    vector = uniform_vector(plan, keep_fraction)

    def shape(name: str) -> tuple[int, ...]:
        return tuple(_length(axis, vector) for axis in plan.axes[name])

    suffix = f"-w{100 * keep_fraction:.4g}".replace(".", "-")
    return validate(
        msgspec.structs.replace(
            graph,
            name=graph.name[: _MAX_NAME - len(suffix)] + suffix,
            nodes=tuple(_narrow_node(node, graph, plan, vector) for node in graph.nodes),
            parameters={name: shape(name) for name in graph.parameters},
            statistics={name: shape(name) for name in graph.statistics},
            shapes={},
        )
    )


def _narrow_node(node: Node, graph: ModelGraph, plan: WidthPlan, vector: DropoutVector) -> Node:
    """A depthwise convolution names its channels; nothing else does."""
    if node.op != "Conv" or node.attributes["group"] == 1 or graph.parameters[node.inputs[1]][1] != 1:
        return node
    channels = _length(plan.values[node.inputs[0]], vector)
    return msgspec.structs.replace(node, attributes={**node.attributes, "group": channels})


def _length(axis: tuple[Segment, ...], vector: DropoutVector) -> int:
    return sum(
        segment.repeat * (segment.num_channels if segment.group is None else vector[segment.group])
        for segment in axis
    )
