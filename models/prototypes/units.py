"""Units that features travel in, so that float16 holds any: z = (x - offset) / factor.

A float16 is within factor * max(|z| 2^-11, 2^-25) of its x where |z| is at most 65504, and besides within a
rounding of float32; beyond, it saturates. With `units_for` that is 2^-12 of the feature's
range.

References:
    IEEE 754-2008: binary16 has a significand of 11 bits and a smallest subnormal of 2^-24.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.prototypes.prototype_set import PrototypeSet
from models.subnet import Array

_LARGEST_HALF = 65504.0
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Units:
    """Units that features travel in: z = (x - offset) / factor.

    Attributes:
        offsets: float32 [d], finite. factors: float32 [d], finite and > 0.
    """

    offsets: Array
    factors: Array

    def __post_init__(self) -> None:
        if self.offsets.shape != self.factors.shape or self.offsets.ndim != 1:
            raise ValueError(
                f"offsets {self.offsets.shape} and factors {self.factors.shape} are not both [d]"
            )
        if wrong := fault(self.offsets, self.factors):
            raise ValueError(wrong)

    def fingerprint(self) -> int:
        """16 bits that most likely differ for other units."""
        return zlib.crc32(self.packed()) & 0xFFFF

    def packed(self) -> bytes:
        """Offsets, then factors."""
        return np.concatenate([self.offsets, self.factors]).astype("<f4").tobytes()


def units_for(prototypes: PrototypeSet) -> Units:
    """Of each feature its middle, and half its range (1 where there is none): every z is from -1 to 1."""
    vectors = prototypes.vectors.astype(np.float64)
    low, high = vectors.min(axis=0, initial=np.inf), vectors.max(axis=0, initial=-np.inf)
    if not len(prototypes):
        low, high = np.zeros_like(low), np.zeros_like(high)
    halves = ((high - low) / 2).astype(np.float32)
    factors = np.where(halves > 0, halves, np.float32(1))
    return Units(((low + high) / 2).astype(np.float32), factors)


def fault(offsets: Array, factors: Array) -> str | None:
    """What is wrong with units [d] and [d]; None: nothing."""
    if not np.isfinite(offsets).all():
        return f"the offset of feature {int(np.argmin(np.isfinite(offsets)))} is not finite"
    good = np.isfinite(factors) & (factors > 0)
    return None if good.all() else f"the factor of feature {int(np.argmin(good))} is not above 0 and finite"


def to_halves(vectors: Array, units: Units) -> NDArray[np.float16]:
    """Float32 [n, d] as little-endian float16 in the units."""
    scaled = (vectors.astype(np.float64) - units.offsets) / units.factors
    return np.clip(scaled, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2")


def from_halves(halves: NDArray[np.float16], units: Units) -> NDArray[np.float64]:
    """Back again, at most the largest float32, past which a rounded half may lead; NaN and infinity stay."""
    with np.errstate(invalid="ignore"):
        values = halves.astype(np.float64) * units.factors + units.offsets
    return np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
