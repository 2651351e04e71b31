"""Bytes on the wire: as they are, or as a zstd frame where that is smaller.

The receiver knows how many bytes it wants before it unpacks, so that no frame makes it allocate more.
Level 1 saves as much of such data as any higher one, and runs several times as fast as zlib.
"""

from __future__ import annotations

import msgspec
import zstandard

from firmware_profiles.errors import PeerError

LEVEL = 1


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes.

    Attributes:
        data: the bytes, or a zstd frame of them.
        is_zstd: which of the two.
    """

    data: bytes
    is_zstd: bool = False


def shrink(data: bytes) -> Stream:
    """The smaller of the two forms."""
    frame = zstandard.ZstdCompressor(LEVEL).compress(data)
    return Stream(data=frame, is_zstd=True) if len(frame) < len(data) else Stream(data=data)


def num_bytes(stream: Stream, what: str) -> int:
    """Bytes that `restore` would return, without unpacking them.

    Raises:
        PeerError: it is no zstd frame, or one that does not say.
    """
    if not stream.is_zstd:
        return len(stream.data)
    try:
        size = zstandard.frame_content_size(stream.data)
    except zstandard.ZstdError as error:
        raise PeerError(f"the {what} of a compressed update are no zstd frame: {error}") from error
    if size < 0:
        raise PeerError(f"the {what} of a compressed update are a zstd frame that does not say its size")
    return size


def restore(stream: Stream, expected_bytes: int, what: str) -> bytes:
    """The bytes; never more than expected are allocated.

    Args:
        stream: from `shrink`, or from anywhere.
        expected_bytes: how many they must be.
        what: their name in messages.

    Raises:
        PeerError: they are others in number, or the frame is damaged.
    """
    size = num_bytes(stream, what)
    if size != expected_bytes:
        raise PeerError(f"the {what} of a compressed update have {size} bytes, {expected_bytes} are expected")
    if not stream.is_zstd:
        return stream.data
    reader = zstandard.ZstdDecompressor()
    try:
        data = reader.decompress(stream.data, max_output_size=max(1, size), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PeerError(f"the {what} of a compressed update are a damaged zstd frame: {error}") from error
    if len(data) != size:
        raise PeerError(f"the {what} of a compressed update unpack to {len(data)} bytes, not {size}")
    return data
