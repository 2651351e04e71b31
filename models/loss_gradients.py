"""Losses and their gradients in NumPy: what `models.losses` names, differentiated by hand.

References:
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    Romero et al.: FitNets: Hints for Thin Deep Nets, 2015, arXiv:1412.6550.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.losses import LossSettings, Targets, find_loss, take_targets
from models.subnet import Array


class LossGradients(NamedTuple):
    """A loss and what it sends back into the network.

    Attributes:
        loss: mean loss over the mini-batch; NaN or infinite where the logits are.
        logits: gradient of it, float32 [N, classes], C-contiguous, the caller's to overwrite.
        features: the same for the features, in their shape, or None where the loss reads none.
    """

    loss: float
    logits: Array
    features: Array | None = None


def loss_gradients(
    settings: LossSettings, logits: Array, targets: Targets, features: Array | None = None
) -> LossGradients:
    """Mean loss of a mini-batch, and its gradients.

    Args:
        settings: which loss, and its settings.
        logits: float32 [N, classes], N at least 1.
        targets: what the loss wants, in the forms of `models.losses.TARGETS`.
        features: float32 [N, ...], what the network's last layer reads; only `feature-matching` wants it.

    Raises:
        UserError: the loss is unknown, or `targets` lack an array that it wants or have it in another form.
    """
    loss = find_loss(settings.name)
    wanted = take_targets(loss, targets, logits.shape, () if features is None else features.shape)
    with np.errstate(invalid="ignore", over="ignore"):  # the training step judges what is not finite
        return _LOSSES[loss.name](settings, logits, features, wanted)


def _cross_entropy(
    _settings: LossSettings, logits: Array, _features: Array | None, targets: Targets
) -> LossGradients:
    return LossGradients(*_label_loss(logits, targets["labels"]))


def _squared_error(
    _settings: LossSettings, logits: Array, _features: Array | None, targets: Targets
) -> LossGradients:
    return LossGradients(*_mean_square(logits, targets["values"]))


def _distillation(
    settings: LossSettings, logits: Array, _features: Array | None, targets: Targets
) -> LossGradients:
    temperature, weight = settings.temperature, settings.distillation_weight
    label_loss, gradient = _label_loss(logits, targets["labels"])
    student = _log_softmax(logits, temperature)
    teacher = _log_softmax(targets["teacher_logits"], temperature)
    student_shares, teacher_shares = np.exp(student), np.exp(teacher)
    # T^2 KL(p || q) = T^2 sum p (log p - log q); d/dlogits = T (q - p). Hinton et al., section 2.
    divergence = (teacher_shares * (teacher - student)).sum(dtype=np.float64) / len(logits)
    gradient *= settings.label_weight
    gradient += (weight * temperature / len(logits)) * (student_shares - teacher_shares)
    loss = settings.label_weight * label_loss + weight * temperature**2 * float(divergence)
    return LossGradients(loss, gradient)


def _feature_matching(
    settings: LossSettings, logits: Array, features: Array | None, targets: Targets
) -> LossGradients:
    assert features is not None
    label_loss, gradient = _label_loss(logits, targets["labels"])
    distance, pull = _mean_square(features, targets["teacher_features"])
    gradient *= settings.label_weight
    pull *= settings.feature_weight
    loss = settings.label_weight * label_loss + settings.feature_weight * distance
    return LossGradients(loss, gradient, pull)


_LOSSES: dict[str, Callable[[LossSettings, Array, Array | None, Targets], LossGradients]] = {
    "cross-entropy": _cross_entropy,
    "mean-squared-error": _squared_error,
    "distillation": _distillation,
    "feature-matching": _feature_matching,
}
"""By the keys of `models.losses.LOSSES`."""


def _log_softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Log-softmax of logits / T, shifted by the largest score first: nothing overflows, T rounds little."""
    shifted = np.subtract(logits, logits.max(axis=1, keepdims=True), order="C")
    if temperature != 1.0:
        shifted /= temperature
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _label_loss(logits: Array, labels: NDArray) -> tuple[float, Array]:
    """Mean cross-entropy, and its gradient (softmax - one-hot) / N."""
    rows = np.arange(len(logits))
    scores = _log_softmax(logits)
    loss = -scores[rows, labels].sum(dtype=np.float64) / len(logits)
    gradient = np.exp(scores, out=scores)
    gradient[rows, labels] -= 1.0
    gradient /= len(logits)
    return float(loss), gradient


def _mean_square(values: Array, wanted: NDArray) -> tuple[float, Array]:
    """Mean squared difference over all entries, and its gradient 2 (values - wanted) / entries."""
    difference = np.subtract(values, wanted, order="C")
    loss = np.square(difference).mean(dtype=np.float64)
    difference *= 2.0 / difference.size
    return float(loss), difference
