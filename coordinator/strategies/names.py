"""Every strategy by name; `coordinator.strategies.presets` says what each is."""

from __future__ import annotations

from coordinator.strategies.presets import PRESETS
from coordinator.strategies.rounds_of_averages import averages_of
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.strategies.strategy import DeviceStrategy

STRATEGIES: dict[str, tuple[DeviceStrategy, CoordinatorStrategy]] = {
    name: (DEVICE_STRATEGIES[name], averages_of(preset.averages)) for name, preset in PRESETS.items()
}
"""Both halves, paired. A run's own averages may differ: see `coordinator.settings.Learning.strategy`."""
