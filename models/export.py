"""The trained network taken out: plain ONNX for inference, whole or at any width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from firmware_profiles.errors import UserError
from models.graph import ModelGraph
from models.subnet import (
    Array,
    DropoutVector,
    Subnet,
    check_vector,
    cut,
    full_subnet,
    full_vector,
    ordered_subnet,
)
from models.weights import load
from models.widths import WidthPlan

Keep = Literal["strongest", "first"]

GRAPH_FILE = "graph.msgpack"
"""In a state folder: the run's graph, `models.graph.encode`d."""


def strongest_subnet(plan: WidthPlan, weights: Mapping[str, Array], vector: DropoutVector) -> Subnet:
    """Keep in each group the channels whose weights have the largest L2 norm.

    A channel's weights are those of every tensor that makes it: the entries along the first axis of
    each parameter with two or more axes that follows the group there (for a residual sum, all the
    convolutions that add to it). Among equal norms the first channels are kept.
    """
    check_vector(plan, vector)
    squares = [np.zeros(group.num_channels) for group in plan.groups]
    for name, axes in plan.axes.items():
        if len(axes) < 2 or name not in weights:
            continue
        flat = np.square(weights[name].reshape(len(weights[name]), -1).astype(np.float64)).sum(axis=1)
        start = 0
        for segment in axes[0]:
            end = start + segment.num_channels * segment.repeat
            if segment.group is not None:
                squares[segment.group] += (
                    flat[start:end].reshape(segment.num_channels, segment.repeat).sum(axis=1)
                )
            start = end
    kept = [
        np.sort(np.argsort(-norms, kind="stable")[:count])
        for norms, count in zip(squares, vector, strict=True)
    ]
    return Subnet(tuple(kept))


def export_subnet(
    plan: WidthPlan, weights: Mapping[str, Array], vector: DropoutVector, keep: Keep = "strongest"
) -> dict[str, Array]:
    """Parameters (and statistics, if given) of the width to take out, as dense tensors.

    Batch-norm statistics of the full network fit a narrower one badly: calibrate them anew with
    `models.calibrate`, from the weights this returns.

    Args:
        plan: the width groups.
        weights: full tensors.
        vector: channels to keep.
        keep: the strongest channels by L2 norm, or the first ones (for networks trained in order).
    """
    if vector == full_vector(plan):
        subnet = full_subnet(plan)
    elif keep == "first":
        subnet = ordered_subnet(plan, vector)
    else:
        subnet = strongest_subnet(plan, weights, vector)
    return cut(plan, weights, subnet)


def load_weights(graph: ModelGraph, path: Path) -> dict[str, Array]:
    """Weights and statistics from a safetensors file, checked against a graph.

    Raises:
        UserError: the file cannot be used, lacks a parameter, or belongs to another network.
    """
    found = load(path)
    expected = {**graph.parameters, **graph.statistics}
    for name in graph.parameters:
        if name not in found:
            raise UserError(f"{path} lacks the weight {name} of {graph.name}; is it of another network?")
    for name, array in found.items():
        if array.shape != expected.get(name):
            raise UserError(
                f"{path}: {name} has shape {array.shape}; {graph.name} has {expected.get(name, 'no such')}"
            )
    return found


def newest_weights(state: Path) -> Path:
    """The last model a coordinator stored in its state folder.

    Raises:
        UserError: there is none.
    """
    folder = state / "models"
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        raise UserError(f"{folder} holds no model yet; give the folder of --state of a run that has begun")
    return files[-1]
