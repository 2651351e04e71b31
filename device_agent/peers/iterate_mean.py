"""A running mean over a device's weights of late: a better model than the weights of any one moment."""

from __future__ import annotations

import numpy as np

from device_agent.peers.mixing import Weights

DECAY = 8
"""Eta of polynomial decay: while a run is young, the mean is over about the newest ninth of it."""


class IterateMean:
    """Large steps on data that differs from device to device swing around the optimum; their mean does not.

    Args:
        horizon: additions that the mean is over at most, about; 1: it is the newest.
        weights: to begin with.

    References:
        Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992. Shamir, Zhang,
        Stochastic gradient descent for non-smooth optimization, ICML 2013, arXiv 1212.1824, section 3.1:
        polynomial-decay averaging, in which early weights are forgotten.
    """

    def __init__(self, horizon: int, weights: Weights) -> None:
        self._horizon = horizon
        self.reset(weights)

    @property
    def weights(self) -> Weights:
        """The mean, float32."""
        return self._mean

    def reset(self, weights: Weights) -> None:
        """Begin anew from these."""
        self._mean, self._num = weights, 0

    def add(self, weights: Weights) -> None:
        """The weights of one more moment."""
        self._num += 1
        rate = max(1 / self._horizon, (DECAY + 1) / (self._num + DECAY))  # 1 at first
        mean = self._mean
        self._mean = (
            weights
            if rate >= 1.0
            else {name: mean[name] + np.float32(rate) * (weights[name] - mean[name]) for name in mean}
        )
