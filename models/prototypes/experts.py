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

    Args:
        settings: of the learner.
        num_classes: C.
    """

    def __init__(self, settings: LearnerSettings, num_classes: int, memory: Memory) -> None:
        self._settings, self._memory = settings, memory
        ages = memory.ages_round
        rows = [np.where(ages < horizon, 0.0, np.inf) for horizon in settings.horizons]
        rows.append((ages / settings.fade) ** 2)
        self._by_age = np.array(rows, np.float32)
        self._among_pool = np.array((ages / settings.pool_fade) ** 2, np.float32)
        self._num_nearest = NUM_METRICS * len(rows)
        self.num_own = self._num_nearest + len(settings.class_memories)
        self.num_all = self.num_own + (NUM_METRICS if settings.pool else 0)
        self._num_classes = num_classes

    def own(self, distances: Array, x: Doubles, gaussians: ClassGaussians, variance: Doubles) -> Doubles:
        """What own samples say.

        Args:
            distances: float32 [M, num_pool + num_own], of the memory.
            x: float64 [d].
            gaussians: of the classes.
            variance: float64 [d], of all samples.

        Returns:
            float64 [num_own, C].
        """
        said = np.empty((self.num_own, self._num_classes))
        said[self._num_nearest :] = gaussians.predict(x, variance)
        memory = self._memory
        if not memory.num_own:
            said[: self._num_nearest] = 1.0 / self._num_classes
            return said
        near = distances[:, None, memory.num_pool :] + self._by_age[:, memory.places]
        said[: self._num_nearest] = class_shares(
            near.reshape(self._num_nearest, memory.num_own),
            memory.votes[memory.num_pool :],
            self._settings.neighbours,
        )
        return said

    def pool(self, distances: Array, distrust: Doubles) -> Array:
        """What own samples and the peers' prototypes say together.

        Args:
            distances: float32 [M, num_pool + num_own], of the memory; num_pool >= 1.
            distrust: float64 [P], of each peer: what is added to the distance of its prototypes.

        Returns:
            float32 [M, C].
        """
        memory = self._memory
        age = memory.pool_ages
        age /= self._settings.pool_fade
        age *= age
        age += distrust[memory.pool_peers]
        apart = np.concatenate((age, self._among_pool[memory.places]), dtype=np.float32)
        return class_shares(distances + apart, memory.votes, self._settings.neighbours)


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
    distances = weights.T @ difference.T + (prototypes.ages / np.float32(settings.pool_fade)) ** 2
    votes = np.zeros((len(prototypes), num_classes), np.float32)
    votes[np.arange(len(prototypes)), prototypes.labels] = 1.0
    return float(class_shares(distances, votes, settings.neighbours)[:, y].mean())
