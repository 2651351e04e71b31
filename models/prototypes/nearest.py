"""What the nearest vectors say about a class.

References:
    Fix, Hodges, Discriminatory analysis: nonparametric discrimination, USAF School of Aviation Medicine,
    1951.
"""

from __future__ import annotations

import numpy as np

from models.subnet import Array

_FAR = np.float32(1e30)  # what is further is not a neighbour
_PRIOR = 0.5  # votes that each class has beforehand (Jeffreys), so that few neighbours say little


def class_shares(distances: Array, votes: Array, neighbours: int) -> Array:
    """Probability of each class by the votes of the nearest.

    Whatever is as near as the k-th votes too, so that the order of the vectors doesn't matter.

    Args:
        distances: float32 [E, n], of n vectors in each of E ways; infinite for those that don't
            count. n >= 1.
        votes: float32 [n, C], of each vector for each class.
        neighbours: k.

    Returns:
        float32 [E, C], rows of sum 1.
    """
    last = min(neighbours, distances.shape[1]) - 1
    furthest = np.partition(distances, last, axis=1)[:, last : last + 1]
    near = (distances <= np.minimum(furthest, _FAR)).astype(np.float32)
    shares = near @ votes
    shares += _PRIOR
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
