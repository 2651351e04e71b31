"""Weights to start training from."""

from __future__ import annotations

import math

import numpy as np

from models.graph import ModelGraph
from models.subnet import Array


def initial_weights(graph: ModelGraph, seed: int) -> dict[str, Array]:
    """Random weights: every parameter, no statistics (they are calibrated).

    Weights of Conv, Gemm and MatMul are uniform in +-sqrt(6 / fan_in), biases 0, scales 1. The same
    seed gives the same bytes with any NumPy: the numbers are made from the raw words of a Philox
    counter keyed by (seed, place of the parameter).

    References:
        He et al., Delving deep into rectifiers, section 2.2, arXiv 1502.01852.
    """
    fans: dict[str, int] = {}
    ones: set[str] = set()
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm"):
            fans[node.inputs[1]] = math.prod(graph.parameters[node.inputs[1]][1:])
        elif node.op == "MatMul" and node.inputs[1] in graph.parameters:
            fans[node.inputs[1]] = graph.parameters[node.inputs[1]][0]
        elif node.op == "BatchNormalization":
            ones.add(node.inputs[1])
        elif node.op in ("Mul", "Div"):
            ones.update(node.inputs)
    weights: dict[str, Array] = {}
    for place, (name, shape) in enumerate(graph.parameters.items()):
        if name in fans:
            words = np.random.Philox(key=np.array((seed, place), np.uint64)).random_raw(math.prod(shape))
            unit = (words >> np.uint64(11)) * 2.0**-53  # 53 bits, in 0..1
            bound = math.sqrt(6 / fans[name])
            weights[name] = ((2 * unit - 1) * bound).astype(np.float32).reshape(shape)
        else:
            weights[name] = np.full(shape, 1.0 if name in ones else 0.0, np.float32)
    return weights
