"""Every strategy by name: both halves, paired."""

from __future__ import annotations

from coordinator.strategies.rounds_of_averages import AVERAGES
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.strategies.strategy import DeviceStrategy

STRATEGIES: dict[str, tuple[DeviceStrategy, CoordinatorStrategy]] = {
    "distreal": (DEVICE_STRATEGIES["distreal"], AVERAGES),
    "full": (DEVICE_STRATEGIES["full"], AVERAGES),
}
