"""Float16 values under a common power of two, so that the largest fits and small ones stay normal numbers.

Unshifted, a delta of 10^-6 would be a subnormal float16 of two significant bits, and one above 65504 would
overflow. Signs and exponents on the one hand, low bits of the mantissa on the other travel apart: only the
first are worth packing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from firmware_profiles.errors import PeerError
from models.compression.streams import Stream, restore, shrink
from models.subnet import Array

_TOP = 15
"""The largest magnitude lies below 2^15."""

_LARGEST = np.float32(2.0**15 - 16)
"""The largest float16 below that: what would round up is saturated, so that no float32 grows to infinity."""


class Halves(msgspec.Struct, frozen=True, kw_only=True):
    """Values v as float16 of v * 2^shift.

    Attributes:
        shift: the power of two, so that 2^15 is above the largest magnitude.
        high: of each value the byte of sign, exponent and two bits of the mantissa. low: the other byte.
    """

    shift: Annotated[int, Meta(ge=-128, le=192)]
    high: Stream
    low: Stream


def to_halves(values: Array) -> Halves:
    """Round finite float32 [n] to 11 significant bits each, and fewer where they are 2^-29 of the largest."""
    largest = float(np.abs(values).max(initial=0.0))
    shift = _TOP - int(np.frexp(largest)[1]) if largest else 0
    scaled = np.clip(np.ldexp(values, shift), -_LARGEST, _LARGEST)
    planes = scaled.astype("<f2").view(np.uint8).reshape(-1, 2)
    return Halves(shift=shift, high=shrink(planes[:, 1].tobytes()), low=shrink(planes[:, 0].tobytes()))


def from_halves(halves: Halves, num_values: int) -> Array:
    """Float32 [num_values].

    Raises:
        PeerError: there are others in number, or one is not finite.
    """
    planes = np.empty((num_values, 2), np.uint8)
    planes[:, 1] = np.frombuffer(restore(halves.high, num_values, "high bytes of the values"), np.uint8)
    planes[:, 0] = np.frombuffer(restore(halves.low, num_values, "low bytes of the values"), np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ldexp(planes.view("<f2").reshape(-1).astype(np.float32), -halves.shift)
    if not np.isfinite(values).all():
        raise PeerError("a compressed update holds NaN or infinity: values must be finite")
    return values
