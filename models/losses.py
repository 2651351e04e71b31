"""Losses by name: their settings, what targets each wants, and a measure in NumPy for evaluation.

With one exception (`mean-squared-error`) a loss compares logits [N, classes] with labels; a teacher's
logits or features join where a network learns from a larger one. Engines hold the differentiable
form of each in a table of the same keys; `models.loss_gradients` is that of NumPy.

References:
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    Romero et al.: FitNets: Hints for Thin Deep Nets, 2015, arXiv:1412.6550.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.subnet import Array

Targets = Mapping[str, NDArray]


class LossSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which loss, and its settings; each loss reads its own and ignores the others.

    Attributes:
        name: a key of LOSSES.
        temperature: T, which softens the scores of student and teacher (`distillation`).
        label_weight: factor of the cross-entropy (`distillation`, `feature-matching`).
        distillation_weight: factor of T^2 KL(teacher || student) (`distillation`).
        feature_weight: factor of the features' mean squared difference (`feature-matching`).
    """

    name: Annotated[str, Meta(max_length=64)] = "cross-entropy"
    temperature: Annotated[float, Meta(ge=0.01, le=1e3)] = 4.0
    label_weight: Annotated[float, Meta(ge=0.0, le=1e3)] = 1.0
    distillation_weight: Annotated[float, Meta(ge=0.0, le=1e3)] = 1.0
    feature_weight: Annotated[float, Meta(ge=0.0, le=1e3)] = 1.0


@dataclass(frozen=True)
class Target:
    """The form of one target array.

    Attributes:
        dtype: its NumPy dtype.
        shape_of: what its shape is that of: "samples" ([N]), "logits" ([N, classes]) or "features"
            (the engine's value of that name, in the width of the sub-network that is trained).
    """

    dtype: str
    shape_of: str


TARGETS: dict[str, Target] = {
    "labels": Target("int64", "samples"),
    "values": Target("float32", "logits"),
    "teacher_logits": Target("float32", "logits"),
    "teacher_features": Target("float32", "features"),
}


@dataclass(frozen=True)
class Loss:
    """One loss.

    Attributes:
        name: its key in LOSSES.
        targets: keys of TARGETS that it wants.
        total: its measure for evaluation, summed over the samples, from logits [N, classes] and the
            targets. A teacher is not asked then: where labels are wanted it is their cross-entropy.
    """

    name: str
    targets: tuple[str, ...]
    total: Callable[[Array, Targets], float]

    @property
    def wants_features(self) -> bool:
        """Whether it reads the network's features beside the logits."""
        return any(TARGETS[name].shape_of == "features" for name in self.targets)


def cross_entropy_total(logits: Array, targets: Targets) -> float:
    """Sum of -log softmax(logits)[label] over the samples, in float64.

    Args:
        logits: float32 [N, classes].
        targets: "labels" int64 [N], each in 0..classes-1.
    """
    wide = logits.astype(np.float64)
    highest = wide.max(axis=1)
    log_sums = highest + np.log(np.exp(wide - highest[:, None]).sum(axis=1))
    return float((log_sums - wide[np.arange(len(wide)), targets["labels"]]).sum())


def squared_error_total(logits: Array, targets: Targets) -> float:
    """Sum over the samples of each one's mean squared error, in float64.

    Args:
        logits: float32 [N, classes].
        targets: "values" float32 [N, classes].
    """
    difference = logits.astype(np.float64) - targets["values"]
    return float(np.square(difference).mean(axis=1).sum())


LOSSES: dict[str, Loss] = {
    "cross-entropy": Loss("cross-entropy", ("labels",), cross_entropy_total),
    "mean-squared-error": Loss("mean-squared-error", ("values",), squared_error_total),
    "distillation": Loss("distillation", ("labels", "teacher_logits"), cross_entropy_total),
    "feature-matching": Loss("feature-matching", ("labels", "teacher_features"), cross_entropy_total),
}


def find_loss(name: str) -> Loss:
    """Return the loss of that name.

    Raises:
        UserError: there is none.
    """
    if name not in LOSSES:
        raise UserError(f"loss {name!r} is unknown: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


def take_targets(
    loss: Loss, targets: Targets, logits_shape: tuple[int, ...], features_shape: tuple[int, ...] = ()
) -> dict[str, NDArray]:
    """Pick the arrays that a loss wants and check their form; a few microseconds a mini-batch.

    Args:
        loss: the loss.
        targets: what the caller has; arrays that the loss does not want are left out.
        logits_shape: (N, classes).
        features_shape: shape of the engine's "features", N included, where the loss reads them.

    Returns:
        The arrays of `loss.targets`, in that order.

    Raises:
        UserError: one is missing, has another shape or dtype, or a label is outside 0..classes-1.
    """
    shapes = {"samples": logits_shape[:1], "logits": logits_shape, "features": features_shape}
    found = {}
    for name in loss.targets:
        target = TARGETS[name]
        array, shape = targets.get(name), shapes[target.shape_of]
        if array is None:
            given = ", ".join(targets) or "nothing"
            raise UserError(
                f"loss {loss.name!r} wants the targets {', '.join(loss.targets)}, and {given} was given: "
                f"add {name!r}, {target.dtype} {list(shape)}, or choose another loss"
            )
        if array.shape != shape or array.dtype != target.dtype:
            raise UserError(
                f"loss {loss.name!r}: target {name!r} is {array.dtype} {list(array.shape)}, "
                f"it must be {target.dtype} {list(shape)}, as the {target.shape_of} are"
            )
        found[name] = array
    if "labels" in found:
        _check_labels(found["labels"], logits_shape[1])
    return found


def _check_labels(labels: NDArray, num_classes: int) -> None:
    # As unsigned numbers, negative ones are larger than any number of classes.
    if len(labels) and labels.view(np.uint64).max() >= num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise UserError(f"label {wrong} is outside 0..{num_classes - 1}, the classes of the network")
