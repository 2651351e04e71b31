"""Patterns of several canonical nodes that have an operator of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping

from models.graph import Constant, Node


def rewrite(nodes: list[Node], constants: Mapping[str, Constant], output: str) -> list[Node]:
    """Write hard-swish as one node, and drop the nodes that the output does not need."""
    makers = {node.output: node for node in nodes}
    made = [_hard_swish(node, makers, constants) or node for node in nodes]
    needed = {output}
    kept: list[Node] = []
    for node in reversed(made):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _hard_swish(node: Node, makers: Mapping[str, Node], constants: Mapping[str, Constant]) -> Node | None:
    """X * clip(x + 3, 0, 6) / 6 and x * clip(x / 6 + 1/2, 0, 1), in any order of the product."""
    scale = _scaled_by(node, constants)
    if scale is not None and math.isclose(scale[1], 1 / 6, rel_tol=1e-5):  # (x * clip(x + 3, 0, 6)) / 6
        product = makers.get(scale[0])
        x = _gate(product, makers, constants, (3.0, 1.0, 6.0)) if product and product.op == "Mul" else None
        return Node("HardSwish", (x,), node.output, {}, node.place) if x else None
    if node.op != "Mul":
        return None
    x = _gate(node, makers, constants, (0.5, 1 / 6, 1.0))
    if x is None:  # x * (clip(x + 3, 0, 6) / 6)
        for gated, other in (node.inputs, node.inputs[::-1]):
            inner = makers.get(gated)
            gate = _scaled_by(inner, constants) if inner else None
            if gate and math.isclose(gate[1], 1 / 6, rel_tol=1e-5):
                found = _clipped(makers.get(gate[0]), makers, constants, (3.0, 1.0, 6.0))
                x = found if found == other else x
    return Node("HardSwish", (x,), node.output, {}, node.place) if x else None


def _gate(
    product: Node,
    makers: Mapping[str, Node],
    constants: Mapping[str, Constant],
    form: tuple[float, float, float],
) -> str | None:
    """The x of x * clip(scale * x + offset, 0, top)."""
    for gated, other in (product.inputs, product.inputs[::-1]):
        if _clipped(makers.get(gated), makers, constants, form) == other:
            return other
    return None


def _clipped(
    clip: Node | None,
    makers: Mapping[str, Node],
    constants: Mapping[str, Constant],
    form: tuple[float, float, float],
) -> str | None:
    """The x of clip(scale * x + offset, 0, top)."""
    offset, scale, top = form
    if clip is None or clip.op != "Clip" or clip.attributes != {"min": 0.0, "max": top}:
        return None
    moved = makers.get(clip.inputs[0])
    if moved is None or moved.op != "Add":
        return None
    for x, number in (moved.inputs, moved.inputs[::-1]):
        if _number(number, constants) != offset:
            continue
        if scale == 1.0:
            return x
        inner = makers.get(x)
        scaled = _scaled_by(inner, constants) if inner else None
        if scaled and math.isclose(scaled[1], scale, rel_tol=1e-5):
            return scaled[0]
    return None


def _scaled_by(node: Node, constants: Mapping[str, Constant]) -> tuple[str, float] | None:
    """(x, factor) of x * factor or x / divisor."""
    if node.op == "Div":
        number = _number(node.inputs[1], constants)
        return (node.inputs[0], 1 / number) if number else None
    if node.op == "Mul":
        for x, other in (node.inputs, node.inputs[::-1]):
            number = _number(other, constants)
            if number is not None:
                return x, number
    return None


def _number(name: str, constants: Mapping[str, Constant]) -> float | None:
    constant = constants.get(name)
    return constant.values[0] if constant is not None and constant.shape == () else None
