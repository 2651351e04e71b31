"""A Gaussian of independent features for each class and each speed of forgetting.

They are experts, and they tell how far each feature separates the classes.

References:
    West, Updating mean and variance estimates: an improved method, CACM 22(9), 1979 (fading weights).
    Fisher, The use of multiple measurements in taxonomic problems, Annals of Eugenics 7(2), 1936.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.prototypes.scaling import Doubles

_PRIOR = 1.0  # samples that each class's variance begins with, spread as all samples are
_SUREST = 0.95  # share of the likelihood that decides; the rest is as good as a guess


class ClassGaussians:
    """Means and variances of each class, as its samples come.

    Args:
        num_features: d. num_classes: C.
        memories: samples after which older ones fade, for each of G Gaussians per class; the longest last.
    """

    def __init__(self, num_features: int, num_classes: int, memories: tuple[float, ...]) -> None:
        shape = (len(memories), num_classes, num_features)
        self._mean, self._squares = np.zeros(shape), np.zeros(shape)
        self._count = np.zeros(shape[:2])
        self._keep = 1.0 - 1.0 / np.array(memories)[:, None, None]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What it has learned, live."""
        return {"mean": self._mean, "squares": self._squares, "count": self._count}

    def learn(self, x: Doubles, y: int) -> None:
        """Take in a sample: float64 [d] of class y."""
        self._count *= self._keep[:, 0]
        self._squares *= self._keep
        count, mean = self._count[:, y, None], self._mean[:, y]
        count += 1.0
        before = x - mean
        step = before / count
        mean += step
        before *= np.subtract(x, mean, out=step)
        self._squares[:, y] += before

    def predict(self, x: Doubles, variance: Doubles) -> Doubles:
        """Probability of each class by each speed of forgetting.

        Args:
            x: float64 [d].
            variance: float64 [d], of all samples.

        Returns:
            float64 [G, C].
        """
        spread = self._squares + (_PRIOR * variance + 1e-30)
        spread /= self._count[:, :, None] + _PRIOR
        distance = x - self._mean
        distance *= distance
        distance /= spread
        distance += np.log(spread, out=spread)
        score = np.add.reduce(distance, axis=2)
        score *= -0.5
        score += np.log(self._count + 1e-9)
        score -= np.maximum.reduce(score, axis=1, keepdims=True)
        np.exp(score, out=score)
        score *= _SUREST / np.add.reduce(score, axis=1, keepdims=True)
        score += (1.0 - _SUREST) / score.shape[1]
        return score

    def separation(self) -> Doubles:
        """Variance between the classes' means over the variance within, by the slowest to forget.

        float64 [d], 0 or more. Of two classes as frequent it is Fisher's (mean_1 - mean_0)^2 / (4 variance).
        """
        count = self._count[-1]
        share = count / max(count.sum(), 1e-30)
        mean = self._mean[-1]
        between = share @ (mean - share @ mean) ** 2
        within = (self._squares[-1]).sum(axis=0) / max(count.sum(), 1e-30)
        return between / (within + 1e-9 * between + 1e-30)
