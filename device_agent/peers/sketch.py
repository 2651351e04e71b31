"""A few numbers that tell how far apart the weights of devices are, without sending the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from models.subnet import Array

SKETCH_SIZE = 32


def sketch(weights: Mapping[str, Array], seed: str) -> tuple[float, ...]:
    """Project weights onto 32 numbers, the same way for everybody with the same seed.

    Each entry is added to one number, chosen by chance, with a sign chosen by chance. The squared distance of
    two sketches is in the mean that of the weights; its relative standard deviation is below
    sqrt(2 / 32) = 25 %.

    Args:
        weights: float32 tensors by name.
        seed: of the projection; sketches of different seeds cannot be compared.

    References:
        Charikar, Chen, Farach-Colton, Finding frequent items in data streams, ICALP 2002 (count sketch).
    """
    total = np.zeros(SKETCH_SIZE)
    for name in sorted(weights):
        values = weights[name].ravel()
        key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "big")
        chance = np.random.Generator(np.random.Philox(key=key)).integers(
            0, 2 * SKETCH_SIZE, values.size, dtype=np.uint8
        )
        signed = np.where(chance & 1, values, -values)
        total += np.bincount(chance >> 1, weights=signed, minlength=SKETCH_SIZE)
    return tuple(total.tolist())
