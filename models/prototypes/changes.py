"""A prototype set as what changed since another one that both sides have: the base.

Learning moves most prototypes a little and few of them far. So each prototype of the set is matched with the
nearest one of the base that has its label, and where that is near, the difference travels in steps of 2^-11
of the feature's range in the base. Features have as many bits as their largest difference takes; where a few
far ones would make all others longer, these are left out, and follow as new prototypes. A change is at least
half as exact as the float16 of `models.prototypes.packing`: where the ranges of the two sets are too unlike
for that, there is none.

==========================  ===========================================  ==================================
part                        bits                                         of
==========================  ===========================================  ==================================
version                     8
number m                    16                                           prototypes of the base
stays                       m                                            1: it is still in the set
moves                       s, those that stay                           1: it has another vector or weight
widths                      4 d                                          bits of a difference, 0 to 15
differences                 of each feature its width for each that      features by width, then by number;
                            moves                                        2^(width - 1) is 0
padding                     to a whole byte, zeros
weights                     8 for each that moves                        as in packing
new prototypes              the rest                                     packing, in the units of the base
==========================  ===========================================  ==================================

Those that stay come first, in the order of the base.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError
from models.prototypes.packing import MAX_PROTOTYPES, from_levels, pack, to_levels, unpack
from models.prototypes.prototype_set import PrototypeSet, joined
from models.prototypes.units import units_for
from models.subnet import Indices

STEPS = 2048
"""To the range of a feature."""

MOST_PAIRS = 500_000
"""Prototypes times prototypes of the base that are looked at, in 4 MB; larger sets are told as they are."""

_VERSION = 1
_HEAD = struct.Struct("<BH")
_WIDTH_BITS, _MOST_BITS = 4, 15

Bits = NDArray[np.uint8]
Steps = NDArray[np.int64]
Rows = NDArray[np.float64]


def pack_change(base: PrototypeSet, own: PrototypeSet, num_classes: int) -> bytes | None:
    """The bytes that make a set of the base; ages are left out.

    Args:
        base: m prototypes, as the reader has them.
        own: n of the same features; what the reader gets is `unpack_change` of the bytes.
        num_classes: labels are below it.

    Returns:
        None: there are too many pairs to look at, or it would be less than half as exact as the whole set.
    """
    if not 0 < len(base) <= MAX_PROTOTYPES or len(base) * len(own) > MOST_PAIRS or not _suits(base, own):
        return None
    codes = to_levels(own.weights)
    rows, of_own, steps = _matched(base, own)
    moves = steps.any(axis=1) | (codes[of_own] != to_levels(base.weights)[rows])
    chosen, widths = _near_enough(steps, moves)
    chosen = chosen[np.argsort(rows[chosen])]
    rows, of_own, steps, moves = rows[chosen], of_own[chosen], steps[chosen], moves[chosen]
    stays = np.zeros(len(base), bool)
    stays[rows] = True
    bits = [stays.astype(np.uint8), moves.astype(np.uint8), _to_bits(widths, _WIDTH_BITS)]
    bits += [_to_bits(steps[moves][:, widths == one].T + _half(one), one) for one in _present(widths)]
    new = np.ones(len(own), bool)
    new[of_own] = False
    parts = [
        _HEAD.pack(_VERSION, len(base)),
        np.packbits(np.concatenate(bits)).tobytes(),
        codes[of_own[moves]].tobytes(),
        pack(own[new], num_classes, units=units_for(base), with_units=False, with_ages=False),
    ]
    return b"".join(parts)


def unpack_change(data: bytes, base: PrototypeSet, num_classes: int) -> PrototypeSet:
    """The set that a change makes of the base: those that stay, in their order, then the new ones.

    Args:
        data: the bytes, untrusted.
        base: what they were made for.
        num_classes: >= 1.

    Raises:
        PeerError: they are no change of such a base; the message says what is wrong.
    """
    num_features = base.vectors.shape[1]
    if len(data) < _HEAD.size:
        raise PeerError(f"a change of prototypes of {len(data)} bytes: the header alone has {_HEAD.size}")
    version, num_base = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise PeerError(
            f"a change of prototypes in format {version}, known is {_VERSION}: run the same edgetide "
            "everywhere"
        )
    if num_base != len(base):
        raise PeerError(f"a change is of {num_base} prototypes, {len(base)} are here: ask for the whole set")
    reader = _Reader(data, _HEAD.size)
    stays = reader.take(num_base).astype(bool)
    moves = reader.take(int(stays.sum())).astype(bool)
    widths = _from_bits(reader.take(_WIDTH_BITS * num_features), _WIDTH_BITS)
    steps = np.zeros((len(moves), num_features), np.int64)
    num_moved = int(moves.sum())
    for width in _present(widths):
        columns = np.flatnonzero(widths == width)
        codes = _from_bits(reader.take(width * len(columns) * num_moved), width)
        steps[np.ix_(moves, columns)] = codes.reshape(len(columns), num_moved).T - _half(width)
    kept = base[stays]
    weights = kept.weights.copy()
    weights[moves] = from_levels(reader.bytes_after_bits(num_moved))
    vectors = (kept.vectors + steps * _sizes(base)).astype(np.float32)
    old = PrototypeSet(vectors, kept.labels, weights, np.zeros(len(moves), np.float32))
    new = unpack(reader.rest(), num_features, num_classes, units_for(base))
    return joined([old, new])


# ---------------------------------------------------------------- what is near what


def _sizes(base: PrototypeSet) -> Rows:
    """Float64 [d], of a step of each feature."""
    return np.ptp(base.vectors.astype(np.float64), axis=0) / STEPS


def _suits(base: PrototypeSet, own: PrototypeSet) -> bool:
    """Whether the base's units are fine enough: its range times the furthest value in it, 1 or more."""
    if not len(own):
        return True
    units, vectors = units_for(base), own.vectors.astype(np.float64)
    furthest = (np.abs(vectors - units.offsets) / units.factors).max(axis=0)
    halves = np.ptp(base.vectors.astype(np.float64), axis=0) / 2
    is_fine = (halves > 0) & (halves * np.maximum(1, furthest) <= np.ptp(vectors, axis=0))
    return bool((is_fine | ((halves == 0) & (furthest == 0))).all())


