"""From a ModelGraph and a loss to the nodes that train it: forward pass, loss, and every gradient."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.engines.engine import features_name, matched_features
from models.engines.reorder import pool_before_relu
from models.gradients.emitter import Emitter
from models.gradients.names import FEATURES, LOGITS, LOSS, gradient_name
from models.gradients.objectives import OBJECTIVES, Scores
from models.gradients.rule import Emitted, Site
from models.gradients.rules import find_rule
from models.graph import ModelGraph, Node
from models.losses import LossSettings, find_loss
from models.operators import Operand


class _Forward(NamedTuple):
    """The forward pass: every value batch last, and how each node was made."""

    values: dict[str, str]
    made: list[tuple[Node, tuple[bool, ...], Emitted]]


def emit_training(graph: ModelGraph, loss: LossSettings) -> Emitter:
    """Nodes that make the loss, the gradient of every parameter, and the mini-batch's moments.

    Raises:
        UserError: an operator has no rule, or the loss is unknown or wants features and there are none.
    """
    e = Emitter()
    features = matched_features(graph, find_loss(loss.name)) or ""
    graph = pool_before_relu(graph, {graph.output_name, features})
    forward = _emit_forward(e, graph, training=True)
    scores = Scores(
        forward.values[graph.output_name],
        forward.values.get(features, ""),
        graph.num_classes,
        len(graph.shapes.get(features, ())),
    )
    objective = OBJECTIVES[loss.name](e, scores, loss)
    received: dict[str, list[str]] = {graph.output_name: [objective.d_logits]}
    if objective.d_features is not None:
        received.setdefault(features, []).append(objective.d_features)
    _emit_backward(e, forward, received)
    e.output(e.op("Squeeze", objective.value), LOSS, 0)
    for name, shape in graph.parameters.items():
        e.output(_total(e, received[name]), gradient_name(name), len(shape))
    for _, _, emitted in forward.made:
        for name, value in emitted.statistics:
            e.output(value, name, 1)
    return e


def emit_evaluation(graph: ModelGraph) -> Emitter:
    """Nodes that make logits [N, classes] and the last layer's input, with given moments."""
    e = Emitter()
    features = features_name(graph)
    graph = pool_before_relu(graph, {graph.output_name, features or ""})
    forward = _emit_forward(e, graph, training=False)
    e.output(_batch_first(e, forward.values[graph.output_name], 1), LOGITS, 2)
    if features is not None:
        rank = len(graph.shapes[features])
        e.output(_batch_first(e, forward.values[features], rank), FEATURES, rank + 1)
    return e


def _emit_forward(e: Emitter, graph: ModelGraph, *, training: bool) -> _Forward:
    values = _constants(e, graph) | {name: name for name in (*graph.parameters, *graph.statistics)}
    rank = len(graph.input_shape)
    batch = e.size(graph.input_name, 0)
    values[graph.input_name] = e.op("Transpose", graph.input_name, perm=(*range(1, rank + 1), 0))
    trained = set(graph.parameters)
    made = []
    for node in graph.nodes:
        wanted = tuple(name in trained for name in node.inputs)
        if any(wanted):
            trained.add(node.output)
        site = Site(
            inputs=tuple(values[name] for name in node.inputs),
            operands=tuple(_operand(graph, name) for name in node.inputs),
            shape=graph.shapes[node.output],
            attributes=node.attributes,
            wanted=wanted,
            batch=batch,
            training=training,
            names=node.inputs,
        )
        emitted = find_rule(node)(e, site)
        values[node.output] = emitted.output
        made.append((node, wanted, emitted))
    return _Forward(values, made)


def _emit_backward(e: Emitter, forward: _Forward, received: dict[str, list[str]]) -> None:
    for node, wanted, emitted in reversed(forward.made):
        if node.output not in received or not any(wanted):
            continue
        found = emitted.pullback(_total(e, received.pop(node.output)))
        for name, is_wanted, gradient in zip(node.inputs, wanted, found, strict=True):
            if is_wanted:
                assert gradient is not None
                received.setdefault(name, []).append(gradient)


def _total(e: Emitter, gradients: list[str]) -> str:
    total = gradients[0]
    for gradient in gradients[1:]:
        total = e.op("Add", total, gradient)
    return total


def _constants(e: Emitter, graph: ModelGraph) -> dict[str, str]:
    return {
        name: e.constant(np.array(constant.values, np.float32).reshape(constant.shape))
        for name, constant in graph.constants.items()
    }


def _operand(graph: ModelGraph, name: str) -> Operand:
    if name in graph.parameters:
        return Operand("parameter", graph.parameters[name])
    if name in graph.statistics:
        return Operand("statistic", graph.statistics[name])
    if name in graph.constants:
        return Operand("constant", graph.constants[name].shape)
    return Operand("value", graph.shapes[name])


def _batch_first(e: Emitter, value: str, rank: int) -> str:
    return e.op("Transpose", value, perm=(rank, *range(rank)))
