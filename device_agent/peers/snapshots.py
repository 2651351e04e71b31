"""A device's own weights in a decentralised run, and the snapshots of them that neighbours may fetch."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from device_agent.peers.mixing import Weights
from device_agent.wire.codec import refer
from device_agent.wire.messages import BlobRef
from models.weights import pack

PEER_INLINE_BYTES = 128 * 1024
"""Of weights inside a message to a neighbour, which carries nothing else; larger ones go in chunks."""

MAX_SERVED = 4
"""Snapshots too large for a message that neighbours may still fetch; older ones are gone."""


@dataclass(frozen=True)
class WeightsSnapshot:
    """Own weights at a moment: nobody changes these arrays any more.

    Attributes:
        weights: float32 tensors. step: barriers passed. ref: names the packed weights.
    """

    weights: Weights
    step: int
    ref: BlobRef


class OwnWeights:
    """Weights that change as a whole; packed once for all who are told of them.

    Args:
        weights: float32 tensors; never changed in place.

    Attributes:
        weights: of this moment.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._ref: BlobRef | None = None
        self._served: OrderedDict[str, bytes] = OrderedDict()

    def set(self, weights: Weights) -> None:
        """Put others in their place."""
        self.weights, self._ref = weights, None

    def snapshot(self, step: int) -> WeightsSnapshot:
        """These weights, to be told to neighbours."""
        if self._ref is None:
            content = pack(self.weights)
            self._ref = refer(content, inline_bytes=PEER_INLINE_BYTES)
            if self._ref.data is None:
                self._served[self._ref.digest] = content
                self._served.move_to_end(self._ref.digest)
                if len(self._served) > MAX_SERVED:
                    self._served.popitem(last=False)
        return WeightsSnapshot(self.weights, step, self._ref)

    def content(self, digest: str) -> bytes | None:
        """A snapshot's packed weights, None where it travelled inside its message or is gone."""
        return self._served.get(digest)
