"""How well a learner does on a stream: each sample is predicted first and learned then.

References:
    Gama, Sebastião, Rodrigues, On evaluating stream learning algorithms, Machine Learning 90, 2013.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RECENT = 500
"""Predictions that `recent_accuracy` is of."""


@dataclass
class Prequential:
    """Counts what was predicted and what was true.

    Attributes:
        num_classes: C. counts: int64 [C, C], by true class, then predicted one.
    """

    num_classes: int
    counts: NDArray[np.int64] = field(init=False)
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, true: int, predicted: int) -> None:
        """One sample whose label has come."""
        self.counts[true, predicted] += 1
        self._recent.append(true == predicted)

    @property
    def recent_accuracy(self) -> float | None:
        """Share of right predictions among the latest; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None


def accuracy(counts: NDArray[np.int64]) -> float | None:
    """Share of right predictions; None before the first. `counts` may be the sum over devices."""
    total = int(counts.sum())
    return int(np.trace(counts)) / total if total else None


def f1_scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class, float64 [C]; 0 of one that was neither there nor predicted."""
    right = np.diag(counts).astype(np.float64)
    both = counts.sum(axis=0) + counts.sum(axis=1)
    return np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0)
