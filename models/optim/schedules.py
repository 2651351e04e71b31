"""The learning rate over time.

The clock of a schedule is an argument. In a fleet it is the round of the run, and not a device's own
count of steps: devices train different numbers of mini-batches in an order, and with clocks of their own
the slowest would keep the largest steps to the end and rule the mean. The round is the same for all,
stands in every order, and survives a restart at either end. A training loop of its own (the search,
a teacher) counts the optimiser's steps.
"""

from __future__ import annotations

import math

from firmware_profiles.errors import UserError
from models.optim.settings import OptimizerSettings

SMALLEST_RATE = 1e-12
"""No schedule falls below: a rate of exactly 0 would be an order to train nothing."""


def learning_rate_at(settings: OptimizerSettings, tick: int) -> float:
    """The learning rate at a tick.

    Linear warm-up is `torch.optim.lr_scheduler.LinearLR` with start factor 1 / (warmup + 1); cosine is
    `CosineAnnealingLR` whose minimum falls on the last tick; step is `StepLR`.

    Args:
        settings: of the optimiser.
        tick: 0 for the first round, or the first step.

    Raises:
        UserError: a cosine without its total.
    """
    rate = settings.first_rate
    if tick < settings.warmup:
        return rate * (tick + 1) / (settings.warmup + 1)
    return max(SMALLEST_RATE, rate * _SHARES[settings.schedule](settings, tick - settings.warmup))


def _constant(_settings: OptimizerSettings, _tick: int) -> float:
    return 1.0


def _cosine(settings: OptimizerSettings, tick: int) -> float:
    if settings.total is None:
        raise UserError("schedule cosine wants total: how many ticks there are in all")
    last = settings.total - settings.warmup - 1
    angle = math.pi * min(tick, last) / last if last > 0 else 0.0
    low = settings.final_fraction
    return low + (1 - low) * 0.5 * (1 + math.cos(angle))


def _step(settings: OptimizerSettings, tick: int) -> float:
    assert settings.every is not None, "checked when the settings were made"
    return settings.factor ** (tick // settings.every)


_SHARES = {"constant": _constant, "cosine": _cosine, "step": _step}
