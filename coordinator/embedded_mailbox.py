"""What the embedded broker keeps for one client: messages that wait, and messages not yet acknowledged.

Memory is bounded: a message over a limit is dropped and counted, the oldest are kept, as mosquitto does.
What must not be lost has an application-level acknowledgement and an outbox.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

_OVERHEAD_BYTES = 256
"""Counted for each message beside topic and payload, so that many tiny messages are bounded too."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one embedded broker may hold.

    Attributes:
        packet_bytes: the largest packet; a larger one ends the connection before its body is read.
        queued_messages: waiting or unacknowledged messages of one client.
        queued_bytes: their size, of one client.
        all_queued_bytes: their size, of all clients together.
        inflight_messages: unacknowledged messages of one client.
        retained_messages: topics with a retained message.
        retained_bytes: their size together.
        connections: open connections.
        sessions: clients that are remembered.
        subscriptions: filters of one client.
        session_expiry_s: seconds after which a client that stays away is forgotten.
        connect_s: seconds a new connection has to say who it is.
    """

    packet_bytes: int = 262_144
    queued_messages: int = 20_000
    queued_bytes: int = 64 * 2**20
    all_queued_bytes: int = 256 * 2**20
    inflight_messages: int = 20
    retained_messages: int = 20_000
    retained_bytes: int = 32 * 2**20
    connections: int = 5_000
    sessions: int = 10_000
    subscriptions: int = 256
    session_expiry_s: int = 7 * 86_400
    connect_s: float = 10.0


@dataclass(frozen=True)
class Message:
    """One message on its way to one client."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool = False

    @property
    def size_bytes(self) -> int:
        """What it is counted as."""
        return len(self.topic) + len(self.payload) + _OVERHEAD_BYTES


@dataclass
class Meter:
    """Bytes queued for all clients together."""

    used_bytes: int = 0


@dataclass
class Mailbox:
    """The outgoing half of one client's session; it outlives the connection.

    Attributes:
        inflight: packet id -> message sent with QoS 1 and not yet acknowledged, in order of sending.
        seen: packet ids of QoS 2 messages received and not yet released by the client.
        dropped: messages lost to a limit.
        connected: whether the client is there now; QoS 0 does not wait for it.
        wake: set when there may be something to send.
    """

    limits: Limits
    meter: Meter
    pending: deque[Message] = field(default_factory=deque)
    inflight: OrderedDict[int, Message] = field(default_factory=OrderedDict)
    seen: set[int] = field(default_factory=set)
    dropped: int = 0
    connected: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _held_bytes: int = 0
    _last_id: int = 0

    def put(self, message: Message) -> bool:
        """Queue a message; False says that a limit did not allow it."""
        size = message.size_bytes
        if (
            len(self.pending) + len(self.inflight) >= self.limits.queued_messages
            or self._held_bytes + size > self.limits.queued_bytes
            or self.meter.used_bytes + size > self.limits.all_queued_bytes
        ):
            self.dropped += 1
            return False
        self._held_bytes += size
        self.meter.used_bytes += size
        self.pending.append(message)
        self.wake.set()
        return True

    def take(self) -> tuple[Message, int] | None:
        """The next message that may be sent now with its packet id (0 at QoS 0), or None."""
        if not self.pending:
            return None
        if self.pending[0].qos == 0:
            message = self.pending.popleft()
            self._release(message)
            return message, 0
        if len(self.inflight) >= self.limits.inflight_messages:
            return None
        message = self.pending.popleft()
        self._last_id = self._last_id % 65_535 + 1
        while self._last_id in self.inflight:
            self._last_id = self._last_id % 65_535 + 1
        self.inflight[self._last_id] = message
        return message, self._last_id

    def acknowledged(self, packet_id: int) -> None:
        """The client has a message. An id that is not in flight is a repeat and means nothing."""
        message = self.inflight.pop(packet_id, None)
        if message is not None:
            self._release(message)
            self.wake.set()

    def disconnected(self) -> None:
        """The connection is gone, and with it the QoS 0 messages that waited for it."""
        self.connected = False
        for message in self.pending:
            if message.qos == 0:
                self._release(message)
        self.pending = deque(message for message in self.pending if message.qos)

    def clear(self) -> None:
        """Drop everything: the session has ended."""
        self.pending.clear()
        self.inflight.clear()
        self.seen.clear()
        self.meter.used_bytes -= self._held_bytes
        self._held_bytes = 0

    def _release(self, message: Message) -> None:
        self._held_bytes -= message.size_bytes
        self.meter.used_bytes -= message.size_bytes


def encode_publish(message: Message, packet_id: int, *, dup: bool = False) -> bytes:
    """The bytes of a PUBLISH packet."""
    flags = 0x30 | (0x08 if dup else 0) | (message.qos << 1) | (1 if message.retain else 0)
    head = len(message.topic).to_bytes(2, "big") + message.topic
    if message.qos:
        head += packet_id.to_bytes(2, "big")
    return bytes([flags]) + encode_length(len(head) + len(message.payload)) + head + message.payload


def decode_publish(flags: int, body: bytes) -> tuple[Message, int]:
    """The message of a PUBLISH packet's flags and body, and its packet id (0 at QoS 0).

    Raises:
        ValueError: it is malformed.
    """
    qos = flags >> 1 & 3
    topic_length = int.from_bytes(body[:2], "big")
    at = 2 + topic_length + (2 if qos else 0)
    packet_id = int.from_bytes(body[at - 2 : at], "big") if qos else 0
    if qos == 3 or len(body) < at or (qos and not packet_id):
        raise ValueError("a PUBLISH is malformed")
    return Message(body[2 : 2 + topic_length], body[at:], qos, bool(flags & 1)), packet_id


def encode_length(length: int) -> bytes:
    """A packet's remaining length, seven bits a byte."""
    encoded = bytearray()
    while True:
        length, digit = length >> 7, length & 0x7F
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)
