"""Prototype sets as few bytes for the wire, and back.

One header byte says what follows, little-endian throughout:

======================  =========================  ==========================================================
part                    bytes                      present
======================  =========================  ==========================================================
version and flags       1                          always
number n                2                          always
fingerprint of units   2                          float16 in units that both sides have
units                  8 d                        float16 in units that travel along: offsets, then factors
vectors                 2 n d or 4 n d             always: float16 in the units, or float32 in units of data
labels                  n ceil(log2 classes) bits  always, padded with zeros to whole bytes
weights                 n                          flag; else each stands for 1 sample
ages                    n                          flag; else each is 0
======================  =========================  ==========================================================

`models.prototypes.units` states the error of float16 vectors. Weights and ages are powers of 2^(1/8): within
4.5 % of their values from 2^-7 to 2^23 samples, beyond which they saturate; 0, 1 and the other whole powers
of 2 are exact. A prototype of 6 features and 2 classes is 20 bytes, and 18 without weight and age.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError
from models.prototypes.prototype_set import PrototypeSet
from models.prototypes.units import Units, fault, from_halves, to_halves
from models.subnet import Array, Indices

_VERSION = 1
_FLOAT32, _UNITS, _WEIGHTS, _AGES = 1, 2, 4, 8
"""Flags in the low half of the header byte; the version is the high half."""

MAX_PROTOTYPES = 65_535

_ONE = 64
"""The code of the weight 1: codes 1 to 255 are 2^-7.875 to 2^23.875."""

_LEVELS = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - _ONE) / 8)]).astype(np.float32)


class UnknownUnitsError(PeerError):
    """A set is in units of a message that is not here, lost perhaps: a later one will bring them."""


def pack(
    prototypes: PrototypeSet,
    num_classes: int,
    *,
    units: Units | None,
    with_units: bool = True,
    with_weights: bool = True,
    with_ages: bool = True,
) -> bytes:
    """The bytes of a set.

    Args:
        prototypes: at most `MAX_PROTOTYPES`.
        num_classes: labels are below it.
        units: of float16 vectors; None: float32 vectors in units of the data.
        with_units: the units travel along. False: the reader has them.
        with_weights: False: they are left out, and read as 1.
        with_ages: False: they are left out, and read as 0.

    Raises:
        ValueError: a label or the number is out of range, or the units are of other features.
    """
    num, width = prototypes.vectors.shape
    if num > MAX_PROTOTYPES:
        raise ValueError(f"{num} prototypes in one message, {MAX_PROTOTYPES} are allowed")
    if num and not (prototypes.labels.min() >= 0 and prototypes.labels.max() < num_classes):
        raise ValueError(f"a label is not from 0 to {num_classes - 1}")
    if units is not None and len(units.offsets) != width:
        raise ValueError(f"units of {len(units.offsets)} features for vectors of {width}")
    flags = _FLOAT32 * (units is None) + _UNITS * (units is not None and with_units)
    flags += _WEIGHTS * with_weights + _AGES * with_ages
    parts = [struct.pack("<BH", _VERSION << 4 | flags, num)]
    if units is None:
        parts.append(prototypes.vectors.astype("<f4").tobytes())
    else:
        parts.append(units.packed() if with_units else struct.pack("<H", units.fingerprint()))
        parts.append(to_halves(prototypes.vectors, units).tobytes())
    parts.append(_to_bits(prototypes.labels, num_classes))
    if with_weights:
        parts.append(to_levels(prototypes.weights).tobytes())
    if with_ages:
        parts.append(to_levels(prototypes.ages).tobytes())
    return b"".join(parts)


def unpack(data: bytes, num_features: int, num_classes: int, units: Units | None = None) -> PrototypeSet:
    """Read `pack`'s bytes, or anybody's; no more than a few times their size is allocated.

    Args:
        data: the bytes, untrusted.
        num_features: d, >= 1.
        num_classes: >= 1.
        units: those of a message that does not bring its own.

    Raises:
        PeerError: they are not exactly a set of such prototypes; the message says what is wrong.
    """
    flags, num = _header(data)
    reader = _Reader(data, num_features, num_classes)
    reader.check_length(flags, num)
    if flags & _FLOAT32:
        vectors = np.frombuffer(reader.take(4 * num * num_features), "<f4").reshape(num, num_features)
    else:
        known = reader.units() if flags & _UNITS else reader.agreed(units)
        halves = np.frombuffer(reader.take(2 * num * num_features), "<f2").reshape(num, num_features)
        vectors = from_halves(halves, known)
    if not np.isfinite(vectors).all():
        row, column = np.argwhere(~np.isfinite(vectors))[0]
        raise PeerError(f"feature {column} of prototype {row} is {vectors[row, column]}: it must be finite")
    labels = reader.labels(num)
    weights = reader.levels(num) if flags & _WEIGHTS else np.ones(num, np.float32)
    ages = reader.levels(num) if flags & _AGES else np.zeros(num, np.float32)
    return PrototypeSet(vectors.astype(np.float32), labels, weights, ages)


def to_levels(values: Array) -> NDArray[np.uint8]:
    """The nearest code of each weight or age, by ratio; what is above 0 stays so."""
    codes = np.rint(8 * np.log2(np.maximum(values, _LEVELS[1]))) + _ONE
    return np.where(values > 0, np.clip(codes, 1, 255), 0).astype(np.uint8)


def from_levels(codes: NDArray[np.uint8]) -> Array:
    """What the codes of weights or ages say."""
    return _LEVELS[codes]


def units_in(data: bytes, num_features: int) -> Units | None:
    """The units that a message brings, to read later ones by; None if it brings none.

    Raises:
        PeerError: they are damaged.
    """
    flags, _ = _header(data)
    if not flags & _UNITS:
        return None
    if len(data) < 3 + 8 * num_features:
        raise PeerError(f"prototypes of {len(data)} bytes end within their units")
    return _Reader(data, num_features, 1).units()


# ---------------------------------------------------------------- reading


class _Reader:
    """Takes one part after another off bytes whose length was checked."""

    def __init__(self, data: bytes, num_features: int, num_classes: int) -> None:
        self._data, self._at = data, 3
        self._num_features, self._num_classes = num_features, num_classes

    def check_length(self, flags: int, num: int) -> None:
        head = 0 if flags & _FLOAT32 else 8 * self._num_features if flags & _UNITS else 2
        each = (
            self._num_features * (4 if flags & _FLOAT32 else 2) + bool(flags & _WEIGHTS) + bool(flags & _AGES)
        )
        expected = 3 + head + num * each + _label_bytes(num, self._num_classes)
        if len(self._data) != expected:
            raise PeerError(
                f"{num} prototypes of {self._num_features} features and {self._num_classes} classes take "
                f"{expected} bytes here, {len(self._data)} came"
            )

    def take(self, num_bytes: int) -> bytes:
        part = self._data[self._at : self._at + num_bytes]
        self._at += num_bytes
        return part

    def levels(self, num: int) -> Array:
        return from_levels(np.frombuffer(self.take(num), np.uint8))

    def units(self) -> Units:
        values = np.frombuffer(self.take(8 * self._num_features), "<f4").astype(np.float32)
        offsets, factors = values[: self._num_features], values[self._num_features :]
        if wrong := fault(offsets, factors):
            raise PeerError(f"prototypes come in units that cannot be: {wrong}")
        return Units(offsets, factors)

    def agreed(self, units: Units | None) -> Units:
        (fingerprint,) = struct.unpack("<H", self.take(2))
        if units is None or len(units.offsets) != self._num_features:
            raise UnknownUnitsError("prototypes come without the units they are in, and none are known here")
        if units.fingerprint() != fingerprint:
            raise UnknownUnitsError(
                f"prototypes come in units {fingerprint:04x}, known here are {units.fingerprint():04x}: "
                "ask for the whole set with its units"
            )
        return units

    def labels(self, num: int) -> Indices:
        width = _num_bits(self._num_classes)
        bits = np.unpackbits(np.frombuffer(self.take(_label_bytes(num, self._num_classes)), np.uint8))
        if bits[num * width :].any():
            raise PeerError("the bits after the last label of prototypes are not 0")
        words = np.zeros((num, 32), np.uint8)
        words[:, 32 - width :] = bits[: num * width].reshape(num, width)
        found = np.packbits(words, axis=1).view(">u4")[:, 0]
        if num and found.max() >= self._num_classes:
            raise PeerError(
                f"a prototype has the label {found.max()}, classes are 0 to {self._num_classes - 1}"
            )
        return found.astype(np.int64)


def _header(data: bytes) -> tuple[int, int]:
    """Flags and number."""
    if len(data) < 3:
        raise PeerError(f"prototypes of {len(data)} bytes: the header alone has 3")
    first, num = struct.unpack_from("<BH", data)
    version, flags = first >> 4, first & 15
    if version != _VERSION:
        raise PeerError(
            f"prototypes in format {version}, known is {_VERSION}: run the same edgetide everywhere"
        )
    if flags & _FLOAT32 and flags & _UNITS:
        raise PeerError("prototypes in float32 bring units, which only float16 has")
    return flags, num


# ---------------------------------------------------------------- parts


def _num_bits(num_classes: int) -> int:
    return (num_classes - 1).bit_length()


def _label_bytes(num: int, num_classes: int) -> int:
    return -(-num * _num_bits(num_classes) // 8)


def _to_bits(labels: Indices, num_classes: int) -> bytes:
    bits = labels[:, None] >> np.arange(_num_bits(num_classes))[::-1] & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
