"""The experts of the default learner: what each would say about a sample.

Distances are taken in three metrics: each feature by its standard deviation, features as they are, and by how
well a feature alone separates the classes. A metric's unit is the mean squared distance of two random
samples. In each metric the k nearest of the own memory vote: for each horizon those among the latest so many,
and once with age as one more feature, (age / fade)^2. Class Gaussians come on top. These are the own experts.
The pool's experts, one in each metric, look at own samples and at peers' prototypes together, all with their
ages; a peer's prototypes are moved away by (1 - trust) / trust.
"""

from __future__ import annotations

import numpy as np

from models.prototypes.class_gaussians import ClassGaussians
from models.prototypes.memory import Memory
from models.prototypes.nearest import class_shares
from models.prototypes.prototype_set import PrototypeSet
from models.prototypes.scaling import Doubles, Scales
from models.prototypes.settings import LearnerSettings
from models.subnet import Array

NUM_METRICS = 3
_SHARPNESS = 2.0  # exponent of the separation


class Experts:
    """Says what each expert says; learns nothing itself.

    All that look at neighbours are asked at once: of each metric one row of distances for each way in which
    ages count, with infinite ones to what does not count.

    Args:
        settings: of the learner.
        num_classes: C.
        memory: of own samples and peers' prototypes.

    Attributes:
        num_own, num_all: experts that look at own samples alone, and all with the pool's.
    """

    def __init__(self, settings: LearnerSettings, num_classes: int, memory: Memory) -> None:
        self._settings, self._memory = settings, memory
        ages = memory.ages_round
        rows = [np.where(ages < horizon, 0.0, np.inf) for horizon in settings.horizons]
        rows.append((ages / settings.fade) ** 2)
        self._num_ways = len(rows)
        rows.append((ages / settings.pool_fade) ** 2)
        self._by_age = np.array(rows, np.float32)
        self._apart = np.full((len(rows), settings.pool + settings.memory), np.inf, np.float32)
        self._num_nearest = NUM_METRICS * self._num_ways
        self.num_own = self._num_nearest + len(settings.class_memories)
        self.num_all = self.num_own + (NUM_METRICS if settings.pool else 0)
        self._num_classes = num_classes

    def say(
        self, distances: Array, x: Doubles, gaussians: ClassGaussians, variance: Doubles, distrust: Doubles
    ) -> Doubles:
        """What each says about a sample.

        Args:
            distances: float32 [M, num_pool + num_own], of the memory.
            x: float64 [d].
            gaussians: of the classes.
            variance: float64 [d], of all samples.
            distrust: float64 [P], of each peer: what is added to the distance of its prototypes.

        Returns:
            float64 [num_own, C], or [num_all, C] where there is a pool.
        """
        num_pool, num_ways, end = self._memory.num_pool, self._num_ways, self._num_nearest
        said = np.empty((self.num_all if num_pool else self.num_own, self._num_classes))
        said[end : self.num_own] = gaussians.predict(x, variance)
        if not distances.shape[1]:
            said[:end] = 1.0 / self._num_classes
            return said
        near = distances[:, None] + self._of_ages(distrust)
        shares = class_shares(
            near.reshape(-1, distances.shape[1]), self._memory.votes, self._settings.neighbours
        ).reshape(NUM_METRICS, -1, self._num_classes)
        said[:end].reshape(NUM_METRICS, num_ways, -1)[:] = shares[:, :num_ways]
        if num_pool:
            said[self.num_own :] = shares[:, num_ways]
        return said

    def _of_ages(self, distrust: Doubles) -> Array:
        """What ages and distrust add to distances: float32 [ways, num_pool + num_own], the pool's last.

        It is good until the next call.
        """
        memory, settings = self._memory, self._settings
        num_pool, num_ways = memory.num_pool, self._num_ways
        apart = self._apart[:, settings.pool - num_pool : settings.pool + memory.num_own]
        apart[:, num_pool:] = self._by_age[:, memory.places]
        if not num_pool:
            return apart[:num_ways]
        age = memory.pool_ages
        age /= settings.pool_fade
        age *= age
        age += distrust[memory.pool_peers]
        apart[num_ways, :num_pool] = age
        return apart


def metrics(scales: Scales, separation: Doubles) -> Array:
    """Weights of the features in each metric.

    Args:
        scales: of the features.
        separation: float64 [d], how well each separates the classes.

    Returns:
        float32 [d, 3]; zeros where all features are constant, or none separates.
    """
    inverse = scales.inverse_variance()
    weights = np.empty((NUM_METRICS, len(inverse)))
    weights[0] = inverse
    weights[1] = inverse > 0.0
    weights[2] = inverse * separation**_SHARPNESS
    unit = 2.0 * (weights @ scales.variance)
    weights /= np.maximum(unit, 1e-30)[:, None]
    return np.ascontiguousarray(weights.T, np.float32)


def pool_share(
    prototypes: PrototypeSet, x: Array, y: int, weights: Array, settings: LearnerSettings, num_classes: int
) -> float:
    """The probability that prototypes alone give to a class.

    Args:
        prototypes: any number.
        x: float32 [d].
        y: the class.
        weights: float32 [d, M], from `metrics`.
        settings: of the learner.
        num_classes: C.

    Returns:
        The mean over the metrics; 0.0 of no prototypes.
    """
    if not len(prototypes):
        return 0.0
    difference = prototypes.vectors - x
    difference *= difference
    distances = weights.T @ difference.T
    old = prototypes.ages / np.float32(settings.pool_fade)
    old *= old
    distances += old
    votes = np.zeros((len(prototypes), num_classes), np.float32)
    votes[np.arange(len(prototypes)), prototypes.labels] = 1.0
    shares = class_shares(distances, votes, settings.neighbours)
    return float(np.add.reduce(shares[:, y])) / len(shares)
