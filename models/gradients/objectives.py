"""The losses' rules: value and gradients, from logits [classes, N] and the targets.

The value is the mean over the mini-batch. With p = softmax(z), q = softmax(z / T) of the student, t = the
teacher's at T, and N samples:

    cross-entropy   dL/dz = (p - onehot(label)) / N
    distillation    adds T (q - t) / N, the gradient of T^2 KL(t || q) (Hinton et al. 2015, section 2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models.gradients.emitter import Emitter
from models.losses import LossSettings

_OFF_ON = np.array([0.0, 1.0], np.float32)


class Scores(NamedTuple):
    """What a loss reads of the network.

    Attributes:
        logits: [classes, N]. features: the last layer's input, batch last ("" where the loss reads none).
        num_classes: at full width, which classes always have.
        features_rank: axes of one sample of the features.
    """

    logits: str
    features: str
    num_classes: int
    features_rank: int


class Objective(NamedTuple):
    """What a loss makes.

    Attributes:
        value: the loss, a scalar.
        d_logits: its gradient [classes, N].
        d_features: its gradient by the features, batch last; None if it does not read them.
    """

    value: str
    d_logits: str
    d_features: str | None = None


def _batch_last(e: Emitter, target: str) -> str:
    return e.op("Transpose", target, perm=(1, 0))


def _cross_entropy(e: Emitter, scores: Scores, weight: float) -> Objective:
    log_p = e.op("LogSoftmax", scores.logits, axis=0)
    count = e.as_float(e.size(scores.logits, 1))
    truth = e.op("OneHot", "@labels", e.integers(scores.num_classes), e.constant(_OFF_ON), axis=0)
    value = e.op("Div", e.op("Neg", e.sum(e.op("Mul", truth, log_p), (0, 1), keepdims=False)), count)
    d = e.op("Div", e.op("Sub", e.op("Exp", log_p), truth), count)
    return Objective(e.scale(value, weight), e.scale(d, weight))


def cross_entropy(e: Emitter, scores: Scores, settings: LossSettings) -> Objective:
    """Mean of -log softmax(logits)[label]."""
    del settings
    return _cross_entropy(e, scores, 1.0)


def squared_error(e: Emitter, scores: Scores, settings: LossSettings) -> Objective:
    """Mean squared difference of logits and "@values" [N, classes] over all entries."""
    del settings
    value, d = _mean_square(e, e.op("Sub", scores.logits, _batch_last(e, "@values")), 1.0)
    return Objective(value, d)


def distillation(e: Emitter, scores: Scores, settings: LossSettings) -> Objective:
    """Label weight times cross-entropy plus distillation weight times T^2 KL(teacher || student)."""
    hard = _cross_entropy(e, scores, settings.label_weight)
    temperature = settings.temperature
    count = e.as_float(e.size(scores.logits, 1))
    log_q = e.op("LogSoftmax", e.scale(scores.logits, 1.0 / temperature), axis=0)
    log_t = e.op("LogSoftmax", e.scale(_batch_last(e, "@teacher_logits"), 1.0 / temperature), axis=0)
    teacher = e.op("Exp", log_t)
    divergence = e.sum(e.op("Mul", teacher, e.op("Sub", log_t, log_q)), (0, 1), keepdims=False)
    weight = settings.distillation_weight
    soft = e.op("Div", e.scale(divergence, weight * temperature**2), count)
    d = e.op("Div", e.scale(e.op("Sub", e.op("Exp", log_q), teacher), weight * temperature), count)
    return Objective(e.op("Add", hard.value, soft), e.op("Add", hard.d_logits, d))


def feature_matching(e: Emitter, scores: Scores, settings: LossSettings) -> Objective:
    """Label weight times cross-entropy plus feature weight times the features' mean squared difference."""
    hard = _cross_entropy(e, scores, settings.label_weight)
    rank = scores.features_rank
    teacher = e.op("Transpose", "@teacher_features", perm=(*range(1, rank + 1), 0))
    value, d = _mean_square(e, e.op("Sub", scores.features, teacher), settings.feature_weight)
    return Objective(e.op("Add", hard.value, value), hard.d_logits, d)


def _mean_square(e: Emitter, difference: str, weight: float) -> tuple[str, str]:
    """Weight times the mean of squares, float32 [1], and its gradient."""
    count = e.op("Unsqueeze", e.as_float(e.op("Size", difference)), e.integers(0))
    total = e.op("ReduceSum", e.op("Mul", difference, difference), keepdims=0)
    value = e.op("Div", e.scale(total, weight), count)
    return value, e.op("Div", e.scale(difference, 2.0 * weight), count)


OBJECTIVES: dict[str, Callable[[Emitter, Scores, LossSettings], Objective]] = {
    "cross-entropy": cross_entropy,
    "mean-squared-error": squared_error,
    "distillation": distillation,
    "feature-matching": feature_matching,
}
"""By the keys of `models.losses.LOSSES`."""
