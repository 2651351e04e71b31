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
    ordered = distances.copy()
    ordered.partition(last, axis=1)
    furthest = ordered[:, last : last + 1]
    np.minimum(furthest, _FAR, out=furthest)
    near = np.less_equal(distances, furthest)
    shares = near.astype(np.float32) @ votes
    shares += _PRIOR
    shares /= np.add.reduce(shares, axis=1, keepdims=True)
    return shares
