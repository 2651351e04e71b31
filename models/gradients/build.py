"""ONNX files from emitted nodes: made where the ONNX package is, used where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from models.engines.engine import features_name
from models.gradients.artifacts import Artifacts
from models.gradients.emitter import Emitter
from models.gradients.loss_graph import emit_loss
from models.gradients.names import target_name
from models.gradients.training_graph import emit_evaluation, emit_training
from models.graph import ModelGraph
from models.losses import TARGETS, LossSettings, find_loss
from models.onnx_file import IR_VERSION, OPSET

_ELEMENT_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def build_artifacts(graph: ModelGraph, loss: LossSettings) -> Artifacts:
    """Everything an ONNX runtime needs to train and to evaluate a network.

    Raises:
        UserError: an operator has no gradient rule, or the loss does not fit the network.
    """
    return Artifacts(
        training=build_training(graph, loss),
        evaluation=build_evaluation(graph),
        loss=build_loss(graph, loss),
    )


def build_training(graph: ModelGraph, loss: LossSettings) -> bytes:
    """The training graph; see `Artifacts.training`."""
    inputs = _network_inputs(graph) | _target_inputs(graph, loss)
    return serialise(f"{graph.name}-training", emit_training(graph, loss), inputs)


def build_evaluation(graph: ModelGraph) -> bytes:
    """The evaluation graph; see `Artifacts.evaluation`."""
    inputs = _network_inputs(graph) | {
        name: (TensorProto.FLOAT, (None,) * len(shape)) for name, shape in graph.statistics.items()
    }
    return serialise(f"{graph.name}-evaluation", emit_evaluation(graph), inputs)


def build_loss(graph: ModelGraph, loss: LossSettings) -> bytes:
    """The forward pass with its loss; see `Artifacts.loss`."""
    inputs = _network_inputs(graph) | _target_inputs(graph, loss)
    return serialise(f"{graph.name}-loss", emit_loss(graph, loss), inputs)


Inputs = Mapping[str, tuple[int, tuple[int | None, ...]]]
"""Input name -> element type and dimensions, None for one that is known at run time."""


def serialise(name: str, emitter: Emitter, inputs: Inputs) -> bytes:
    """An ONNX model of opset 17 and IR version 8, which every runtime of the last years loads."""
    nodes = []
    for node in emitter.nodes:
        domain, _, op = node.op.rpartition(":")
        attributes: dict[str, Any] = node.attributes
        nodes.append(helper.make_node(op, node.inputs, node.outputs, domain=domain or None, **attributes))
    domains = {"": OPSET} | {node.domain: 1 for node in nodes if node.domain}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in inputs.items()],
        [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, (None,) * rank)
            for key, rank in emitter.outputs.items()
        ],
        [numpy_helper.from_array(array, key) for key, array in emitter.constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*domain) for domain in domains.items()],
        ir_version=IR_VERSION,
        producer_name="edgetide",
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _network_inputs(graph: ModelGraph) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    inputs: dict[str, tuple[int, tuple[int | None, ...]]] = {
        graph.input_name: (TensorProto.FLOAT, (None, *graph.input_shape))
    }
    for name, shape in graph.parameters.items():
        inputs[name] = (TensorProto.FLOAT, (None,) * len(shape))
    return inputs


def _target_inputs(graph: ModelGraph, loss: LossSettings) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    ranks = {
        "samples": 1,
        "logits": 2,
        "features": 1 + len(graph.shapes.get(features_name(graph) or "", ())),
    }
    return {
        target_name(name): (_ELEMENT_TYPES[TARGETS[name].dtype], (None,) * ranks[TARGETS[name].shape_of])
        for name in find_loss(loss.name).targets
    }
