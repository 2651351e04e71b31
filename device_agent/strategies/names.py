"""Every strategy by name; `coordinator.strategies.names` holds the other halves under the same names."""

from __future__ import annotations

from device_agent.strategies.strategy import DeviceStrategy
from device_agent.strategies.subnets import SUBNETS

_OF_SUBNETS = (
    "distreal",
    "distreal-paper",
    "full",
    "drop",
    "small",
    "heterofl",
    "fjord",
    "fjord-kd",
    "fedrolex",
    "feddrop",
    "fiarse",
    "uniform",
    "async",
    "dsgd",
    "dsgd-paper",
    "dsgd-discard",
    "dsgd-synchronous",
    "ad-psgd",
    "swift",
    "epidemic",
)

WITHOUT_NETWORK = ("gossip", "gossip-paper")
"""Their devices learn prototypes from streams: they need no engine, and choose no sub-network."""

DEVICE_STRATEGIES: dict[str, DeviceStrategy] = dict.fromkeys((*_OF_SUBNETS, *WITHOUT_NETWORK), SUBNETS)
"""What tells these methods apart on the device is in their bundle's SubnetSettings."""
