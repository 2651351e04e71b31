"""The Engine seam: one pure operation carries all training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from models.graph import ModelGraph
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
            targets: "labels" int64 [N]; further arrays where the loss wants them.
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

    It is found by walking back from the logits along each node's first input to the first node that
    has a parameter. None if there is no such node.
    """
    producers = {node.output: node for node in graph.nodes}
    name = graph.output_name
    while name in producers:
        node = producers[name]
        if any(read in graph.parameters for read in node.inputs):
            return node.inputs[0]
        name = node.inputs[0]
    return None
