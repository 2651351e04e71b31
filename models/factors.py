"""Factors on weights: what the engine computes with is `weight x factor`, entry by entry.

They say two things of a sub-network: that kept activations count more because others are missing, and
that classes without samples take no part. By the chain rule a weight's gradient is multiplied by the same
factor, so the training step that is taken is the exact one of the network with factors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.graph import ModelGraph
from models.subnet import Array, Subnet
from models.widths import WidthPlan

Factors = Mapping[str, Array]
"""By tensor, in a shape that broadcasts against that of the sub-network; those left out have none."""


def apply(tensors: Mapping[str, Array], factors: Factors) -> dict[str, Array]:
    """The tensors times their factors; those without a factor are passed on as they are."""
    return {
        name: np.multiply(tensor, factors[name]) if name in factors else tensor
        for name, tensor in tensors.items()
    }


def scaling_factors(graph: ModelGraph, plan: WidthPlan, subnet: Subnet) -> dict[str, Array]:
    """Inverted dropout: a kept activation counts channels / kept times, where it is read.

    The factor stands on the input axis of the weights of Conv and Gemm (both have it as axis 1), for each
    segment of a concatenation its own. A depthwise convolution sums over no channels: it has none.

    References:
        Srivastava et al., Dropout, JMLR 2014, section 10 (scaling while training). Diao et al., HeteroFL,
        ICLR 2021: the Scaler, 1 / rate in training only, there behind the convolution that makes them.
    """
    factors: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op not in ("Conv", "Gemm"):
            continue
        name = node.inputs[1]
        parts = []
        for segment in plan.axes[name][1]:
            kept = segment.num_channels if segment.group is None else len(subnet.kept[segment.group])
            parts.append(np.full(kept * segment.repeat, segment.num_channels / kept, np.float32))
        along = np.concatenate(parts)
        if (along != 1.0).any():
            factors[name] = along.reshape(-1, *(1 for _ in plan.axes[name][2:]))
    return factors


def class_tensors(graph: ModelGraph) -> tuple[str, ...]:
    """The parameters of the last layer, whose axis 0 is the classes.

    Raises:
        UserError: the network does not end in a Gemm of its own weights.
    """
    last = next(node for node in graph.nodes if node.output == graph.output_name)
    names = tuple(last.inputs[1:])
    uses = [name for node in graph.nodes for name in node.inputs]
    if last.op != "Gemm" or any(uses.count(name) > 1 for name in names):
        raise UserError(
            f"model {graph.name} ends in {last.op}, and absent classes are masked in the weights of a last "
            "Gemm that nothing else reads: choose another network, or mask_absent_classes: false"
        )
    return names


def class_bias(graph: ModelGraph) -> str | None:
    """The bias of the last layer, one number a class; None where the network does not end in such a Gemm."""
    try:
        names = class_tensors(graph)
    except UserError:
        return None
    return names[1] if len(names) > 1 else None


def class_factors(graph: ModelGraph, is_present: NDArray[np.bool_]) -> dict[str, Array]:
    """0 for the classes that are absent: their logits are 0 and get no gradient.

    Args:
        graph: the network.
        is_present: bool [classes].

    Raises:
        UserError: the network does not end in a Gemm of its own weights.

    References:
        Diao et al., HeteroFL, ICLR 2021, section 3: masked cross-entropy, with logits of 0.
    """
    present = is_present.astype(np.float32)
    return {
        name: present.reshape(-1, *(1 for _ in graph.parameters[name][1:])) for name in class_tensors(graph)
    }


def combined(one: Factors, other: Factors) -> dict[str, Array]:
    """Both at once."""
    both = {name: one[name] * other[name] for name in one.keys() & other.keys()}
    return {**one, **other, **both}
