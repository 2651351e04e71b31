"""Optimisers on sub-networks: state of the full size, updated at kept entries only.

A dropped entry does not move: neither its weight, nor its momentum or moments, nor by weight decay. With
nothing dropped the arithmetic is that of `torch.optim.SGD`, `torch.optim.AdamW` and `clip_grad_norm_`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from models.optim.adamw import Corrections, step_adamw
from models.optim.schedules import learning_rate_at
from models.optim.settings import OptimizerSettings
from models.optim.state import COUNT, MOMENTS, OptimizerState
from models.optim.update_counts import UpdateCounts
from models.subnet import Array, Subnet, cut, kept_rows, scatter
from models.widths import WidthPlan


class Optimizer:
    """SGD or AdamW with its state, whose tensors have the full weights' shapes.

    Args:
        settings: how to step.
        learning_rate: of every step, where the schedule's clock is the caller's; None: the schedule's,
            by the steps made so far.
        state: to go on from; taken over, and changed in place.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        *,
        learning_rate: float | None = None,
        state: OptimizerState | None = None,
    ) -> None:
        self.settings = settings
        self._fixed_rate = learning_rate
        tensors = dict(state.tensors) if state else {}
        self._num_steps = state.num_steps if state else 0
        self._counted = tensors.pop(COUNT, {})
        self._moments = {kind: tensors.get(kind, {}) for kind in MOMENTS[settings.method]}
        if settings.method == "sgd" and not settings.momentum:
            self._moments = {}
        self._counts: UpdateCounts | None = None
        self._corrections = Corrections(settings.betas) if settings.method == "adamw" else None

    @property
    def state(self) -> OptimizerState:
        """What the next steps depend on; shares its tensors with the optimiser."""
        tensors = dict(self._moments)
        if self._corrections is not None:
            tensors[COUNT] = self._counts.arrays() if self._counts else self._counted
        return OptimizerState(self._num_steps, tensors)

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
            plan: the width plan of the weights; the same one in every step.
            weights: full float32 tensors, changed at the kept entries of the gradients' names.
            subnet: what is kept.
            sub: `cut(plan, weights, subnet)`, as the engine got it; overwritten by the new values.
            gradients: one per trained tensor, in the shapes of `sub`; overwritten.
            norm: their `global_norm`, if it is known already.
        """
        settings, rate = self.settings, self._fixed_rate
        if rate is None:
            rate = learning_rate_at(settings, self._num_steps)
        if settings.clip_norm is not None:
            clip = settings.clip_norm / ((global_norm(gradients) if norm is None else norm) + 1e-6)
            _scale(gradients, min(1.0, clip))
        # Tensors of which nothing is dropped are updated where they lie; of others the kept entries are cut.
        cut_names = [name for name in gradients if kept_rows(plan, name, subnet).rows is not None]
        moments = {}
        for kind, full in self._moments.items():
            for name in gradients.keys() - full.keys():
                full[name] = np.zeros_like(weights[name])
            moments[kind] = full | cut(plan, {name: full[name] for name in cut_names}, subnet)
        if settings.method == "adamw":
            self._step_adamw(plan, subnet, rate, sub, moments, gradients)
        else:
            velocity = moments.get("velocity", {})
            for name, gradient in gradients.items():
                _step_sgd(settings, rate, sub[name], velocity.get(name), gradient)
        for kind, full in self._moments.items():
            scatter(plan, full, {name: moments[kind][name] for name in cut_names}, subnet)
        scatter(plan, weights, {name: sub[name] for name in gradients}, subnet)
        self._num_steps += 1

    def _step_adamw(
        self,
        plan: WidthPlan,
        subnet: Subnet,
        rate: float,
        sub: Mapping[str, Array],
        moments: dict[str, dict[str, Array]],
        gradients: Mapping[str, Array],
    ) -> None:
        assert self._corrections is not None
        if self._counts is None:
            self._counts = UpdateCounts(plan, self._corrections.limit, self._counted)
        counts = self._counts.add(gradients, subnet)
        corrections = {name: self._corrections.of(count) for name, count in counts.items()}
        for name, gradient in gradients.items():
            step_adamw(
                self.settings,
                rate,
                sub[name],
                moments["first"][name],
                moments["second"][name],
                (gradient, self._counts.blocks(name, gradient)),
                corrections[self._counts.shared(name)],
            )


def _scale(gradients: Mapping[str, Array], factor: float) -> None:
    if factor != 1.0:
        for gradient in gradients.values():
            np.multiply(gradient, np.float32(factor), out=gradient)


def _step_sgd(
    settings: OptimizerSettings, rate: float, values: Array, velocity: Array | None, gradient: Array
) -> None:
    """One tensor, in place: g += decay w; v = momentum v + g; w -= rate (v or, Nesterov, g + momentum v)."""
    if settings.weight_decay:
        gradient += np.float32(settings.weight_decay) * values
    if velocity is None:
        gradient *= np.float32(rate)
    else:
        velocity *= np.float32(settings.momentum)
        velocity += gradient
        if settings.nesterov:
            gradient += np.float32(settings.momentum) * velocity
            gradient *= np.float32(rate)
        else:
            np.multiply(velocity, np.float32(rate), out=gradient)
    values -= gradient


def global_norm(gradients: Mapping[str, Array]) -> float:
    """L2 norm of all entries together; NaN or infinite if any of them is, or if float32 overflows."""
    total = 0.0
    for gradient in gradients.values():
        flat = gradient.reshape(-1)
        total += float(np.dot(flat, flat))
    return math.sqrt(total)
