"""Stochastic gradient descent on sub-networks: state of the full size, updated at kept entries only.

A dropped entry does not move: neither its weight, nor its momentum, nor by weight decay. With
nothing dropped the arithmetic is that of `torch.optim.SGD` and `clip_grad_norm_`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from models.subnet import Array, Subnet, cut, scatter
from models.widths import WidthPlan


class OptimizerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of stochastic gradient descent.

    Attributes:
        learning_rate: step size, above 0.
        momentum: share of the last velocity that is kept, 0 <= momentum < 1.
        nesterov: look ahead along the velocity; wants momentum.
        weight_decay: L2 penalty added to every gradient, 0 or more.
        clip_norm: largest global L2 norm of the gradients, or None for no limit.
    """

    learning_rate: Annotated[float, Meta(gt=0.0, le=1e3)] = 0.05
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0.0, le=1e3)] = 0.0
    clip_norm: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov wants momentum above 0")


class Optimizer:
    """SGD with its velocities, which have the full weights' shapes.

    Args:
        settings: how to step.
    """

    def __init__(self, settings: OptimizerSettings) -> None:
        self.settings = settings
        self._velocity: dict[str, Array] = {}

    def step(
        self,
        plan: WidthPlan,
        weights: Mapping[str, Array],
        subnet: Subnet,
        sub: Mapping[str, Array],
        gradients: Mapping[str, Array],
        norm: float | None = None,
    ) -> None:
        """Move the kept entries of `weights` in place.

        Args:
            plan: the width plan of the weights.
            weights: full float32 tensors, changed at the kept entries of the gradients' names.
            subnet: what is kept.
            sub: `cut(plan, weights, subnet)`, as the engine got it; overwritten by the new values.
            gradients: one per trained tensor, in the shapes of `sub`; overwritten.
            norm: their `global_norm`, if it is known already.
        """
        settings = self.settings
        clip = 1.0
        if settings.clip_norm is not None:
            clip = min(1.0, settings.clip_norm / ((global_norm(gradients) if norm is None else norm) + 1e-6))
        velocity: dict[str, Array] = {}
        if settings.momentum:
            for name in gradients.keys() - self._velocity.keys():
                self._velocity[name] = np.zeros_like(weights[name])
            velocity = cut(plan, {name: self._velocity[name] for name in gradients}, subnet)
        for name, gradient in gradients.items():
            _step_tensor(settings, clip, sub[name], velocity.get(name), gradient)
        if velocity:
            scatter(plan, self._velocity, velocity, subnet)
        scatter(plan, weights, {name: sub[name] for name in gradients}, subnet)


def _step_tensor(
    settings: OptimizerSettings, clip: float, values: Array, velocity: Array | None, gradient: Array
) -> None:
    """One tensor, in place: g += decay w; v = momentum v + g; w -= rate (v or, Nesterov, g + momentum v)."""
    if clip != 1.0:
        gradient *= np.float32(clip)
    if settings.weight_decay:
        gradient += np.float32(settings.weight_decay) * values
    rate = np.float32(settings.learning_rate)
    if velocity is None:
        gradient *= rate
    else:
        velocity *= np.float32(settings.momentum)
        velocity += gradient
        if settings.nesterov:
            gradient += np.float32(settings.momentum) * velocity
            gradient *= rate
        else:
            np.multiply(velocity, rate, out=gradient)
    values -= gradient


def global_norm(gradients: Mapping[str, Array]) -> float:
    """L2 norm of all entries together; NaN or infinite if any of them is, or if float32 overflows."""
    total = 0.0
    for gradient in gradients.values():
        flat = gradient.reshape(-1)
        total += float(np.dot(flat, flat))
    return math.sqrt(total)
