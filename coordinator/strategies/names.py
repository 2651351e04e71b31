"""Every strategy by name; `coordinator.strategies.presets` says what each is."""

from __future__ import annotations

from coordinator.strategies.halves import coordinator_half
from coordinator.strategies.presets import PRESETS
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.strategies.strategy import DeviceStrategy

STRATEGIES: dict[str, tuple[DeviceStrategy, CoordinatorStrategy]] = {
    name: (DEVICE_STRATEGIES[name], coordinator_half(preset)) for name, preset in PRESETS.items()
}
"""Both halves, paired. A run's own averages may differ: see `coordinator.settings.Learning.strategy`."""
