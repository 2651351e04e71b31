"""The numpy engine: interprets a ModelGraph with NumPy alone, where no runtime is installed or exists.

The heavy part are matrix products, which NumPy's BLAS computes. It decides on its number of threads when
NumPy is loaded, from OPENBLAS_NUM_THREADS (or OMP_NUM_THREADS); NumPy has no way to change it afterwards.
So `num_threads` is not obeyed here: whoever starts the process sets the variable. Everything else runs
on one thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Gradients, features_name, matched_features
from models.engines.numpy.memory import Buffers
from models.engines.numpy.normalisation import Moments, batch_normalisation, given_normalisation
from models.engines.numpy.operators import OPERATORS
from models.engines.numpy.rule import Rule
from models.engines.reorder import pool_before_relu
from models.graph import ModelGraph, Node
from models.loss_gradients import loss_gradients
from models.losses import LossSettings, find_loss
from models.subnet import Array

_OUTPUT_UNUSED_BACKWARD = frozenset(
    {"Conv", "BatchNormalization", "Gemm", "MatMul", "Add", "Sub", "MaxPool", "AveragePool", "Concat"}
)
"""Operators whose output is theirs alone and not read by their backward pass: it may be overwritten."""

_EVALUATION_SAMPLES = 64
"""Computed at once where no sample depends on another, so that evaluation needs little memory."""


@dataclass(frozen=True)
class _Step:
    """One node, ready to run.

    Attributes:
        compute: from buffers and inputs its output and what `rule.backward` reads.
        rule: how it is computed and differentiated.
        inputs: slots it reads. output: slot it writes.
        dead: slots nobody reads after it, freed at once.
        wanted: for each input whether its gradient is used.
        moments: names of the mean and variance that a training batch norm yields beside its output.
    """

    compute: Callable[..., tuple[Array, Any]]
    rule: Rule
    inputs: tuple[int, ...]
    output: int
    dead: tuple[int, ...]
    wanted: tuple[bool, ...]
    moments: tuple[str, ...]


class NumpyEngine:
    """An Engine (see `models.engines.engine`) by NumPy.

    Args:
        graph: the network.
        loss: which loss, and its settings.
        num_threads: not obeyed, see the module.
    """

    name = "numpy"

    def __init__(self, graph: ModelGraph, loss: LossSettings, num_threads: int) -> None:
        del num_threads
        self._graph = graph
        self._settings = loss
        self._parameters, self._statistics = tuple(graph.parameters), tuple(graph.statistics)
        names = [graph.input_name, *self._parameters, *self._statistics, *graph.constants]
        self._slots = {
            name: slot for slot, name in enumerate([*names, *(node.output for node in graph.nodes)])
        }
        self._constants = [
            np.array(constant.values, np.float32).reshape(constant.shape)
            for constant in graph.constants.values()
        ]
        features = features_name(graph)
        self._outputs = {"logits": graph.output_name} | ({"features": features} if features else {})
        self._matched = matched_features(graph, find_loss(loss.name))
        kept = {graph.output_name} | ({self._matched} if self._matched else set())
        self._training = self._compile(training=True, keep=kept)
        self._evaluation = self._compile(training=False, keep=set(self._outputs.values()))
        self._buffers = Buffers()
        self._lock = threading.Lock()  # the buffers are for one caller at a time

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, NDArray]
    ) -> Gradients:
        """See `Engine.gradients`.

        Raises:
            KeyError: `weights` lack an array.
            UserError: `targets` lack an array that the loss wants, or it has another shape or dtype.
        """
        with self._lock, np.errstate(all="ignore"):
            self._buffers.next_step()
            tape: list[Any] = []
            values = self._fill(weights, (), inputs)
            statistics = self._run(self._training, values, tape)
            found: list[Array | None] = [None] * len(values)
            loss = self._compute_loss(values, targets, found)
            values.clear()
            self._differentiate(tape, found)
            gradients = {name: self._parameter_gradient(name, weights, found) for name in self._parameters}
            return Gradients(loss, gradients, statistics)

    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """See `Engine.statistics`."""
        with self._lock, np.errstate(all="ignore"):
            self._buffers.next_step()
            return self._run(self._training, self._fill(weights, (), inputs), None)

    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """See `Engine.outputs`.

        Raises:
            KeyError: `weights` lack a parameter or a statistic.
        """
        with self._lock, np.errstate(all="ignore"):
            parts = [
                self._evaluate(weights, inputs[start : start + _EVALUATION_SAMPLES])
                for start in range(0, max(1, len(inputs)), _EVALUATION_SAMPLES)
            ]
        return {key: np.concatenate([part[key] for part in parts]) for key in self._outputs}

    def _evaluate(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        self._buffers.next_step()
        values = self._fill(weights, self._statistics, inputs)
        self._run(self._evaluation, values, None)
        return {key: _batch_first(values[self._slots[name]]) for key, name in self._outputs.items()}

    def _compile(self, *, training: bool, keep: set[str]) -> tuple[_Step, ...]:
        """Bind each node's attributes to its rule, once."""
        nodes = pool_before_relu(self._graph, keep).nodes
        num_reads = Counter(name for node in nodes for name in node.inputs)
        last_read = {name: index for index, node in enumerate(nodes) for name in node.inputs}
        makers = {node.output: node.op for node in nodes}
        trained = set(self._parameters)
        steps = []
        for index, node in enumerate(nodes):
            dead = {name for name in node.inputs if name in makers and last_read[name] == index} - keep
            first = node.inputs[0]
            overwrite = first in dead and num_reads[first] == 1 and makers[first] in _OUTPUT_UNUSED_BACKWARD
            steps.append(self._step(node, frozenset(dead), trained, training=training, overwrite=overwrite))
            if trained.intersection(node.inputs):
                trained.add(node.output)
        return tuple(steps)

    def _step(
        self, node: Node, dead: frozenset[str], trained: set[str], *, training: bool, overwrite: bool
    ) -> _Step:
        graph, inputs, moments = self._graph, node.inputs, ()
        make = OPERATORS.get(node.op, given_normalisation)
        if node.op == "BatchNormalization" and training:
            make, inputs, moments = batch_normalisation, node.inputs[:3], node.inputs[3:]
        rule = make(node.attributes, tuple(name in graph.shapes for name in inputs))
        return _Step(
            compute=rule.in_place if overwrite and rule.in_place else rule.forward,
            rule=rule,
            inputs=tuple(self._slots[name] for name in inputs),
            output=self._slots[node.output],
            dead=tuple(self._slots[name] for name in dead),
            wanted=tuple(name in trained for name in inputs),
            moments=moments,
        )

    def _fill(self, weights: Mapping[str, Array], statistics: Sequence[str], inputs: Array) -> list:
        last = inputs.transpose(*range(1, inputs.ndim), 0)
        given = self._buffers.copy(last)
        read = [weights[name] for name in self._parameters]
        moments = [weights[name] for name in statistics] or [None] * len(self._statistics)
        return [given, *read, *moments, *self._constants, *[None] * len(self._graph.nodes)]

    def _run(self, steps: tuple[_Step, ...], values: list, tape: list | None) -> dict[str, Array]:
        """Compute every value; what the backward pass reads goes to the tape, if there is one."""
        statistics: dict[str, Array] = {}
        for step in steps:
            read = [values[slot] for slot in step.inputs]
            values[step.output], saved = step.compute(self._buffers, *read)
            read.clear()
            if isinstance(saved, Moments):
                statistics |= zip(step.moments, (saved.mean, saved.variance), strict=True)
            if tape is not None:
                tape.append(saved)
            for slot in step.dead:
                values[slot] = None
        return statistics

    def _compute_loss(self, values: list, targets: Mapping[str, NDArray], found: list) -> float:
        """The loss; its gradients go to the slots of what it reads."""
        logits = _batch_first(values[self._slots[self._graph.output_name]])
        features = _batch_first(values[self._slots[self._matched]]) if self._matched else None
        made = loss_gradients(self._settings, logits, targets, features)
        if made.features is not None:
            assert self._matched is not None
            self._add(found, self._slots[self._matched], self._buffers.copy(_batch_last(made.features)))
        output = self._slots[self._graph.output_name]
        self._add(found, output, self._buffers.copy(_batch_last(made.logits)))
        return made.loss

    def _differentiate(self, tape: list, found: list) -> None:
        """Walk back over the tape, which is used up, and leave the parameters' gradients in their slots."""
        for step in reversed(self._training):
            saved, gradient = tape.pop(), found[step.output]
            found[step.output] = None
            if gradient is None or not any(step.wanted):
                continue
            made = step.rule.backward(self._buffers, saved, gradient, step.wanted)
            for slot, part in zip(step.inputs, made, strict=True):
                if part is not None:
                    self._add(found, slot, part)

    @staticmethod
    def _add(found: list, slot: int, part: Array) -> None:
        if found[slot] is None:
            found[slot] = part
        else:
            found[slot] += part

    def _parameter_gradient(self, name: str, weights: Mapping[str, Array], found: list) -> Array:
        gradient = found[self._slots[name]]
        if gradient is None:
            return np.zeros_like(weights[name])
        owned = gradient.base is None and gradient.flags.c_contiguous
        return gradient if owned else np.array(gradient, np.float32, order="C")


def _batch_first(x: Array) -> Array:
    """A copy of a value as the graph has it, in row-major order."""
    return np.array(x.transpose(-1, *range(x.ndim - 1)), order="C")


def _batch_last(x: Array) -> Array:
    return x.transpose(*range(1, x.ndim), 0)
