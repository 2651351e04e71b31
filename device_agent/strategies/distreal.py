"""DISTREAL on the device: the best dropout vector that fits the budget of this moment.

References:
    Rapp et al., "DISTREAL: Distributed Resource-Aware Learning in Heterogeneous Systems", AAAI 2022,
    arXiv 2112.08761. The look-up before every mini-batch is the paper's; stretching the remaining time
    over the remaining mini-batches is ours.
"""

from __future__ import annotations

from device_agent.strategies.strategy import DeviceStrategy
from models.table import select

DISTREAL = DeviceStrategy(choose=select)
