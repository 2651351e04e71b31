"""Prototypes as a network: what a fleet's prototypes come to, for plain inference.

Standardise, score each prototype by its distance, and let the nearest ones vote::

    z = (x - mean) factor,   p = softmax_k((2 z . v_k - |v_k|^2) / T + log weight_k),   scores = p classes

It is a `ModelGraph` of a fixed number of places, so it is stored, measured and exported as any other; places
without a prototype have no weight. As a kernel classifier it is Nadaraya and Watson's (1964).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from models.graph import ModelGraph, Node, validate
from models.prototypes.prototype_set import PrototypeSet, empty
from models.prototypes.scaling import LARGEST, Doubles, Scales
from models.subnet import Array

NAME = "prototypes"

NUM_PLACES = 256
"""Of a fleet's: a device tells no more of its own, and the coordinator merges those of all to as many."""

TEMPERATURE = 0.02
"""T for each feature: of standardised samples of a class most are further apart."""

SHARPNESS = 10.0
"""Factor on the votes, which makes class scores of them."""

QUARTILES = 1.349
"""Standard deviations of a Gaussian between its quartiles."""

MOST_COUNT = 50.0
"""Samples that the scales of a fleet stand for where a device begins with them: its own soon weigh more."""

_NOWHERE = -1e9


def prototype_graph(input_shape: tuple[int, ...], num_classes: int, num_places: int) -> ModelGraph:
    """The network of so many prototypes.

    Args:
        input_shape: of one sample; all its values together are the d features.
        num_classes: C.
        num_places: K.

    Raises:
        UserError: no network can have this shape.
    """
    width = math.prod(input_shape)
    nodes = (
        Node("Flatten", ("input",), "flat", {}),
        Node("Sub", ("flat", "mean"), "centred", {}),
        Node("Mul", ("centred", "factor"), "scaled", {}),
        Node("Gemm", ("scaled", "keys.weight", "keys.bias"), "nearness", {}),
        Node("Softmax", ("nearness",), "votes", {"axis": 1}),
        Node("Gemm", ("votes", "classes.weight"), "logits", {}),
    )
    parameters = {
        "mean": (width,),
        "factor": (width,),
        "keys.weight": (num_places, width),
        "keys.bias": (num_places,),
        "classes.weight": (num_classes, num_places),
    }
    return validate(ModelGraph(NAME, "input", input_shape, "logits", nodes, parameters, {}, {}, {}))


def as_weights(prototypes: PrototypeSet, graph: ModelGraph) -> dict[str, Array]:
    """The weights of the network of `prototype_graph` that has these prototypes.

    Args:
        prototypes: at most as many as it has places; none: every class is as likely as any other.
        graph: the network.

    Returns:
        float32 tensors.

    Raises:
        ValueError: there are too many prototypes, or of other features.
    """
    num_places, width = graph.parameters["keys.weight"]
    num_classes, num = graph.num_classes, len(prototypes)
    if num > num_places or prototypes.vectors.shape[1] != width:
        raise ValueError(
            f"{num} prototypes of {prototypes.vectors.shape[1]} features for {num_places} of {width}"
        )
    mean, factor = _scales(prototypes, width)
    scaled = (prototypes.vectors.astype(np.float64) - mean) * factor
    keys, bias = np.zeros((num_places, width)), np.full(num_places, _NOWHERE if num else 0.0)
    classes = np.zeros((num_classes, num_places))
    temperature = TEMPERATURE * width
    keys[:num] = 2.0 * scaled / temperature
    weights = np.maximum(prototypes.weights.astype(np.float64), 1e-3)
    bias[:num] = np.log(weights) - (scaled**2).sum(axis=1) / temperature
    classes[prototypes.labels, np.arange(num)] = SHARPNESS
    found = {
        "mean": mean,
        "factor": factor,
        "keys.weight": keys,
        "keys.bias": bias,
        "classes.weight": classes,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def no_weights(graph: ModelGraph) -> dict[str, Array]:
    """Those of no prototypes."""
    return as_weights(empty(graph.parameters["keys.weight"][1]), graph)


def scales_of(weights: Mapping[str, Array]) -> Scales | None:
    """The units of the fleet's prototypes, for a device that comes to it; None of a network without any.

    Args:
        weights: of the network of `prototype_graph`.
    """
    num = int(weights["classes.weight"].any(axis=0).sum())
    if not num:
        return None
    factor = weights["factor"].astype(np.float64)
    deviation = np.divide(1.0, factor, out=np.zeros_like(factor), where=factor > 0.0)
    mean = np.clip(weights["mean"].astype(np.float64), -LARGEST, LARGEST)
    return Scales(mean, np.minimum(deviation, LARGEST) ** 2, min(float(num), MOST_COUNT))


def _scales(prototypes: PrototypeSet, width: int) -> tuple[Doubles, Doubles]:
    """Middles, and what makes deviations one; 0 for a feature that is the same everywhere.

    Medians and quartiles, so that a device with a faulty sensor spoils neither.
    """
    if not len(prototypes):
        return np.zeros(width), np.ones(width)
    vectors = prototypes.vectors.astype(np.float64)
    low, mean, high = np.quantile(vectors, (0.25, 0.5, 0.75), axis=0)
    deviation = (high - low) / QUARTILES
    deviation = np.where(deviation > 0.0, deviation, vectors.std(axis=0))
    varies = deviation > 1e-6 * np.abs(mean) + 1e-30
    return mean, np.divide(1.0, deviation, out=np.zeros(width), where=varies)
