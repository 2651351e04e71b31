"""Synchronous rounds of weighted averages: the coordinator half of `distreal` and its baselines.

References:
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017 (the average); the per-entry weights are `coordinator.aggregate`'s; the discount of late
    updates is the polynomial one of Xie et al., "Asynchronous Federated Optimization", 2019, with a = 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.aggregate import Aggregator
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.wire.messages import Hello, Update
from models.subnet import Array


def everybody(round_number: int, online: Sequence[Hello]) -> list[str]:
    """Every device that is online and has data."""
    del round_number
    return [hello.device for hello in online if hello.num_samples > 0]


def fold_discounted(
    aggregator: Aggregator, update: Update, delta: Mapping[str, Array], staleness: int
) -> None:
    """Add an update; one that is s versions late weighs (1 + s)^-1/2 of a fresh one."""
    aggregator.fold(
        delta,
        num_samples=update.num_samples,
        vectors=update.vectors,
        step_vectors=update.step_vectors,
        seed=update.seed,
        weight=(1 + staleness) ** -0.5,
    )


AVERAGES = CoordinatorStrategy(
    plan=everybody, fold=fold_discounted, finish=lambda aggregator: aggregator.finish()
)
