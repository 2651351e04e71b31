"""Which core a run has, by its strategy."""

from __future__ import annotations

from coordinator.asynchronous import AsyncCore
from coordinator.rounds import RoundsCore
from coordinator.strategies.strategy import CoordinatorStrategy


def core_of(strategy: CoordinatorStrategy) -> type[AsyncCore | RoundsCore]:
    """The class of the core that decides in a run of this strategy."""
    return RoundsCore if strategy.asynchrony is None else AsyncCore
