"""Bytes to messages and back; everything that comes from a peer is checked here, once.

`decode*` raise PeerError and nothing else, whatever the bytes. `encode*` raise ValueError where our
own code made a message that no peer would accept, so what was encoded can always be decoded.
Unknown fields of a newer peer are ignored; unknown message types and schema versions are refused.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from device_agent.wire.messages import (
    SCHEMA_VERSION,
    BlobRef,
    Count,
    Envelope,
    Hello,
    Id,
    Run,
    Status,
    Telemetry,
    Tensor,
    Tensors,
    Update,
)
from device_agent.wire.topics import COORDINATOR, parse_topic
from firmware_profiles.errors import PeerError

MAX_MESSAGE_BYTES = 192 * 1024
"""The largest machine message. Larger content goes in chunks; brokers in the field take 1 MB or less."""

MAX_PUBLIC_BYTES = 64 * 1024
"""The largest JSON message."""

INLINE_BYTES = 64 * 1024
"""The largest content that travels inside a message; an order with two of it stays under the limit."""

MAX_TENSORS = 65_536
"""Tensors in one blob."""

MAX_ELEMENTS = 2**31 - 1
"""Elements of one tensor, and size of one dimension."""

ITEM_BYTES = {"float32": 4, "float16": 2, "int64": 8, "int8": 1}
"""The dtypes of the wire and the bytes of one element."""

_Public = TypeVar("_Public", bound="Status | Hello | Telemetry | Run")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class _Head(msgspec.Struct):
    """What is looked at before the body, so that a forged or foreign message costs little."""

    schema: Count
    sender: Id


_head_decoder = msgspec.msgpack.Decoder(_Head)
_envelope_decoder = msgspec.msgpack.Decoder(Envelope)
_tensors_decoder = msgspec.msgpack.Decoder(Tensors)
_public_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Status, Hello, Telemetry, Run)
}

# ---------------------------------------------------------------- machines' topics


def encode(envelope: Envelope) -> bytes:
    """Return the MessagePack bytes of an envelope.

    Raises:
        ValueError: a field is out of range or not finite, inline content contradicts its digest, or
            the message is larger than MAX_MESSAGE_BYTES. The caller built it wrong.
    """
    payload = msgspec.msgpack.encode(envelope)
    try:
        _decode_envelope(payload)
    except PeerError as error:
        raise ValueError(f"a peer would refuse this {type(envelope.body).__name__}: {error}") from error
    return payload


def decode(payload: bytes, topic: str) -> Envelope:
    """Return the checked envelope that arrived on a topic.

    Args:
        payload: MessagePack bytes, untrusted.
        topic: where it arrived; the broker vouches for who may write there.

    Raises:
        PeerError: anything about it cannot be trusted; the message says what.
    """
    envelope = _decode_envelope(payload)
    allowed = topic_sender(topic)
    if envelope.sender != allowed:
        raise PeerError(f"sender {envelope.sender!r} wrote on {topic!r}, where only {allowed!r} may")
    return envelope


def topic_sender(topic: str) -> str:
    """Return who may write on a topic: the coordinator on `<device>/down`, else the id in the topic.

    Raises:
        PeerError: it is not one of our topics.
    """
    _, owner, leaf = parse_topic(topic)
    return COORDINATOR if leaf == "down" or leaf.startswith("down/") else owner


def _decode_envelope(payload: bytes) -> Envelope:
    _check_size(payload, MAX_MESSAGE_BYTES, "message")
    head = _parse(_head_decoder, payload, "message head")
    if head.schema != SCHEMA_VERSION:
        raise PeerError(f"{head.sender!r} speaks schema {head.schema}, this side speaks {SCHEMA_VERSION}")
    envelope = _parse(_envelope_decoder, payload, "message")
    body = envelope.body
    _check_values(body, type(body).__name__.lower())
    if isinstance(body, Update) and max(body.step_vectors, default=-1) >= len(body.vectors):
        raise PeerError(f"update.step_vectors names vector {max(body.step_vectors)} of {len(body.vectors)}")
    return envelope


# ---------------------------------------------------------------- people's topics


def encode_public(message: Status | Hello | Telemetry | Run) -> bytes:
    """Return the JSON bytes of a people's message.

    Raises:
        ValueError: a field is out of range or not finite, or it is larger than MAX_PUBLIC_BYTES.
    """
    name = type(message).__name__
    try:
        _check_values(message, name.lower())  # first: JSON would turn NaN into null
        payload = msgspec.json.encode(message)
        _decode_public(payload, type(message), None)
    except PeerError as error:
        raise ValueError(f"a peer would refuse this {name}: {error}") from error
    return payload


def decode_status(payload: bytes) -> Status:
    """Return the checked Status.

    Raises:
        PeerError: it cannot be trusted. An empty payload (the retained message was cleared) is also one.
    """
    return _decode_public(payload, Status, None)


def decode_hello(payload: bytes, topic: str | None = None) -> Hello:
    """Return the checked Hello; with `topic`, its device must be the one that may write there.

    Raises:
        PeerError: it cannot be trusted.
    """
    return _decode_public(payload, Hello, topic)


def decode_telemetry(payload: bytes, topic: str | None = None) -> Telemetry:
    """Return the checked Telemetry; with `topic`, its device must be the one that may write there.

    Raises:
        PeerError: it cannot be trusted.
    """
    return _decode_public(payload, Telemetry, topic)


def decode_run(payload: bytes) -> Run:
    """Return the checked Run.

    Raises:
        PeerError: it cannot be trusted.
    """
    return _decode_public(payload, Run, None)


def _decode_public(payload: bytes, kind: type[_Public], topic: str | None) -> _Public:
    name = kind.__name__.lower()
    _check_size(payload, MAX_PUBLIC_BYTES, name)
    decoder: msgspec.json.Decoder[Any] = _public_decoders[kind]
    message: _Public = _parse(decoder, payload, name)
    _check_values(message, name)
    if (
        topic is not None
        and isinstance(message, (Hello, Telemetry))
        and message.device != topic_sender(topic)
    ):
        raise PeerError(f"{name} on {topic!r} claims to come from {message.device!r}")
    return message


# ---------------------------------------------------------------- tensors


def encode_tensors(tensors: Tensors) -> bytes:
    """Return the MessagePack bytes of named tensors: the content of a weights or delta blob.

    Raises:
        ValueError: dtype, shape and data of a tensor disagree, or there are too many.
    """
    try:
        _check_tensors(tensors, None)
    except PeerError as error:
        raise ValueError(f"a peer would refuse these tensors: {error}") from error
    return msgspec.msgpack.encode(tensors)


def decode_tensors(blob: bytes, max_bytes: int) -> Tensors:
    """Return checked tensors. The values themselves may still be NaN: `models.weights` refuses that.

    Args:
        blob: MessagePack bytes, untrusted.
        max_bytes: the largest blob to accept.

    Raises:
        PeerError: it is too large or malformed, or dtype, shape and data of a tensor disagree.
    """
    _check_size(blob, max_bytes, "tensors")
    tensors = _parse(_tensors_decoder, blob, "tensors")
    _check_tensors(tensors, max_bytes)
    return tensors


def _check_tensors(tensors: Tensors, max_bytes: int | None) -> None:
    if len(tensors.tensors) > MAX_TENSORS:
        raise PeerError(f"{len(tensors.tensors)} tensors in one blob, {MAX_TENSORS} are allowed")
    total_bytes = 0
    for name, tensor in tensors.tensors.items():
        if not 0 < len(name) <= 256 or not name.isprintable():
            raise PeerError(f"tensor name {name[:80]!r} is not 1 to 256 printable characters")
        total_bytes += _num_bytes(name, tensor)
    if max_bytes is not None and total_bytes > max_bytes:
        raise PeerError(f"tensors hold {total_bytes} bytes, {max_bytes} are allowed")


def _num_bytes(name: str, tensor: Tensor) -> int:
    item_bytes = ITEM_BYTES.get(tensor.dtype)
    if item_bytes is None:
        raise PeerError(f"tensor {name!r} has dtype {tensor.dtype!r}, known are {', '.join(ITEM_BYTES)}")
    if len(tensor.shape) > 8 or any(not 0 <= size <= MAX_ELEMENTS for size in tensor.shape):
        raise PeerError(
            f"tensor {name!r} has shape {tensor.shape}: at most 8 dimensions of at most {MAX_ELEMENTS}"
        )
    # A zero beside a huge dimension would pass the length check and overflow in the array library.
    if math.prod(max(size, 1) for size in tensor.shape) > MAX_ELEMENTS:
        raise PeerError(f"tensor {name!r} of shape {tensor.shape} has more than {MAX_ELEMENTS} elements")
    num_bytes = math.prod(tensor.shape) * item_bytes
    if num_bytes != len(tensor.data):
        need = f"{tensor.dtype}{list(tensor.shape)} needs {num_bytes} bytes"
        raise PeerError(f"tensor {name!r}: {need}, not {len(tensor.data)}")
    return num_bytes


# ---------------------------------------------------------------- content by digest


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of content, in lower-case hex: its name on the wire."""
    return sha256(data).hexdigest()