def _matched(base: PrototypeSet, own: PrototypeSet) -> tuple[Indices, Indices, Steps]:
    """Rows of the base, of the set, and [k, d] steps from the one to the other; no row comes twice.

    Pairs that differ by more than any width holds, or in a feature that is the same in all of the base, are
    left out.
    """
    furthest = np.where(own.labels[:, None] == base.labels, 0.0, np.inf)
    sizes = _sizes(base)
    for feature, size in enumerate(sizes):  # one at a time: all differences together may take gigabytes
        gaps = np.abs(own.vectors[:, feature, None].astype(np.float64) - base.vectors[:, feature])
        with np.errstate(divide="ignore", invalid="ignore"):
            np.fmax(furthest, gaps / size, out=furthest)  # 0 / 0 is no distance
    nearest = furthest.argmin(axis=1)
    distances = furthest[np.arange(len(own)), nearest]
    by_distance = np.argsort(distances, kind="stable")
    by_distance = by_distance[distances[by_distance] < _half(_MOST_BITS) - 1]
    rows, firsts = np.unique(nearest[by_distance], return_index=True)
    of_own = by_distance[firsts]
    gaps = own.vectors[of_own].astype(np.float64) - base.vectors[rows]
    steps = np.rint(np.divide(gaps, sizes, out=np.zeros_like(gaps), where=sizes > 0)).astype(np.int64)
    return rows, of_own, steps


def _near_enough(steps: Steps, moves: NDArray[np.bool_]) -> tuple[Indices, NDArray[np.int64]]:
    """Which of the pairs [k, d], the nearest ones, make the fewest bits, and the width of each feature."""
    num, num_features = steps.shape
    order = np.argsort(np.abs(steps).max(axis=1, initial=0), kind="stable")
    steps, moves = steps[order], moves[order]
    # Bits of -h to h - 1 are those of h - 1, and one more; none where all are 0.
    largest = np.maximum.accumulate(np.where(steps < 0, -steps - 1, steps), axis=0)
    some = np.maximum.accumulate(steps != 0, axis=0)
    widths = np.where(some, np.ceil(np.log2(largest + 1.0)).astype(np.int64) + 1, 0)
    num_bits = np.cumsum(moves) * (widths.sum(axis=1) + 8)
    num_bits += (16 * num_features + 8) * (num - 1 - np.arange(num))  # all others are new
    if not num or (16 * num_features + 8) * num <= num_bits.min():
        return order[:0], np.zeros(num_features, np.int64)
    last = int(num_bits.argmin())
    return order[: last + 1], widths[last]


def _present(widths: NDArray[np.int64]) -> list[int]:
    return [int(width) for width in np.unique(widths) if width]


# ---------------------------------------------------------------- bits


def _half(width: int) -> int:
    """What is added to a difference of so many bits, so that it is 0 or more."""
    return 1 << (width - 1)


def _to_bits(values: NDArray[np.int64], width: int) -> Bits:
    """Each value's bits, the highest first, one after another."""
    return (values.reshape(-1, 1) >> np.arange(width)[::-1] & 1).astype(np.uint8).reshape(-1)


def _from_bits(bits: Bits, width: int) -> NDArray[np.int64]:
    return bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width, dtype=np.int64)[::-1])


class _Reader:
    """Takes bits off bytes, then bytes."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start, self._at = data, start, 0

    def take(self, num_bits: int) -> Bits:
        first, last = self._at // 8, -(-(self._at + num_bits) // 8)
        part = self._data[self._start + first : self._start + last]
        if len(part) < last - first:
            raise PeerError(f"a change of prototypes ends within its bits, after {len(self._data)} bytes")
        bits = np.unpackbits(np.frombuffer(part, np.uint8))
        skipped = self._at - 8 * first
        self._at += num_bits
        return bits[skipped : skipped + num_bits]

    def bytes_after_bits(self, num: int) -> NDArray[np.uint8]:
        """The next whole bytes; only zeros may come before them."""
        if self.take(-self._at % 8).any():
            raise PeerError("the bits after the last difference of prototypes are not 0")
        return np.packbits(self.take(8 * num))

    def rest(self) -> bytes:
        return self._data[self._start + self._at // 8 :]
