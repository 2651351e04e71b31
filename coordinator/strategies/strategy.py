"""What a strategy decides at the coordinator, as a value of functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.orders import RunConfig
from coordinator.strategies.asynchrony import AsyncSettings
from device_agent.wire.messages import Hello, Update
from models.bundle import Bundle
from models.subnet import Array

Weights = Mapping[str, Array]


class Folding(Protocol):
    """What a round's updates are added to."""

    @property
    def num_updates(self) -> int:
        """So far."""
        ...


@dataclass(frozen=True)
class CoordinatorStrategy:
    """The coordinator half of a strategy.

    Attributes:
        plan: (run, round, attempt at it from 0, devices that could get an order) -> ids of those that do.
        open: (bundle, weights of the version in force) -> what a round is folded into, such as an aggregator.
        fold: (aggregator, update, its delta, factor on its weight, samples the device has) -> None; adds
            the update.
        finish: (aggregator, weights of the version before, or None, factor on the step) -> the next version's
            weights.
        asynchrony: of a method without rounds, see `coordinator.asynchronous`; None: it has rounds.
    """

    plan: Callable[[RunConfig, int, int, Sequence[Hello]], list[str]]
    open: Callable[[Bundle, Weights], Folding]
    fold: Callable[[Any, Update, Weights, float, int], None]
    finish: Callable[[Any, Weights | None, float], dict[str, Array]]
    asynchrony: AsyncSettings | None = None
