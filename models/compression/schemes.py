"""The number formats and choices of entries of updates, each as the struct that travels.

A scheme takes the entries of all tensors in one row, float32 [n], and gives them back, rounded or with 0 in
place of what it left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from firmware_profiles.errors import PeerError
from models.compression.blocks import block_sizes, from_blocks, to_blocks
from models.compression.choices import (
    Places,
    drawn_places,
    largest_places,
    most_place_bytes,
    num_kept,
    read_places,
    write_places,
)
from models.compression.float16 import Halves, from_halves, to_halves
from models.compression.settings import CompressionSettings
from models.compression.streams import Stream, num_bytes, restore, shrink
from models.subnet import Array

_Entries = Annotated[int, Meta(ge=0, le=2**40)]


class Float16(msgspec.Struct, frozen=True, kw_only=True, tag_field="scheme", tag="float16"):
    """All entries. num_entries: how many."""

    num_entries: _Entries
    values: Halves


class Int8(msgspec.Struct, frozen=True, kw_only=True, tag_field="scheme", tag="int8"):
    """All entries as whole steps.

    Attributes:
        num_entries: how many.
        block: entries of a scale; a block ends with its tensor.
        scales: little-endian float32, one a block.
        steps: int8, one an entry: value = step x scale.
    """

    num_entries: _Entries
    block: Annotated[int, Meta(ge=1, le=2**20)]
    scales: Stream
    steps: Stream


class TopK(msgspec.Struct, frozen=True, kw_only=True, tag_field="scheme", tag="top-k"):
    """The entries of the largest magnitude.

    Attributes:
        num_entries: from which they were chosen. num_kept: how many they are.
        places: as `models.compression.choices.write_places` writes them.
        values: in order of their places.
    """

    num_entries: _Entries
    num_kept: _Entries
    places: Stream
    values: Halves


class RandomMask(msgspec.Struct, frozen=True, kw_only=True, tag_field="scheme", tag="random-mask"):
    """Entries that the order's seed draws.

    Attributes:
        num_entries: from which they were drawn. num_kept: how many they are.
        values: in order of their places.
    """

    num_entries: _Entries
    num_kept: _Entries
    values: Halves


Content = Float16 | Int8 | TopK | RandomMask


class Context(NamedTuple):
    """What both sides know: the entries of each tensor that are written, and the order's seed."""

    lengths: Sequence[int]
    seed: int

    @property
    def num_entries(self) -> int:
        """Entries of all tensors."""
        return sum(self.lengths)


def _write_float16(values: Array, context: Context, _settings: CompressionSettings) -> Float16:
    return Float16(num_entries=context.num_entries, values=to_halves(values))


def _read_float16(content: Float16, context: Context) -> Array:
    return from_halves(content.values, context.num_entries)


def _write_int8(values: Array, context: Context, settings: CompressionSettings) -> Int8:
    scales, steps = to_blocks(values, context.lengths, settings.block)
    return Int8(
        num_entries=context.num_entries,
        block=settings.block,
        scales=shrink(scales.astype("<f4").tobytes()),
        steps=shrink(steps.tobytes()),
    )


def _read_int8(content: Int8, context: Context) -> Array:
    num_blocks = len(block_sizes(context.lengths, content.block))
    scales = np.frombuffer(restore(content.scales, 4 * num_blocks, "scales"), "<f4")
    steps = np.frombuffer(restore(content.steps, context.num_entries, "steps"), np.int8)
    return from_blocks(scales.astype(np.float32), steps, context.lengths, content.block)


def _write_top_k(values: Array, context: Context, settings: CompressionSettings) -> TopK:
    kept = num_kept(context.num_entries, settings.keep_fraction)
    places = largest_places(values, kept)
    return TopK(
        num_entries=context.num_entries,
        num_kept=kept,
        places=shrink(write_places(places)),
        values=to_halves(values[places]),
    )


def _read_top_k(content: TopK, context: Context) -> Array:
    kept = _check_kept(content.num_kept, context)
    size = num_bytes(content.places, "places")
    if not kept <= size <= (most := most_place_bytes(context.num_entries, kept)):
        raise PeerError(f"a compressed update has {size} bytes of places, {kept} to {most} are possible")
    places = read_places(restore(content.places, size, "places"), context.num_entries, kept)
    return _at(places, from_halves(content.values, kept), context)


def _write_random_mask(values: Array, context: Context, settings: CompressionSettings) -> RandomMask:
    kept = num_kept(context.num_entries, settings.keep_fraction)
    places = drawn_places(context.num_entries, kept, context.seed)
    return RandomMask(num_entries=context.num_entries, num_kept=kept, values=to_halves(values[places]))


def _read_random_mask(content: RandomMask, context: Context) -> Array:
    kept = _check_kept(content.num_kept, context)
    values = from_halves(content.values, kept)
    return _at(drawn_places(context.num_entries, kept, context.seed), values, context)


def _check_kept(kept: int, context: Context) -> int:
    if kept > context.num_entries:
        raise PeerError(f"a compressed update keeps {kept} entries, {context.num_entries} were trained")
    return kept


def _at(places: Places, values: Array, context: Context) -> Array:
    whole = np.zeros(context.num_entries, np.float32)
    whole[places] = values
    return whole


WRITE: dict[str, Callable[[Array, Context, CompressionSettings], Content]] = {
    "float16": _write_float16,
    "int8": _write_int8,
    "top-k": _write_top_k,
    "random-mask": _write_random_mask,
}
"""By scheme: from values [n], context and settings to the struct."""

READ: dict[str, Callable[..., Array]] = {
    "float16": _read_float16,
    "int8": _read_int8,
    "top-k": _read_top_k,
    "random-mask": _read_random_mask,
}
"""By scheme: from its struct and the context to float32 [n]; PeerError if they do not fit."""
