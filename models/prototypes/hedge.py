"""Experts weighed by how well they did lately.

With l the log loss of an expert and L its decayed sum, L <- decay L + l, the weight of each of E experts is

    w = (1 - share) softmax(-L) + share / E,

so that none is ever given up, and a change of the best one is followed within some 1 / (1 - decay) samples.

References:
    Freund, Schapire, A decision-theoretic generalization of on-line learning, JCSS 55(1), 1997 (Hedge).
    Herbster, Warmuth, Tracking the best expert, Machine Learning 32, 1998 (fixed share).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.prototypes.scaling import Doubles

_LEAST = 0.02  # probability below which a mistake costs no more


class Hedge:
    """Weights of experts, the last of whom may have nothing to say at first.

    Args:
        num_experts: E. num_heard: those who speak from the beginning.
        decay: of a loss, per sample. share: of the weight that all have in common.

    Attributes:
        weights: float64 [E], of sum 1; 0 for those who did not speak yet.
    """

    def __init__(self, num_experts: int, num_heard: int, decay: float, share: float) -> None:
        self._loss = np.zeros(num_experts)
        self._right = np.full(num_experts, 0.5)
        self._decay, self._share = decay, share
        self.weights: Doubles = np.zeros(num_experts)
        self.weights[:num_heard] = 1.0 / num_heard

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What it has learned, live."""
        return {"loss": self._loss, "right": self._right, "weights": self.weights}

    def learn(self, said: Doubles, y: int) -> None:
        """Judge what experts said.

        Args:
            said: float64 [H, C], the probabilities of the first H experts. The others begin with the mean
                loss of these, once they speak.
            y: the true class.
        """
        num = len(said)
        loss, right, chances = self._loss[:num], self._right[:num], said[:, y]
        part = np.maximum(chances, _LEAST)
        np.log(part, out=part)
        loss *= self._decay
        loss -= part
        right *= self._decay
        right += (1.0 - self._decay) * (chances >= np.maximum.reduce(said, axis=1))
        np.subtract(np.minimum.reduce(loss), loss, out=part)
        np.exp(part, out=part)
        part *= (1.0 - self._share) / np.add.reduce(part)
        part += self._share / num
        self.weights[:num] = part
        if num < len(self._loss):
            self.weights[num:] = 0.0
            self._loss[num:] = loss.mean()
            self._right[num:] = right.mean()

    def best(self, num: int) -> float:
        """Decayed accuracy of the best of the first experts."""
        return float(np.maximum.reduce(self._right[:num]))
