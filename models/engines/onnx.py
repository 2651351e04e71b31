"""The onnx engine: the ordinary ONNX Runtime computes a training graph made ahead (`models.gradients`).

The graph holds forward pass, loss and backward pass in standard operators, its weights are inputs of no
fixed size, so that one session serves every dropout vector. Neither torch nor the package onnx is
needed: a device gets the graph with the model. Inputs and gradients are bound where they lie; nothing is
copied on the way in or out.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.engines.engine import Gradients, features_name, features_shape, matched_features
from models.engines.installed import explain_onnxruntime
from models.gradients.artifacts import Artifacts
from models.gradients.names import FEATURES, LOGITS, LOSS, gradient_name, target_name
from models.graph import ModelGraph
from models.losses import LossSettings, find_loss, take_targets
from models.subnet import Array

_ONLY_FATAL = 4  # errors come as exceptions; the runtime would write them to stderr as well
_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
_UNWANTED_OPTIMIZERS = ["CommonSubexpressionElimination"]
"""It would keep what the backward pass gathers anew on purpose: measured, half the memory of ResNet-20."""


def _import_runtime() -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(f"engine 'onnx' needs {explain_onnxruntime('plain')} ({error})") from error
    if not hasattr(runtime, "InferenceSession"):  # a folder of that name, or a half that pip left
        raise UserError(f"engine 'onnx' needs {explain_onnxruntime('plain')}")
    return runtime


_runtime = _import_runtime()


class OnnxEngine:
    """An Engine (see `models.engines.engine`) by ONNX Runtime.

    Args:
        graph: the network.
        loss: which loss, and its settings.
        num_threads: CPU threads that it may compute with.
        artifacts: ONNX files of this graph and this loss.

    Raises:
        UserError: the artifacts are not of this graph and loss, or are damaged.
    """

    name = "onnx"
    _gradient_output = staticmethod(gradient_name)

    def __init__(self, graph: ModelGraph, loss: LossSettings, num_threads: int, artifacts: Artifacts) -> None:
        self._graph = graph
        self._loss = find_loss(loss.name)
        self._matched = matched_features(graph, self._loss)
        self._num_threads = num_threads
        self._artifacts = artifacts
        self._scales = _scales(graph)
        targets = [target_name(name) for name in self._loss.targets]
        self._gradient_names = {name: self._gradient_output(name) for name in graph.parameters}
        self._training = self._session(
            "training",
            artifacts.training,
            {graph.input_name, *graph.parameters, *targets},
            {LOSS, *self._gradient_names.values(), *graph.statistics},
        )
        # a session asks for every input, also for those that the forward pass will not read
        self._blank_targets = {
            item.name: np.zeros([1] * len(item.shape), _DTYPES[item.type])
            for item in self._training.get_inputs()
            if item.name.startswith("@")
        }
        self._forward_only = _runtime.RunOptions()
        self._forward_only.only_execute_path_to_fetches = True

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, Array]
    ) -> Gradients:
        """See `Engine.gradients`.

        Raises:
            KeyError: `weights` lack an array.
            UserError: `targets` lack an array that the loss wants, or it has another shape or dtype.
        """
        features = features_shape(self._graph, self._matched, weights, len(inputs))
        wanted = take_targets(self._loss, targets, (len(inputs), self._graph.num_classes), features)
        binding = self._bind(self._training, self._given(weights, inputs))
        for name, array in wanted.items():
            binding.bind_cpu_input(target_name(name), np.ascontiguousarray(array))
        loss = _bind_output(binding, LOSS, ())
        gradients = {
            name: _bind_output(binding, output, weights[name].shape)
            for name, output in self._gradient_names.items()
        }
        statistics = self._bind_statistics(binding, weights)
        self._training.run_with_iobinding(binding)
        return Gradients(float(loss), gradients, statistics)

    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """See `Engine.statistics`."""
        if not self._graph.statistics:
            return {}
        feeds = self._given(weights, inputs) | self._blank_targets
        made = self._training.run(list(self._graph.statistics), feeds, self._forward_only)
        return dict(zip(self._graph.statistics, made, strict=True))

    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """See `Engine.outputs`.

        Raises:
            KeyError: `weights` lack a parameter or a statistic.
        """
        feeds = self._given(weights, inputs) | {name: weights[name] for name in self._graph.statistics}
        names = [output.name for output in self._evaluation.get_outputs()]
        made = self._evaluation.run(names, feeds)
        return {name.removeprefix("@"): array for name, array in zip(names, made, strict=True)}

    @functools.cached_property
    def _evaluation(self) -> Any:
        """Made when it is first wanted: many devices never evaluate."""
        names = {self._graph.input_name, *self._graph.parameters, *self._graph.statistics}
        outputs = {LOGITS} | ({FEATURES} if features_name(self._graph) else set())
        return self._session("evaluation", self._artifacts.evaluation, names, outputs)

    def _session(self, use: str, model: bytes, inputs: set[str], outputs: set[str]) -> Any:
        try:
            session = _runtime.InferenceSession(
                model,
                session_options(self._num_threads),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_UNWANTED_OPTIMIZERS,
            )
        except Exception as error:  # its exceptions have no common class
            raise UserError(
                f"the {use} graph of model {self._graph.name} ({len(model)} bytes) cannot be loaded: "
                f"{_first_line(error)}; let the coordinator send the model anew"
            ) from error
        found = {item.name for item in session.get_inputs()}, {item.name for item in session.get_outputs()}
        if found != (inputs, outputs):
            odd = sorted((found[0] ^ inputs) | (found[1] ^ outputs))
            raise UserError(
                f"the {use} graph is not that of model {self._graph.name} with loss {self._loss.name!r}: "
                f"look at {', '.join(odd[:3])}; let the coordinator send the model anew"
            )
        return session

    def _given(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, NDArray]:
        return {self._graph.input_name: inputs} | {name: weights[name] for name in self._graph.parameters}

    def _bind(self, session: Any, arrays: Mapping[str, NDArray]) -> Any:
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        return binding

    def _bind_statistics(self, binding: Any, weights: Mapping[str, Array]) -> dict[str, Array]:
        return {
            name: _bind_output(binding, name, weights[scale].shape) for name, scale in self._scales.items()
        }


def _bind_output(binding: Any, name: str, shape: tuple[int, ...]) -> Array:
    made = np.empty(shape, np.float32)
    binding.bind_output(name, "cpu", 0, np.float32, shape, made.ctypes.data)
    return made


def _scales(graph: ModelGraph) -> dict[str, str]:
    """Each batch-norm moment's scale, which has its shape."""
    return {
        moment: node.inputs[1]
        for node in graph.nodes
        if node.op == "BatchNormalization"
        for moment in node.inputs[3:]
    }


def session_options(num_threads: int) -> Any:
    """For a device that has other work: threads that wait sleep, and memory is what one step needs.

    A memory pattern is a plan for fixed shapes; every sub-network has its own (measured without: the peak
    of the default CNN falls from 125 to 88 MB, and no step is slower). A plan of which buffer serves again
    finds none where sizes are open, in time that is quadratic in the nodes (measured without: the zoo's
    memory and steps are the same, ResNet-20 loads in 0.2 s instead of 0.8, and 12 convolutions of 64
    channels on 64x64 pixels in 1.2 s instead of 17).
    """
    options = _runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    options.execution_order = _runtime.ExecutionOrder.PRIORITY_BASED  # as written: what is needed last, last
    options.log_severity_level = _ONLY_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
