"""How far two devices pull towards each other's weights.

A pull is computed from two snapshots. Both sides compute theirs from the same two, so that one is exactly the
negative of the other: in IEEE 754 arithmetic b - a is -(a - b), and so is its product with the same weight.
What rounds is only adding a pull to weights that have moved on since.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.peer_settings import PeerSettings
from models.subnet import Array

Weights = Mapping[str, Array]


def pair_weight(settings: PeerSettings, degree: int, other_degree: int) -> float:
    """Weight of the other one in an exchange of two devices; the same on both sides.

    Args:
        settings: of the run. `uniform` counts the one snapshot received: 1/2.
        degree: neighbours that one of them has.
        other_degree: neighbours that the other has.

    References:
        Xiao, Boyd, Distributed average consensus, 2004: w_ij = 1 / (1 + max(d_i, d_j)) makes the mixing
        matrix symmetric and doubly stochastic, whichever links work.
    """
    own = 1.0 / (1 + max(degree, other_degree)) if settings.weight == "metropolis" else 0.5
    return settings.consensus_rate * own


def received_weight(settings: PeerSettings, degree: int, sender_degree: int, num_received: int) -> float:
    """Weight of one of several snapshots that were pushed here and are mixed at once.

    Never more than 1 / (1 + num_received), so that the own weights keep a share.
    """
    most = settings.consensus_rate / (1 + num_received)
    return most if settings.weight == "uniform" else min(most, pair_weight(settings, degree, sender_degree))


def pull(mine: Weights, theirs: Weights, weight: float) -> dict[str, Array]:
    """Of every tensor weight * (theirs - mine), float32 in the shapes of `mine`."""
    factor = np.float32(weight)
    return {name: factor * (theirs[name] - values) for name, values in mine.items()}


def moved(weights: Weights, change: Weights) -> dict[str, Array]:
    """Weights with a change added; new arrays, for the old ones may be on their way or in training."""
    return {name: values + change[name] for name, values in weights.items()}


def moved_back(weights: Weights, change: Weights) -> dict[str, Array]:
    """Weights with a change taken back; new arrays."""
    return {name: values - change[name] for name, values in weights.items()}
