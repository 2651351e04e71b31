"""The mean of the weights that devices have: the coordinator half of methods whose devices mix by themselves.

A device's update is its own weights minus those of its order, so the equal average of all is the mean over
the devices that reported. It is measured, and where a device begins that has no weights yet; nobody else
takes it over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from coordinator.aggregate import Aggregator
from coordinator.strategies.averages import MEAN_OF_ALL
from coordinator.strategies.rounds_of_averages import averages_of
from device_agent.wire.messages import Update
from models.subnet import Array, full_vector


def fold_once(
    aggregator: Aggregator, update: Update, delta: Mapping[str, Array], weight: float, num_data: int
) -> None:
    """Add a device's weights; how much it trained for them, if anything, does not matter."""
    aggregator.fold(
        delta,
        num_samples=max(1, update.num_samples),
        vectors=(full_vector(aggregator.plan),),
        step_vectors=(0,),
        seed=update.seed,
        weight=weight,
        round_number=update.round,
        num_data=num_data,
    )


MEAN_OF_DEVICES = replace(averages_of(MEAN_OF_ALL), fold=fold_once)
