"""Features in their own spreads, so that no unit outweighs another, and distances between such rows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.subnet import Array

Doubles = NDArray[np.float64]

Floats = TypeVar("Floats", Array, Doubles)


def standardised(vectors: Array, weights: Array, spreads: Array | None = None) -> Doubles:
    """Features less their mean, over their spread.

    Args:
        vectors: float32 [n, d].
        weights: float32 [n], >= 0: what each counts in mean and spread; if all are 0, they count alike.
        spreads: float32 [d], > 0; None: the standard deviations of these vectors.

    Returns:
        float64 [n, d]. A feature that does not vary is 0.
    """
    shares = shares_of(weights)
    centred = vectors.astype(np.float64)
    if not len(centred):
        return centred
    centred -= (centred.min(axis=0) + centred.max(axis=0)) / 2  # so that what does not vary is 0 exactly
    centred -= shares @ centred
    spread = np.sqrt(shares @ centred**2) if spreads is None else spreads.astype(np.float64)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def shares_of(weights: Array | Doubles) -> Doubles:
    """Weights as float64 [n] of the sum 1; equal ones if all are 0."""
    shares = weights.astype(np.float64)
    total = shares.sum()
    return shares / total if total > 0 else np.full(len(shares), 1.0 / max(1, len(shares)))


def squared_distances(rows: Floats, others: Floats) -> Floats:
    """Squared Euclidean distances [n, m] of rows [n, d] and [m, d]. From a row to its like it is about 0."""
    squares = rows @ (-2 * others.T)
    squares += np.einsum("nd,nd->n", rows, rows)[:, None]
    squares += np.einsum("md,md->m", others, others)
    return np.maximum(squares, 0, out=squares)
