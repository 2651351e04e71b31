"""The ort-training engine: ONNX Runtime's training build derives the backward pass and runs it.

From the forward graph with its loss, whose weights are inputs of no fixed size, the runtime's gradient
builder makes one graph with the gradients as outputs. An ordinary inference session of the same build
computes it for every dropout vector, just as the onnx engine computes a training graph made ahead. Of the
runtime's on-device training, with its checkpoints and optimisers, nothing is used, and neither torch nor
the package onnx is imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import msgspec

from firmware_profiles.errors import UserError
from models.engines.installed import explain_onnxruntime, onnxruntime_kind
from models.gradients.artifacts import Artifacts
from models.gradients.names import LOSS
from models.graph import ModelGraph
from models.losses import LossSettings

_UNUSED_PACKAGE = "onnxruntime.training"


def _import_builder() -> Any:
    """Import the training build, and return its gradient builder.

    On import the build tries its package for training under torch, which loads torch and onnx wherever
    they are installed (13 MB, 200 ms, and 250 MB more where torch is): a placeholder keeps that away.

    Raises:
        UserError: it is not installed, not alone, or damaged.
    """
    if onnxruntime_kind() != "training":
        raise UserError(f"engine 'ort-training' needs {explain_onnxruntime('training')}")
    placeholder: dict[str, Any] = {} if _UNUSED_PACKAGE in sys.modules else {_UNUSED_PACKAGE: None}
    sys.modules.update(placeholder)
    try:
        return importlib.import_module("onnxruntime").capi._pybind_state.GradientGraphBuilder  # noqa: SLF001
    except (ImportError, AttributeError) as error:  # damaged files lack modules or what is in them
        raise UserError(f"engine 'ort-training' needs {explain_onnxruntime('training')} ({error})") from error
    finally:
        for name in placeholder:
            del sys.modules[name]


_GradientGraphBuilder = _import_builder()

# It imports onnxruntime too, so it comes after the import above.
from models.engines.onnx import OnnxEngine, session_options  # noqa: E402


class OrtTrainingEngine(OnnxEngine):
    """An Engine (see `models.engines.engine`) by ONNX Runtime's training build.

    Args:
        graph: the network.
        loss: which loss, and its settings.
        num_threads: CPU threads that it may compute with.
        artifacts: ONNX files of this graph and this loss; of its training graphs it takes `loss`.

    Raises:
        UserError: the artifacts are not of this graph and loss, or are damaged.
    """

    name = "ort-training"

    def __init__(self, graph: ModelGraph, loss: LossSettings, num_threads: int, artifacts: Artifacts) -> None:
        derived = _derive_gradients(graph, artifacts.loss)
        super().__init__(graph, loss, num_threads, msgspec.structs.replace(artifacts, training=derived))

    @staticmethod
    def _gradient_output(parameter: str) -> str:
        return f"{parameter}_grad"  # as the gradient builder names it


def _derive_gradients(graph: ModelGraph, loss: bytes) -> bytes:
    """Append the gradients of the loss by every parameter to a graph of the loss."""
    options = session_options(num_threads=1)
    try:
        builder = _GradientGraphBuilder(loss, {LOSS}, set(graph.parameters), LOSS, options)
        builder.build()
    except RuntimeError as error:
        raise UserError(
            f"engine 'ort-training' cannot derive the gradients of model {graph.name}: let the coordinator "
            f"send the model anew, or use engine onnx ({str(error).strip()[-200:]})"
        ) from error
    return builder.get_model()
