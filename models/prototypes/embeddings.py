"""Class means of what a network makes of its inputs: prototypes small enough to exchange in place of weights.

References:
    Tan et al., FedProto: federated prototype learning across heterogeneous clients, AAAI 2022,
    arXiv 2105.00243.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.prototypes.prototype_set import PrototypeSet, check, joined
from models.subnet import Array


class ClassMeans:
    """Means that grow with every batch; memory doesn't grow with samples.

    Args:
        num_features: d, of an embedding. num_classes: C.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        self._sums = np.zeros((num_classes, num_features))
        self._counts = np.zeros(num_classes)

    def add(self, embeddings: Array, labels: NDArray[np.int64]) -> None:
        """Take in a batch.

        Args:
            embeddings: float32 [n, d].
            labels: int64 [n], below C.

        Raises:
            ValueError: a shape differs, a value is not finite, or there is no such class.
        """
        num = len(labels)
        ones = np.ones(num, np.float32)
        batch = PrototypeSet(np.asarray(embeddings), np.asarray(labels), ones, ones)
        check(batch, self._sums.shape[1], len(self._counts))
        np.add.at(self._sums, batch.labels, batch.vectors)
        self._counts += np.bincount(batch.labels, minlength=len(self._counts))

    def prototypes(self) -> PrototypeSet:
        """The mean of each class seen, whose weight is its samples; ages are 0."""
        seen = np.flatnonzero(self._counts)
        means = self._sums[seen] / self._counts[seen, None]
        return _set(means, seen.astype(np.int64), self._counts[seen])


def merged(sets: Sequence[PrototypeSet]) -> PrototypeSet:
    """One mean of each class, each set's counting by its weight; what weighs nothing is left out.

    Raises:
        ValueError: there is no set, or they differ in the number of features.
    """
    if not sets:
        raise ValueError("no prototypes to merge")
    together = joined(sets)
    weights = together.weights.astype(np.float64)
    labels, index = np.unique(together.labels, return_inverse=True)
    totals = np.bincount(index, weights, len(labels)).astype(np.float64)
    sums = np.zeros((len(labels), together.vectors.shape[1]))
    np.add.at(sums, index, together.vectors * weights[:, None])
    kept = totals > 0.0
    return _set(sums[kept] / totals[kept, None], labels[kept], totals[kept])


def nearest_classes(embeddings: Array, prototypes: PrototypeSet) -> NDArray[np.int64]:
    """The class of the nearest prototype; of equally near ones, the first.

    Args:
        embeddings: float32 [n, d].
        prototypes: one or more.

    Returns:
        int64 [n].

    Raises:
        ValueError: there is no prototype.
    """
    if not len(prototypes):
        raise ValueError("without prototypes no class is the nearest")
    centre = prototypes.vectors.mean(axis=0, dtype=np.float64)  # products of differences don't cancel
    rows, columns = embeddings - centre, prototypes.vectors - centre
    squared = (columns**2).sum(axis=1) - 2.0 * (rows @ columns.T)  # less |row|^2, the same for all
    return prototypes.labels[squared.argmin(axis=1)]


def _set(
    vectors: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> PrototypeSet:
    ages = np.zeros(len(labels), np.float32)
    return PrototypeSet(vectors.astype(np.float32), labels, weights.astype(np.float32), ages)
