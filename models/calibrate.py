"""Batch-norm moments for a width, and evaluation with them.

While training, batch norm uses the mini-batch's moments. A prediction must not depend on its
batch-mates, so for evaluation the moments are computed once, for the given width, over a fixed set
that is not the test set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Engine
from models.losses import cross_entropy_total
from models.subnet import Array


class Evaluation(NamedTuple):
    """How well a set was classified; sums, so that parts add up.

    Attributes:
        num_correct: samples whose highest logit is their label's.
        num_samples: samples in the set.
        loss_sum: cross-entropy summed over the samples.
    """

    num_correct: int
    num_samples: int
    loss_sum: float


def calibrate(engine: Engine, weights: Mapping[str, Array], batches: Iterable[Array]) -> dict[str, Array]:
    """Moments of every batch norm over all batches together, by the law of total variance.

    Each batch is normalised by its own moments on the way, as in training.

    Args:
        engine: of the graph.
        weights: every parameter, in any consistent widths; the moments have the same widths.
        batches: inputs, float32 [N, *input_shape] each.

    Returns:
        Statistic name -> float32 [channels]; empty if the graph has no batch norm.

    Raises:
        ValueError: there are no samples.
    """
    found = [(len(inputs), engine.statistics(weights, inputs)) for inputs in batches if len(inputs)]
    if not found:
        raise ValueError("calibrate got no samples")
    shares = np.array([num_samples for num_samples, _ in found], np.float64)
    shares /= shares.sum()
    moments: dict[str, Array] = {}
    for mean_name in (name for name in found[0][1] if name.endswith(".mean")):
        variance_name = mean_name.removesuffix(".mean") + ".var"
        means = np.stack([statistics[mean_name] for _, statistics in found]).astype(np.float64)
        variances = np.stack([statistics[variance_name] for _, statistics in found]).astype(np.float64)
        mean = shares @ means
        moments[mean_name] = mean.astype(np.float32)
        # total variance: the mean of the batches' variances and the variance of their means
        moments[variance_name] = (shares @ variances + shares @ (means - mean) ** 2).astype(np.float32)
    return moments


def evaluate(
    engine: Engine,
    weights: Mapping[str, Array],
    statistics: Mapping[str, Array],
    inputs: Array,
    labels: NDArray[np.int64],
    batch_size: int,
) -> Evaluation:
    """Classify a set with given moments.

    Args:
        engine: of the graph.
        weights: every parameter, in any consistent widths.
        statistics: moments of these widths, from `calibrate`.
        inputs: float32 [N, *input_shape].
        labels: int64 [N].
        batch_size: samples computed at once; the result does not depend on it.
    """
    together = {**weights, **statistics}
    num_correct, loss_sum = 0, 0.0
    for start in range(0, len(inputs), batch_size):
        part = slice(start, start + batch_size)
        logits = engine.outputs(together, inputs[part])["logits"]
        num_correct += int((logits.argmax(axis=1) == labels[part]).sum())
        loss_sum += cross_entropy_total(logits, {"labels": labels[part]})
    return Evaluation(num_correct, len(inputs), loss_sum)
