"""Which entries an update can have changed: both sides know, so their places never travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.draws import make_draw
from models.subnet import Array, DropoutVector, full_vector
from models.touches import Touches


def trained_entries(
    bundle: Bundle,
    vectors: Sequence[DropoutVector],
    step_vectors: Sequence[int],
    *,
    seed: int,
    round_number: int,
    weights: Mapping[str, Array] | None,
) -> dict[str, NDArray[np.bool_]] | None:
    """The entries that an order's mini-batches trained, by replaying its draws.

    Args:
        bundle: of the order.
        vectors: the distinct dropout vectors used; they fit the network.
        step_vectors: for each mini-batch the index of its vector.
        seed: of the order.
        round_number: of the order.
        weights: full tensors at the order's start; only a draw by importance reads them.

    Returns:
        Bool arrays by tensor, read-only; None where all entries travel: a mini-batch trained the whole
        network, or nothing is compressed.
    """
    if bundle.settings.delta_compression.scheme == "none":
        return None
    full = full_vector(bundle.plan)
    if any(vectors[index] == full for index in set(step_vectors)):
        return None
    parameters = bundle.graph.parameters
    draw = make_draw(
        bundle.settings.subnets, bundle.plan, seed=seed, round_number=round_number, weights=weights
    )
    touches = Touches(bundle.plan, parameters)
    counts = touches.count(draw, vectors, step_vectors)
    return {
        name: np.broadcast_to(touches.spread(counts[place] > 0, place), shape)
        for name, shape in parameters.items()
        for place in (touches.index(name),)
    }
