"""What devices tell each other of prototypes, in as few bytes as will do.

A message of one prototype of six features and two classes is 18 bytes of content: the envelope of the other
machines' messages, with the names of its fields, would be ten times that. So these are MessagePack arrays,
and the topic says who sends. They go at quality of service 0, to one neighbour or to all at once; losing one
harms nobody, and one that comes twice is known by its boot epoch and sequence.
"""

from __future__ import annotations

import zlib
from typing import Annotated

import msgspec
from msgspec import Meta

from device_agent.wire.codec import MAX_MESSAGE_BYTES
from device_agent.wire.messages import Count
from firmware_profiles.errors import PeerError

SCHEMA_VERSION = 1
MAX_BYTES = MAX_MESSAGE_BYTES - 256
"""Of the prototypes in one whisper; larger sets are neither told nor read."""

Version = Annotated[int, Meta(ge=0, lt=2**48)]
RunMark = Annotated[int, Meta(ge=0, lt=2**32)]


class News(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Prototypes that are new; what was told before stays.

    Attributes:
        packed: `models.prototypes.packing`.
    """

    packed: Annotated[bytes, Meta(max_length=MAX_BYTES)]


class Whole(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The sender's prototypes, in place of all that it told before.

    Attributes:
        version: names them; a newer set has a higher one. packed: as in `News`.
    """

    version: Version
    packed: Annotated[bytes, Meta(max_length=MAX_BYTES)]


class Held(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The receiver of a `Whole` or a `Changed` has this version of the set of whom it tells so.

    Attributes:
        version: 0: none that the last `Changed` was for, so the whole is asked for.
    """

    version: Version


class Demand(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Whether the sender has a use for what the receiver tells. False: now and then will do."""

    wants: bool


class Changed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The sender's prototypes, by what changed since a set that the receiver said it has.

    Attributes:
        base: version of that set. version: as in `Whole`. packed: `models.prototypes.changes`.
    """

    base: Version
    version: Version
    packed: Annotated[bytes, Meta(max_length=MAX_BYTES)]


Said = News | Whole | Held | Demand | Changed


class Whisper(msgspec.Struct, frozen=True, array_like=True):
    """What they travel in.

    Attributes:
        schema: SCHEMA_VERSION of the sender. run: mark of the run, see `mark_of`.
        boot_epoch, sequence: name the message among the sender's.
        age_ms: of the content when it was sent, as the sender measured.
    """

    schema: int
    run: RunMark
    boot_epoch: Count
    sequence: Count
    age_ms: Count
    said: Said


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Whisper)


def mark_of(run: str) -> int:
    """Four bytes that tell a run's whispers from those of the run before; no secret."""
    return zlib.crc32(run.encode())


def encode_whisper(whisper: Whisper) -> bytes:
    """The bytes of a whisper."""
    return _ENCODER.encode(whisper)


def decode_whisper(payload: bytes, topic: str) -> Whisper:
    """Read what came on a topic.

    Raises:
        PeerError: it is no whisper, or of another version; the message names the topic.
    """
    try:
        whisper = _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise PeerError(f"{topic}: {len(payload)} bytes are no message of prototypes: {error}") from error
    if whisper.schema != SCHEMA_VERSION:
        raise PeerError(
            f"{topic}: prototypes come in version {whisper.schema} of the protocol, known is "
            f"{SCHEMA_VERSION}: run the same edgetide everywhere"
        )
    return whisper
