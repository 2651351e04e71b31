"""Losses by name: what targets each wants, and its value in NumPy for evaluation.

Engines hold the differentiable form of each in a table of the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.subnet import Array

Targets = Mapping[str, NDArray]


@dataclass(frozen=True)
class Loss:
    """One loss.

    Attributes:
        name: its key in LOSSES.
        targets: names of the arrays it wants beside the logits.
        total: its sum over the samples, from logits [N, classes] and the targets.
    """

    name: str
    targets: tuple[str, ...]
    total: Callable[[Array, Targets], float]


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


LOSSES: dict[str, Loss] = {
    "cross-entropy": Loss("cross-entropy", ("labels",), cross_entropy_total),
}


def find_loss(name: str) -> Loss:
    """Return the loss of that name.

    Raises:
        UserError: there is none.
    """
    if name not in LOSSES:
        raise UserError(f"loss {name!r} is unknown: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]
