"""Which entries travel where not all do, and how their places are written.

References:
    Aji and Heafield, Sparse Communication for Distributed Gradient Descent, EMNLP 2017, arXiv 1704.05021 (the
    largest magnitudes, the rest kept for later). Konecny et al., Federated Learning: Strategies for Improving
    Communication Efficiency, 2016, arXiv 1610.05492 (a random mask that a seed stands for).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError
from models.subnet import Array

Places = NDArray[np.int64]
"""Indices into the entries, rising."""

_MORE = 255
_PURPOSE = np.uint64(0x6D61736B)
"""Sets these draws apart from those of sub-networks, which take (seed, mini-batch) as the key."""


def num_kept(num_entries: int, keep_fraction: float) -> int:
    """How many entries travel: the nearest whole number, at least 1 where there are any."""
    return min(num_entries, max(1, round(keep_fraction * num_entries)))


def largest_places(values: Array, kept: int) -> Places:
    """Places of the values of the largest magnitude."""
    if kept == 0:
        return np.empty(0, np.int64)
    places = np.argpartition(np.abs(values), len(values) - kept)[len(values) - kept :]
    return np.sort(places).astype(np.int64)


def drawn_places(num_entries: int, kept: int, seed: int) -> Places:
    """Places that the seed draws: those of the smallest words of a Philox counter, the same everywhere."""
    if kept == 0:
        return np.empty(0, np.int64)
    generator = np.random.Philox(key=np.array((seed, _PURPOSE), np.uint64))
    words = generator.random_raw(num_entries)
    largest = np.partition(words, kept - 1)[kept - 1]
    return np.flatnonzero(words <= largest)[:kept]


def write_places(places: Places) -> bytes:
    """Rising places as gaps: a byte 0 to 254 ends a gap, 255 adds to it and goes on.

    They take places + entries / 255 bytes at most.
    """
    gaps = np.diff(places, prepend=-1) - 1
    lengths = gaps // _MORE + 1
    content = np.full(int(lengths.sum()), _MORE, np.uint8)
    content[np.cumsum(lengths) - 1] = gaps % _MORE
    return content.tobytes()


def most_place_bytes(num_entries: int, kept: int) -> int:
    """Bytes that `write_places` makes of so many places at most."""
    return kept + (num_entries - kept) // _MORE


def read_places(content: bytes, num_entries: int, kept: int) -> Places:
    """Undo `write_places`.

    Raises:
        PeerError: they are others in number, or one lies beyond the entries.
    """
    steps = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(steps != _MORE)
    if len(ends) != kept or (len(steps) and steps[-1] == _MORE):
        raise PeerError(f"a compressed update names {len(ends)} places for {kept} values")
    places = np.cumsum(steps, dtype=np.int64)[ends] + np.arange(kept)
    if kept and places[-1] >= num_entries:
        raise PeerError(f"a compressed update names entry {places[-1]}, {num_entries} were trained")
    return places
