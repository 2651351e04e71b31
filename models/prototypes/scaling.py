"""Means and variances of features as they come, which devices can put together.

Until `memory` samples were seen these are the plain mean and variance; from then on each sample counts
1 / memory, and the older ones fade. `merged` combines what several devices saw as if it were one stream, so
that a fleet can measure distances in the same units.

References:
    West, Updating mean and variance estimates: an improved method, CACM 22(9), 1979 (fading weights).
    Chan, Golub, LeVeque, Algorithms for computing the sample variance, The American Statistician 37(3), 1983
    (parts put together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

LARGEST = 1e15
"""Magnitude of the largest value of a feature: its square, and sums of squares, stay float32."""

_RELATIVE_FLOOR = 1e-12  # a variance below this share of the squared mean is rounding


@dataclass(frozen=True)
class Scales:
    """What some samples say about their features' scales.

    Attributes:
        mean: float64 [d], in units of the data. variance: float64 [d], 0 or more, in their squares.
        count: samples that both stand for, 0 or more.
    """

    mean: Doubles
    variance: Doubles
    count: float

    def inverse_variance(self) -> Doubles:
        """1 / variance, float64 [d]; 0 where a feature is constant, so that it moves no distance."""
        varies = self.variance > _RELATIVE_FLOOR * self.mean**2 + 1e-30
        return np.divide(1.0, self.variance, out=np.zeros_like(self.variance), where=varies)

    def arrays(self) -> dict[str, Doubles]:
        """To save or to send; `of_arrays` reads it."""
        return {"mean": self.mean, "variance": self.variance, "count": np.array([self.count])}


def of_arrays(arrays: Mapping[str, NDArray[np.generic]], num_features: int) -> Scales:
    """Scales from `Scales.arrays`, or from what a peer says they are.

    Raises:
        ValueError: a shape is not that of so many features, a value is not finite, or a variance or the count
            is negative.
    """
    mean, variance, count = (np.array(arrays[name], np.float64) for name in ("mean", "variance", "count"))
    if mean.shape != (num_features,) or variance.shape != (num_features,) or count.shape != (1,):
        raise ValueError(
            f"scales of {mean.shape}, {variance.shape}, {count.shape} are not of {num_features} features"
        )
    if not all(np.isfinite(values).all() for values in (mean, variance, count)):
        raise ValueError("scales are not finite")
    if (variance < 0.0).any() or count[0] < 0.0:
        raise ValueError("scales have a negative variance or count")
    return Scales(mean, variance, float(count[0]))


def unknown(num_features: int) -> Scales:
    """The scales of no samples."""
    return Scales(np.zeros(num_features), np.zeros(num_features), 0.0)


def merged(parts: Sequence[Scales]) -> Scales:
    """The scales of all samples together; each part counts by its samples.

    Raises:
        ValueError: there is no part, or they differ in the number of features.
    """
    if not parts:
        raise ValueError("no scales to merge")
    counts = np.array([part.count for part in parts])[:, None]
    total = float(counts.sum())
    means = np.stack([part.mean for part in parts])
    if total == 0.0:
        return unknown(means.shape[1])
    mean = (counts * means).sum(axis=0) / total
    spread = np.stack([part.variance for part in parts]) + (means - mean) ** 2
    return Scales(mean, (counts * spread).sum(axis=0) / total, total)


class Scaling:
    """Scales that follow a stream.

    Args:
        start: what is known before the first sample, such as the scales of peers.
        memory: samples after which older ones fade, 1 or more.
    """

    def __init__(self, start: Scales, memory: float) -> None:
        self._mean, self._variance = start.mean.copy(), start.variance.copy()
        self._count = np.array([min(start.count, memory)])
        self._memory = memory

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What it has learned, live."""
        return {"mean": self._mean, "variance": self._variance, "count": self._count}

    def learn(self, x: Doubles) -> None:
        """Take in one sample: float64 [d], finite."""
        count = min(float(self._count[0]) + 1.0, self._memory)
        self._count[0] = count
        delta = x - self._mean
        self._mean += delta / count
        delta *= delta
        self._variance += delta / count
        self._variance *= 1.0 - 1.0 / count

    def scales(self) -> Scales:
        """As of now; later samples don't change it."""
        return Scales(self._mean.copy(), self._variance.copy(), float(self._count[0]))

    @property
    def variance(self) -> Doubles:
        """Float64 [d], without a copy: the next sample changes it."""
        return self._variance

    @property
    def live(self) -> Scales:
        """As of now, without a copy: the next sample changes it."""
        return Scales(self._mean, self._variance, float(self._count[0]))


def checked(x: NDArray[np.generic], num_features: int) -> Doubles:
    """A sample that can be learned from.

    Returns:
        float64 [num_features].

    Raises:
        ValueError: the shape is another, or a feature is not finite or beyond LARGEST.
    """
    values = np.asarray(x, np.float64)
    if values.shape != (num_features,):
        raise ValueError(f"a sample of shape {values.shape} does not have {num_features} features")
    # Not "above": of nan neither is true, and it is the least and the greatest.
    if not (np.minimum.reduce(values) >= -LARGEST and np.maximum.reduce(values) <= LARGEST):
        bad = int(np.flatnonzero(~(np.abs(values) <= LARGEST))[0])
        raise ValueError(f"feature {bad} of a sample is {values[bad]}; give finite values up to {LARGEST:g}")
    return values
