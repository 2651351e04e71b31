"""The torch engine: interprets a ModelGraph with PyTorch, on a GPU if there is one.

Only this module imports torch. Weights come and results leave as NumPy arrays; on a CPU both share
memory with torch's tensors. Images are computed in channels_last, measured faster at every width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.engines.engine import Gradients, features_name, matched_features
from models.engines.reorder import pool_before_relu
from models.engines.torch_operators import OPERATORS, normalise_batch, normalise_given, relu_in_place
from models.graph import ModelGraph, Node
from models.losses import LossSettings, find_loss, take_targets
from models.subnet import Array


class _Outputs(NamedTuple):
    """What a loss reads of the network; `features` only where it wants them."""

    logits: Tensor
    features: Tensor | None


def _cross_entropy(_: LossSettings, outputs: _Outputs, targets: Mapping[str, Tensor]) -> Tensor:
    return functional.cross_entropy(outputs.logits, targets["labels"])


def _squared_error(_: LossSettings, outputs: _Outputs, targets: Mapping[str, Tensor]) -> Tensor:
    return functional.mse_loss(outputs.logits, targets["values"])


def _distillation(settings: LossSettings, outputs: _Outputs, targets: Mapping[str, Tensor]) -> Tensor:
    temperature = settings.temperature
    student = functional.log_softmax(outputs.logits / temperature, dim=1)
    teacher = functional.log_softmax(targets["teacher_logits"] / temperature, dim=1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (
        settings.label_weight * functional.cross_entropy(outputs.logits, targets["labels"])
        + settings.distillation_weight * temperature**2 * divergence
    )


def _feature_matching(settings: LossSettings, outputs: _Outputs, targets: Mapping[str, Tensor]) -> Tensor:
    assert outputs.features is not None
    return settings.label_weight * functional.cross_entropy(
        outputs.logits, targets["labels"]
    ) + settings.feature_weight * functional.mse_loss(outputs.features, targets["teacher_features"])


_LOSSES: dict[str, Callable[[LossSettings, _Outputs, Mapping[str, Tensor]], Tensor]] = {
    "cross-entropy": _cross_entropy,
    "mean-squared-error": _squared_error,
    "distillation": _distillation,
    "feature-matching": _feature_matching,
}
"""Mean over the mini-batch, by the keys of `models.losses.LOSSES`."""

_OUTPUT_UNUSED_BACKWARD = frozenset({"Conv", "BatchNormalization", "Gemm", "Add", "MaxPool"})
"""Operators whose backward pass does not read their output, so that a ReLU may overwrite it."""


@dataclass(frozen=True)
class _Step:
    """One node, ready to run.

    Attributes:
        compute: its function of the input tensors.
        inputs: slots it reads. output: slot it writes.
        dead: slots nobody reads after it, freed at once.
        moments: names of the mean and variance that a training batch norm yields beside its output.
        epsilon: that batch norm's epsilon.
    """

    compute: Callable
    inputs: tuple[int, ...]
    output: int
    dead: tuple[int, ...]
    moments: tuple[str, str] | None = None
    epsilon: float = 0.0


class TorchEngine:
    """An Engine (see `models.engines.engine`) by PyTorch.

    Args:
        graph: the network.
        loss: which loss, and its settings.
        num_threads: CPU threads that torch may compute with, wherever the engine is called.
        device: what torch calls it, or None for a GPU if there is one. On a GPU sums depend on chance.
    """

    name = "torch"

    def __init__(
        self, graph: ModelGraph, loss: LossSettings, num_threads: int, device: str | None = None
    ) -> None:
        self._graph = graph
        self._num_threads = num_threads
        self._settings, self._loss = loss, find_loss(loss.name)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._parameters = tuple(graph.parameters)
        self._statistics = tuple(graph.statistics)
        names = [graph.input_name, *self._parameters, *self._statistics, *graph.constants]
        names += [node.output for node in graph.nodes]
        self._slots = {name: slot for slot, name in enumerate(names)}
        self._constants = tuple(
            torch.tensor(constant.values, dtype=torch.float32, device=self._device).reshape(constant.shape)
            for constant in graph.constants.values()
        )
        self._images = frozenset(name for name, shape in graph.parameters.items() if len(shape) == 4)
        features = features_name(graph)
        self._outputs = {"logits": graph.output_name} | ({"features": features} if features else {})
        self._matched = matched_features(graph, self._loss)
        kept = {graph.output_name} | ({self._matched} if self._matched else set())
        self._training = self._compile(training=True, keep=kept)
        self._evaluation = self._compile(training=False, keep=set(self._outputs.values()))

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, Array]
    ) -> Gradients:
        """See `Engine.gradients`.

        Raises:
            KeyError: `weights` lack an array.
            UserError: `targets` lack an array that the loss wants, or it has another shape or dtype.
        """
        self._hold_threads()
        leaves = [self._parameter(name, weights[name]).requires_grad_() for name in self._parameters]
        values, statistics = self._run(
            self._training, self._fill(leaves, [None] * len(self._statistics), inputs)
        )
        loss = self._compute_loss(values, targets)
        found = torch.autograd.grad(loss, leaves, materialize_grads=True)
        gradients = {name: _array(gradient) for name, gradient in zip(self._parameters, found, strict=True)}
        return Gradients(loss.item(), gradients, statistics)

    @torch.no_grad()
    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """See `Engine.statistics`."""
        self._hold_threads()
        leaves = [self._parameter(name, weights[name]) for name in self._parameters]
        return self._run(self._training, self._fill(leaves, [None] * len(self._statistics), inputs))[1]

    @torch.no_grad()
    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """See `Engine.outputs`.

        Raises:
            KeyError: `weights` lack a parameter or a statistic.
        """
        self._hold_threads()
        leaves = [self._parameter(name, weights[name]) for name in self._parameters]
        moments = [self._tensor(weights[name]) for name in self._statistics]
        values, _ = self._run(self._evaluation, self._fill(leaves, moments, inputs))
        return {key: _array(values[self._slots[name]]) for key, name in self._outputs.items()}

    def _compute_loss(self, values: list, targets: Mapping[str, NDArray]) -> Tensor:
        logits = values[self._slots[self._graph.output_name]]
        features = values[self._slots[self._matched]] if self._matched else None
        wanted = take_targets(self._loss, targets, logits.shape, () if features is None else features.shape)
        tensors = {name: self._tensor(array) for name, array in wanted.items()}
        return _LOSSES[self._loss.name](self._settings, _Outputs(logits, features), tensors)

    def _compile(self, *, training: bool, keep: set[str]) -> tuple[_Step, ...]:
        """Bind each node's attributes to a function of its inputs, once."""
        num_reads = Counter(name for node in self._graph.nodes for name in node.inputs)
        nodes = pool_before_relu(self._graph, keep).nodes
        last_read = {name: index for index, node in enumerate(nodes) for name in node.inputs}
        makers = {node.output: node.op for node in nodes}
        steps = []
        for index, node in enumerate(nodes):
            dead = {name for name in node.inputs if name in makers and last_read[name] == index} - keep
            overwrite = (
                node.op == "Relu"
                and node.inputs[0] in dead
                and num_reads[node.inputs[0]] == 1
                and makers[node.inputs[0]] in _OUTPUT_UNUSED_BACKWARD
            )
            steps.append(self._step(node, frozenset(dead), training=training, overwrite=overwrite))
        return tuple(steps)

    def _step(self, node: Node, dead: frozenset[str], *, training: bool, overwrite: bool) -> _Step:
        inputs, moments, epsilon = node.inputs, None, 0.0
        if node.op == "BatchNormalization":
            epsilon = float(node.attributes["epsilon"])  # pyright: ignore[reportArgumentType]
            compute = normalise_batch(epsilon) if training else normalise_given(epsilon)
            if training:
                moments, inputs = (node.inputs[3], node.inputs[4]), node.inputs[:3]
        else:
            compute = relu_in_place if overwrite else OPERATORS[node.op](node.attributes)
        return _Step(
            compute=compute,
            inputs=tuple(self._slots[name] for name in inputs),
            output=self._slots[node.output],
            dead=tuple(self._slots[name] for name in dead),
            moments=moments,
            epsilon=epsilon,
        )

    def _fill(self, leaves: list[Tensor], moments: list, inputs: Array) -> list:
        given = self._tensor(inputs)
        if given.ndim == 4:
            given = _channels_last(given)
        return [given, *leaves, *moments, *self._constants, *[None] * len(self._graph.nodes)]

    @staticmethod
    def _run(steps: tuple[_Step, ...], values: list) -> tuple[list, dict[str, Array]]:
        statistics: dict[str, Array] = {}
        for step in steps:
            result = step.compute(*[values[slot] for slot in step.inputs])
            if step.moments is not None:
                result, mean, inverse_deviation = result
                statistics[step.moments[0]] = _array(mean)
                # native_batch_norm keeps 1 / sqrt(var + epsilon), var biased, for its backward pass.
                variance = inverse_deviation.detach().pow(-2).sub_(step.epsilon).clamp_(min=0.0)
                statistics[step.moments[1]] = _array(variance)
            values[step.output] = result
            for slot in step.dead:
                values[slot] = None
        return values, statistics

    def _parameter(self, name: str, array: Array) -> Tensor:
        tensor = self._tensor(array)
        return _channels_last(tensor) if name in self._images else tensor

    def _tensor(self, array: NDArray) -> Tensor:
        # torch cannot mark a tensor read-only and warns: a read-only array is copied.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor if self._device.type == "cpu" else tensor.to(self._device)

    def _hold_threads(self) -> None:
        # OpenMP keeps this number per calling thread, so it is held at each call, not once.
        if torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)


def _channels_last(tensor: Tensor) -> Tensor:
    # `contiguous` would leave one channel as it is, which counts as either format: the first
    # convolution would then choose the slow one for all of its output (measured: 2.6 times slower).
    return tensor.to(memory_format=torch.channels_last)


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().contiguous().numpy(), dtype=np.float32)
