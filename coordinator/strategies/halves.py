"""Which coordinator half a method has."""

from __future__ import annotations

from coordinator.strategies.mean_of_devices import MEAN_OF_DEVICES
from coordinator.strategies.presets import Preset
from coordinator.strategies.prototypes_of_devices import PROTOTYPES_OF_DEVICES
from coordinator.strategies.rounds_of_averages import averages_of
from coordinator.strategies.strategy import CoordinatorStrategy


def coordinator_half(method: Preset) -> CoordinatorStrategy:
    """The half that averages as the method says."""
    if method.gossip is not None:
        return PROTOTYPES_OF_DEVICES
    return averages_of(method.averages, method.asynchrony) if method.peers is None else MEAN_OF_DEVICES
