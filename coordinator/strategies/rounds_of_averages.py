"""Synchronous rounds of weighted averages: the coordinator half of every method that trains sub-networks.

References:
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017 (the rounds, and who takes part in each drawn anew); the averages are
    `coordinator.aggregate`'s; the discount of late updates is the polynomial one of Xie et al.,
    "Asynchronous Federated Optimization", 2019, with a = 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

from coordinator.aggregate import Aggregator, DrawOf
from coordinator.orders import RunConfig
from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.strategies.averages import AverageSettings
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.wire.messages import Hello, Update
from models.bundle import Bundle
from models.draws import make_draw
from models.factors import class_tensors
from models.subnet import Array


def choose_devices(
    config: RunConfig, round_number: int, attempt: int, candidates: Sequence[Hello]
) -> list[str]:
    """The devices of a round: all that have data, or as many of them as take part in one.

    Who that is follows from the run's seed, the round and the attempt alone; a round that is repeated asks
    others. The order is that of the candidates.
    """
    ids = [hello.device for hello in candidates if hello.num_samples > 0]
    if config.devices_per_round is None or len(ids) <= config.devices_per_round:
        return ids

    def place(device: str) -> bytes:
        return hashlib.sha256(f"{config.seed}/{round_number}/{attempt}/{device}/part".encode()).digest()

    chosen = set(sorted(ids, key=place)[: config.devices_per_round])
    return [device for device in ids if device in chosen]


def discount(staleness: int) -> float:
    """What an update weighs that is s versions late: (1 + s)^-1/2 of a fresh one."""
    return (1 + staleness) ** -0.5


def fold_weighted(
    aggregator: Aggregator, update: Update, delta: Mapping[str, Array], weight: float, num_data: int
) -> None:
    """Add an update; `weight` multiplies its own."""
    aggregator.fold(
        delta,
        num_samples=update.num_samples,
        vectors=update.vectors,
        step_vectors=update.step_vectors,
        seed=update.seed,
        weight=weight,
        round_number=update.round,
        num_data=num_data,
    )


def averages_of(settings: AverageSettings, asynchrony: AsyncSettings | None = None) -> CoordinatorStrategy:
    """Rounds, or buffers, that average in this way."""
    return CoordinatorStrategy(
        plan=choose_devices,
        open=partial(_open, settings),
        fold=fold_weighted,
        finish=lambda aggregator, before, scale=1.0: aggregator.finish(before, scale),
        asynchrony=asynchrony,
    )


def _open(settings: AverageSettings, bundle: Bundle, weights: Mapping[str, Array]) -> Aggregator:
    is_masked = bundle.settings.subnets.mask_absent_classes
    return Aggregator(
        bundle.plan,
        weights,
        settings,
        _draw_of(bundle, weights),
        class_tensors(bundle.graph) if is_masked else (),
    )


def _draw_of(bundle: Bundle, weights: Mapping[str, Array]) -> DrawOf:
    """The draws that the devices made, as the bundle says."""
    settings, plan = bundle.settings.subnets, bundle.plan
    if settings.draw == "importance":  # the same for all: they started from the same weights
        draw = make_draw(settings, plan, seed=0, round_number=1, weights=weights)
        return lambda _seed, _round_number: draw
    return lambda seed, round_number: make_draw(
        settings, plan, seed=seed, round_number=round_number, weights=None
    )


AVERAGES = averages_of(AverageSettings())
