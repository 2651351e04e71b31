"""Logits corrected for how often a device has each class, so that it does not unlearn those it lacks.

A device that sees few classes lowers the logits of all others with every mini-batch. Trained with the
logarithm of its own class frequencies added to the logits, the network need not: the frequencies explain
why those classes do not come. Without the addition, as it is used, it then answers for evenly frequent ones.

References:
    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314, eq. 10: the loss
    with tau log prior(y) added. Zhang et al., "Federated learning with label distribution skew via logits
    calibration", ICML 2022, arXiv 2209.00189, use each client's own frequencies, to the power of -1/4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Engine, Gradients
from models.subnet import Array


def log_priors(class_counts: NDArray[np.int64]) -> Array:
    """Log frequencies of the classes, each counted once more than it comes; float32 [classes].

    Args:
        class_counts: samples of each class, int64 [classes].
    """
    counts = class_counts + 1.0
    return np.log(counts / counts.sum()).astype(np.float32)


class WithPriors:
    """An engine that trains with offsets on the logits, given to it through the last layer's bias.

    Args:
        engine: computes.
        bias: name of the last layer's bias.
        offsets: float32 [classes].
    """

    def __init__(self, engine: Engine, bias: str, offsets: Array) -> None:
        self.name, self._engine, self._bias, self._offsets = engine.name, engine, bias, offsets

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, NDArray]
    ) -> Gradients:
        """Of the loss with the offsets; a constant beside the bias leaves its gradient as it is."""
        offset = np.add(weights[self._bias], self._offsets)
        return self._engine.gradients({**weights, self._bias: offset}, inputs, targets)

    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """As the engine's own."""
        return self._engine.statistics(weights, inputs)

    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """As the engine's own: logits without offsets."""
        return self._engine.outputs(weights, inputs)
