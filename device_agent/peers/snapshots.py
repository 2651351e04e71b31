"""A device's own weights in a decentralised run, and the snapshots of them that neighbours may fetch."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from device_agent.peers.mixing import Weights
from device_agent.wire.codec import refer
from device_agent.wire.messages import BlobRef
from models.compression.codec import decode, encode
from models.compression.settings import CompressionSettings

PEER_INLINE_BYTES = 128 * 1024
"""Of weights inside a message to a neighbour, which carries nothing else; larger ones go in chunks."""

MAX_SERVED = 4
"""Snapshots too large for a message that neighbours may still fetch, in sizes of the whole weights; older
ones are gone. Of parts of the weights, which every exchange has one of, that is accordingly more."""


@dataclass(frozen=True)
class WeightsSnapshot:
    """Own weights at a moment, as others read them: nobody changes these arrays any more.

    Both sides of an exchange compute their pulls from what travels, so that what compression loses moves one
    as far as the other, and their mean not at all.

    Attributes:
        weights: float32 tensors. step: barriers passed. ref: names the packed weights.
    """

    weights: Weights
    step: int
    ref: BlobRef


class OwnWeights:
    """Weights that change as a whole; packed once for all who are told the same of them.

    Args:
        weights: float32 tensors; never changed in place.
        compression: of what travels.

    Attributes:
        weights: of this moment.
    """

    def __init__(self, weights: Weights, compression: CompressionSettings | None = None) -> None:
        self.weights = weights
        self._compression = compression or CompressionSettings()
        self._is_drawn = self._compression.scheme == "random-mask"
        self._frozen: tuple[Weights, int] | None = None
        self._packed: tuple[Weights, int, BlobRef, Weights] | None = None
        self._served: OrderedDict[str, bytes] = OrderedDict()

    def set(self, weights: Weights) -> None:
        """Put others in their place."""
        self.weights = weights

    def freeze(self, step: int) -> None:
        """Tell these weights from now on, until `thaw`."""
        self._frozen = self.weights, step

    def thaw(self) -> None:
        """Tell the weights of the moment again."""
        self._frozen = None

    def snapshot(self, step: int, nonce: int) -> WeightsSnapshot:
        """These weights, to be told to a neighbour; of the scheme `random-mask` what the nonce draws."""
        weights, step = self._frozen or (self.weights, step)
        seed = nonce if self._is_drawn else 0
        if self._packed is None or self._packed[0] is not weights or self._packed[1] != seed:
            self._packed = weights, seed, *self._pack(weights, seed)
        return WeightsSnapshot(self._packed[3], step, self._packed[2])

    def _pack(self, weights: Weights, seed: int) -> tuple[BlobRef, Weights]:
        content = encode(weights, self._compression, seed=seed)
        ref = refer(content, inline_bytes=PEER_INLINE_BYTES)
        if ref.data is None:
            self._served[ref.digest] = content
            self._served.move_to_end(ref.digest)
            most = MAX_SERVED * max(len(content), sum(values.nbytes for values in weights.values()))
            while sum(map(len, self._served.values())) > most:
                self._served.popitem(last=False)
        if self._compression.scheme == "none":
            return ref, weights
        return ref, decode(content, {name: values.shape for name, values in weights.items()}, seed=seed)

    def content(self, digest: str) -> bytes | None:
        """A snapshot's packed weights, None where it travelled inside its message or is gone."""
        return self._served.get(digest)
