"""One training step on a sub-network: cut, gradients, optimiser step, scatter.

It is the only training step in the house: agent, twin, teacher and search all use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from numpy.typing import NDArray

from models.engines.engine import Engine
from models.factors import Factors, apply
from models.optim.optimizer import Optimizer, global_norm
from models.subnet import Array, Subnet, cut
from models.widths import WidthPlan


class StepResult(NamedTuple):
    """What one mini-batch did.

    Attributes:
        loss: mean loss before the step, over num_samples samples.
        num_samples: samples of the mini-batch.
        statistics: batch-norm moments of the sub-network on this mini-batch.
        applied: False if the loss or a gradient was not finite: then nothing was changed.
    """

    loss: float
    num_samples: int
    statistics: dict[str, Array]
    applied: bool


def training_step(
    engine: Engine,
    plan: WidthPlan,
    weights: Mapping[str, Array],
    optimizer: Optimizer,
    subnet: Subnet,
    inputs: Array,
    targets: Mapping[str, NDArray],
    factors: Factors | None = None,
) -> StepResult:
    """Train the kept entries of `weights` on one mini-batch, in place.

    A step whose loss or gradients are not finite changes nothing and says so (`applied`); what to do
    about it (skip, report, lower the rate) is the caller's to decide.

    Args:
        engine: computes loss and gradients.
        plan: the width plan of the weights.
        weights: full float32 parameters (statistics among them are left alone).
        optimizer: keeps its state between steps; the same one for the same weights.
        subnet: the channels that take part.
        inputs: float32 [N, *input_shape].
        targets: what the engine's loss wants, "labels" int64 [N].
        factors: on the weights of the sub-network, see `models.factors`.
    """
    sub = cut(plan, weights, subnet)
    loss, gradients, statistics = engine.gradients(apply(sub, factors) if factors else sub, inputs, targets)
    if factors:
        gradients = apply(gradients, factors)
    norm = global_norm(gradients)
    applied = math.isfinite(loss) and math.isfinite(norm)
    if applied:
        optimizer.step(plan, weights, subnet, sub, gradients, norm)
    return StepResult(loss, len(inputs), statistics, applied)
