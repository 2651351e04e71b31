"""Every strategy by name; `coordinator.strategies.names` holds the other halves under the same names."""

from __future__ import annotations

from device_agent.strategies.distreal import DISTREAL
from device_agent.strategies.full import FULL
from device_agent.strategies.strategy import DeviceStrategy

DEVICE_STRATEGIES: dict[str, DeviceStrategy] = {"distreal": DISTREAL, "full": FULL}
