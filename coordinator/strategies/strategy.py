"""What a strategy decides at the coordinator, as a value of functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.aggregate import Aggregator
from device_agent.wire.messages import Hello, Update
from models.subnet import Array


@dataclass(frozen=True)
class CoordinatorStrategy:
    """The coordinator half of a strategy.

    Attributes:
        plan: (round, devices that are online) -> ids of those that get an order.
        fold: (aggregator, update, its delta, staleness in versions) -> None; adds the update.
        finish: aggregator -> the next version's weights.
    """

    plan: Callable[[int, Sequence[Hello]], list[str]]
    fold: Callable[[Aggregator, Update, Mapping[str, Array], int], None]
    finish: Callable[[Aggregator], dict[str, Array]]
