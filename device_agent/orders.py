"""An order as the agent has it in hand, and what a training job is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from device_agent.wire.messages import Order
from models.subnet import Array


@dataclass(frozen=True, kw_only=True)
class OrderInHand:
    """An order with what the envelope said of it and when it must be done."""

    order: Order
    run: str
    base_version: int
    base_digest: str
    deadline_at_s: float


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What the driver needs to start the training job.

    Attributes:
        in_hand: the order. bundle: as it came.
        weights: to start from: as they came, or the agent's own tensors, which the job leaves as they are.
    """

    in_hand: OrderInHand
    bundle: bytes
    weights: bytes | Mapping[str, Array]
