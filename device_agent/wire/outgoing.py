"""What waits to leave on one MQTT connection: bounded, fair to small messages, rid of poison.

paho would keep an unbounded queue in memory, and resend for ever a message that makes the broker
close the connection. This queue has no socket, thread or clock; `mqtt_connection` drives it.

The window of messages in flight shrinks to one when a connection is lost and doubles with each
acknowledgement. So a poisonous message is soon alone in flight when the connection breaks, and after
MAX_STRIKES of that it is dropped and counted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from device_agent.wire.codec import MAX_MESSAGE_BYTES

MAX_STRIKES = 3
"""Connections that may break while a message is alone in flight before it is taken for their cause."""

_OVERHEAD_BYTES = 200  # of one queued message in memory, beside topic and payload


@dataclass(frozen=True)
class Message:
    """One message to publish.

    Raises:
        ValueError: the payload is larger than MAX_MESSAGE_BYTES, the topic is empty or a filter, or
            the QoS is not 0 or 1. The caller built it wrong.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False

    def __post_init__(self) -> None:
        if len(self.payload) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"{len(self.payload)} bytes for {self.topic!r}: the limit is {MAX_MESSAGE_BYTES}, use chunks"
            )
        if not self.topic or any(character in self.topic for character in "+#\0"):
            raise ValueError(f"{self.topic!r} is not a topic to publish on")
        if self.qos not in (0, 1):
            raise ValueError(
                f"QoS {self.qos} is not used here: 0 may be lost, 1 is repeated until acknowledged"
            )

    @property
    def num_bytes(self) -> int:
        """Memory it takes while it waits."""
        return len(self.topic) + len(self.payload) + _OVERHEAD_BYTES


@dataclass
class _Entry:
    message: Message
    strikes: int = 0


@dataclass
class Counters:
    """What happened to messages since the start.

    Attributes:
        num_sent: left completely (QoS 0) or were acknowledged by the broker (QoS 1).
        num_dropped_offline: QoS 0, published without a connection or lost with it.
        num_dropped_full: the queue was full.
        num_dropped_refused: the broker said no, or closed the connection over them again and again.
    """

    num_sent: int = 0
    num_dropped_offline: int = 0
    num_dropped_full: int = 0
    num_dropped_refused: int = 0


class Outgoing:
    """The queue of one connection. Not safe for threads: the caller holds a lock.

    Retained messages are state: the newest of a topic replaces a waiting older one, they leave
    first and are never refused, so a full queue cannot hide that a device is online.

    Args:
        max_messages: waiting and in flight.
        max_bytes: of these together.
        max_window: messages in flight, at most; the broker's ReceiveMaximum may lower it.
    """

    def __init__(self, *, max_messages: int = 1000, max_bytes: int = 8 * 2**20, max_window: int = 20) -> None:
        self.counters = Counters()
        self.max_window = max_window
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._window = max_window
        self._waiting: deque[_Entry] = deque()
        self._state: OrderedDict[str, _Entry] = OrderedDict()  # retained, by topic
        self._in_flight: OrderedDict[int, _Entry] = OrderedDict()  # by ticket
        self._num_bytes = 0
        self._num_taken = 0

    def __len__(self) -> int:
        """Messages waiting and in flight."""
        return len(self._waiting) + len(self._state) + len(self._in_flight)

    @property
    def num_bytes(self) -> int:
        """Memory of the messages waiting and in flight."""
        return self._num_bytes

    def offer(self, message: Message, *, connected: bool) -> bool:
        """Queue a message; False if it was dropped, and counted."""
        if message.retain:
            replaced = self._state.pop(message.topic, None)
            if replaced is not None:
                self._num_bytes -= replaced.message.num_bytes
            self._state[message.topic] = _Entry(message)
        elif message.qos == 0 and not connected:
            self.counters.num_dropped_offline += 1
            return False
        elif len(self) >= self._max_messages or self._num_bytes + message.num_bytes > self._max_bytes:
            self.counters.num_dropped_full += 1
            return False
        else:
            self._waiting.append(_Entry(message))
        self._num_bytes += message.num_bytes
        return True

    def take(self) -> tuple[int, Message] | None:
        """Take the next message into flight under a ticket; None if nothing waits or the window is full."""
        if len(self._in_flight) >= min(self._window, self.max_window) or not (self._state or self._waiting):
            return None
        entry = self._state.popitem(last=False)[1] if self._state else self._waiting.popleft()
        self._num_taken += 1
        self._in_flight[self._num_taken] = entry
        return self._num_taken, entry.message

    def acknowledged(self, ticket: int) -> None:
        """Note that the broker has it (QoS 1) or that it left (QoS 0)."""
        self._num_bytes -= self._in_flight.pop(ticket).message.num_bytes
        self.counters.num_sent += 1
        self._window = min(self._window * 2, self.max_window)

    def refused(self, ticket: int) -> Message:
        """Drop and return a message that the broker will not take."""
        message = self._in_flight.pop(ticket).message
        self._num_bytes -= message.num_bytes
        self.counters.num_dropped_refused += 1
        return message

    def connection_lost(self, *, by_broker: bool) -> list[Message]:
        """Put back what was in flight, in order, and start again carefully.

        Args:
            by_broker: the broker closed it. A dead link is nobody's fault and gives no strike.

        Returns:
            Messages dropped because the broker closed too many connections over them.
        """
        entries = list(self._in_flight.values())
        self._in_flight.clear()
        self._window = 1
        poison: list[Message] = []
        if by_broker and len(entries) == 1 and entries[0].message.qos > 0:
            entries[0].strikes += 1
            if entries[0].strikes >= MAX_STRIKES:
                poison = [entries.pop().message]
                self._num_bytes -= poison[0].num_bytes
                self.counters.num_dropped_refused += 1
        for entry in reversed(entries):
            self._put_back(entry)
        stale = [entry for entry in self._waiting if entry.message.qos == 0]
        self._waiting = deque(entry for entry in self._waiting if entry.message.qos > 0)
        for entry in stale:
            self._lose(entry)
        return poison

    def _put_back(self, entry: _Entry) -> None:
        if entry.message.qos == 0 or (entry.message.retain and entry.message.topic in self._state):
            self._lose(entry)  # old telemetry, or a newer state of the topic waits already
        elif entry.message.retain:
            self._state[entry.message.topic] = entry
            self._state.move_to_end(entry.message.topic, last=False)
        else:
            self._waiting.appendleft(entry)

    def _lose(self, entry: _Entry) -> None:
        self._num_bytes -= entry.message.num_bytes
        self.counters.num_dropped_offline += entry.message.qos == 0
