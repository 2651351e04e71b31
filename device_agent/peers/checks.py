"""Whether weights of a neighbour may be mixed: nothing of them is used before this."""

from __future__ import annotations

import hashlib
import math

import msgspec
import numpy as np

from device_agent.peers.mixing import Weights
from device_agent.wire.messages import BlobRef
from firmware_profiles.errors import PeerError
from models.bundle import Bundle
from models.compression.choices import num_kept
from models.compression.codec import decode, most_bytes
from models.graph import digest as graph_digest
from models.subnet import Array

MAX_NORM_RATIO = 10.0
"""Weights whose L2 norm is more than so many times the own one's are refused."""

MIN_NORM = 1.0


def mixing_digest(bundle: Bundle) -> str:
    """Names what two devices must have in common for their weights to be mixed; tables may differ."""
    settings = msgspec.msgpack.encode(bundle.settings)
    return hashlib.sha256(graph_digest(bundle.graph).encode() + settings).hexdigest()


def check_theirs(ref: BlobRef, bundle: Bundle) -> None:
    """Check what a message says of its weights, before they are fetched.

    Raises:
        PeerError: they are larger than this network's can be.
    """
    most = most_bytes(bundle.graph.parameters)
    if ref.size_bytes > most:
        raise PeerError(f"a neighbour's weights have {ref.size_bytes} bytes, this network's at most {most}")


def unpack_theirs(ref: BlobRef, bundle: Bundle, own: Weights, nonce: int = 0) -> dict[str, Array]:
    """Read a neighbour's weights.

    Args:
        ref: with the content.
        bundle: of the run.
        own: weights of this device.
        nonce: of the exchange; it draws the entries that a `random-mask` keeps, and the others are 0.

    Raises:
        PeerError: they did not come, are of other names or shapes, not finite, or far too large.
    """
    if ref.data is None:
        raise PeerError("a neighbour's weights did not come with their message")
    theirs = decode(
        ref.data, bundle.graph.parameters, seed=nonce, settings=bundle.settings.exchange_compression
    )
    compression = bundle.settings.exchange_compression
    least, share = MIN_NORM, compression.keep_fraction
    if compression.scheme == "random-mask":
        most = num_kept(sum(values.size for values in own.values()), share)
        if (found := sum(np.count_nonzero(values) for values in theirs.values())) > most:
            raise PeerError(f"a neighbour sent {found} entries of its weights, the run has {most} drawn")
        own = {name: np.where(theirs[name] != 0, values, np.float32(0)) for name, values in own.items()}
        least *= math.sqrt(share)
    norm, own_norm = _norm(theirs), _norm(own)
    if norm > MAX_NORM_RATIO * max(own_norm, least):
        raise PeerError(f"a neighbour's weights have the norm {norm:.3g}, the own ones {own_norm:.3g}")
    return theirs


def has_diverged(weights: Weights, mean: Weights) -> bool:
    """Whether weights are not finite, or so large that neighbours would refuse them."""
    return not _norm(weights) <= MAX_NORM_RATIO * max(_norm(mean), MIN_NORM)


def _norm(weights: Weights) -> float:
    flat = [values.reshape(-1) for values in weights.values()]
    with np.errstate(over="ignore"):
        return math.sqrt(sum(float(np.dot(values, values)) for values in flat))