def refer(data: bytes, *, inline_bytes: int = INLINE_BYTES) -> BlobRef:
    """Return a reference to content; content of at most `inline_bytes` travels inside it."""
    return BlobRef(
        digest=digest_of(data), size_bytes=len(data), data=data if len(data) <= inline_bytes else None
    )


# ---------------------------------------------------------------- checks


def _check_size(payload: bytes, max_bytes: int, what: str) -> None:
    if len(payload) > max_bytes:
        raise PeerError(f"{what} of {len(payload)} bytes is larger than {max_bytes}")
    if not payload:
        raise PeerError(f"{what} is empty")


def _parse(
    decoder: msgspec.msgpack.Decoder[_Struct] | msgspec.json.Decoder[_Struct], payload: bytes, what: str
) -> _Struct:
    try:
        return decoder.decode(payload)
    except RecursionError as error:
        raise PeerError(f"{what} is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:  # ValueError: text that is not UTF-8
        raise PeerError(f"{what} is malformed: {str(error)[:200]}") from error


def _check_values(struct: msgspec.Struct, where: str) -> None:
    """Refuse what the type system lets pass: NaN, infinity, inline content that is not what it says."""
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise PeerError(f"{where}.{name} is {value}")
        if isinstance(value, BlobRef) and value.data is not None:
            if len(value.data) != value.size_bytes:
                raise PeerError(f"{where}.{name} says {value.size_bytes} bytes and holds {len(value.data)}")
            if digest_of(value.data) != value.digest:
                raise PeerError(f"{where}.{name} does not have the SHA-256 it claims, {value.digest}")
