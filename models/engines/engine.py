"""The Engine seam: one pure operation carries all training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from firmware_profiles.errors import UserError
from models.graph import ModelGraph
from models.losses import Loss
from models.subnet import Array


class Gradients(NamedTuple):
    """What one mini-batch yields.

    Attributes:
        loss: mean loss over the mini-batch. It may be NaN or infinite: the engine computes, the
            training step judges (`models.step`).
        gradients: of the mean loss, one per parameter, in the shape that was given, C-contiguous.
            The arrays belong to the caller, who may overwrite them.
        statistics: batch-norm moments of this mini-batch, by statistic name (biased variance).
    """

    loss: float
    gradients: dict[str, Array]
    statistics: dict[str, Array]


class Engine(Protocol):
    """Computes with the tensors it is given: shapes decide the size, nothing is masked or mutated.

    An engine is made for one graph and one loss by `models.engines.choose.make_engine`.
    """

    name: str

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, Array]
    ) -> Gradients:
        """Loss and gradients of one mini-batch, batch statistics in batch norm.

        Args:
            weights: every parameter, in any consistent widths, float32, C-contiguous.
            inputs: float32 [N, *input_shape].
            targets: what the loss wants, in the forms of `models.losses.TARGETS`: "labels" int64 [N];
                further arrays where the loss wants them.

        Raises:
            UserError: `targets` lack an array that the loss wants, or it has another shape or dtype.
        """
        ...

    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """Batch-norm moments of one mini-batch (for `models.calibrate`)."""
        ...

    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """Logits ("logits": [N, classes]) and the last layer's input ("features"), for evaluation.

        `weights` must hold the graph's statistics too: a prediction depends on no batch-mate.
        """
        ...


def features_name(graph: ModelGraph) -> str | None:
    """Name the value that the last trained layer reads, which every engine returns as "features".

    It is found by walking back from the logits along each node's first value to the first node that
    has a parameter. None if there is no such node.
    """
    producers = {node.output: node for node in graph.nodes}
    name = graph.output_name
    while name in producers:
        node = producers[name]
        value = next(read for read in node.inputs if read in graph.shapes)
        if any(read in graph.parameters for read in node.inputs):
            return value
        name = value
    return None


def matched_features(graph: ModelGraph, loss: Loss) -> str | None:
    """Name the value that the loss compares with a teacher's features; None if it reads no features.

    Raises:
        UserError: the loss wants features, and the network has none.
    """
    if not loss.wants_features:
        return None
    name = features_name(graph)
    if name is None:
        raise UserError(
            f"loss {loss.name!r} compares the input of the last layer that has weights, and model "
            f"{graph.name} has no such layer before its output: choose another loss"
        )
    return name


def features_shape(
    graph: ModelGraph, features: str | None, weights: Mapping[str, Array], num_samples: int
) -> tuple[int, ...]:
    """Shape of a value in the width of these weights, as the layers tell that read it; () for None."""
    if features is None:
        return ()
    shape = [num_samples, *graph.shapes[features]]
    for node in graph.nodes:
        if node.inputs[0] == features and node.op in _READ_CHANNELS:
            shape[1] = _READ_CHANNELS[node.op](weights[node.inputs[1]].shape, node.attributes)
    return tuple(shape)


_READ_CHANNELS: dict[str, Callable[[tuple[int, ...], Mapping[str, Any]], int]] = {
    "Gemm": lambda weight, _: weight[1],
    "BatchNormalization": lambda scale, _: scale[0],
    "Conv": lambda weight, attributes: weight[1] * attributes["group"],
}
"""Channels that a layer reads, by the shape of its weights."""
