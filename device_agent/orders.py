"""An order as the agent has it in hand, and what a training job is started with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from device_agent.effects import Send
from device_agent.wire.messages import Order, Update
from device_agent.wire.topics import COORDINATOR
from models.subnet import Array


@dataclass(frozen=True, kw_only=True)
class OrderInHand:
    """An order with what the envelope said of it and when it must be done."""

    order: Order
    run: str
    base_version: int
    base_digest: str
    deadline_at_s: float

    def unit(self, number: int, num_batches: int, deadline_at_s: float) -> OrderInHand:
        """A part of it, of other mini-batches than the other parts.

        Args:
            number: of the part.
            num_batches: of it.
            deadline_at_s: by when it is to be done.
        """
        seed = hashlib.sha256(f"{self.order.seed}/{number}".encode()).digest()[:6]
        order = msgspec.structs.replace(self.order, num_batches=num_batches, seed=int.from_bytes(seed, "big"))
        return replace(self, order=order, deadline_at_s=deadline_at_s)

    def report(self, update: Update, content: bytes) -> Send:
        """What answers the order, kept until it is acknowledged; `content` is that of `update.delta`."""
        return Send(
            to=COORDINATOR,
            body=update,
            run=self.run,
            base_version=self.base_version,
            base_digest=self.base_digest,
            durable=True,
            blobs={update.delta.digest: content},
        )


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
