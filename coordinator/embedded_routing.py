"""Which message of the embedded broker goes into whose mailbox, and which are retained. No I/O here."""

from __future__ import annotations

import logging

from coordinator.embedded_mailbox import Limits, Mailbox, Message, Meter
from coordinator.subscriptions import Subscriptions, is_filter
from device_agent.wire.topics import matches

logger = logging.getLogger(__name__)

HIGHEST_QOS = 1
"""What we deliver at: nothing of ours uses QoS 2, and our own acknowledgements end to end do more."""


class Routing:
    """The mailboxes, filters and retained messages of one broker."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._filters = Subscriptions()
        self._mailboxes: dict[str, Mailbox] = {}
        self._retained: dict[str, Message] = {}
        self._retained_bytes = 0
        self._meter = Meter()

    @property
    def queued_bytes(self) -> int:
        """Size of all that waits or is unacknowledged."""
        return self._meter.used_bytes

    def mailbox(self, client: str) -> Mailbox:
        """The mailbox of a client, made at its first visit."""
        return self._mailboxes.setdefault(client, Mailbox(self._limits, self._meter))

    def forget(self, client: str) -> None:
        """End a client's session: its filters and its mail are gone."""
        self._filters.remove_all(client)
        mailbox = self._mailboxes.pop(client, None)
        if mailbox is not None:
            mailbox.clear()

    def subscribe(self, client: str, pattern: str, qos: int) -> int | None:
        """Subscribe and return the granted QoS, or None where the filter is refused."""
        held = self._filters.of(client)
        if not is_filter(pattern) or (pattern not in held and len(held) >= self._limits.subscriptions):
            return None
        granted = min(qos, HIGHEST_QOS)
        self._filters.add(client, pattern, granted)
        return granted

    def unsubscribe(self, client: str, pattern: str) -> None:
        """End a subscription."""
        self._filters.remove(client, pattern)

    def route(self, topic: str, message: Message) -> None:
        """Give a message to everybody who subscribed, once each, and keep it where it is to be retained."""
        if message.retain:
            self._retain(topic, message)
        for client, granted in self._filters.matching(topic).items():
            qos = min(granted, message.qos)
            if qos or self._mailboxes[client].connected:
                self._deliver(client, Message(message.topic, message.payload, qos))

    def greet(self, client: str, pattern: str, granted: int) -> None:
        """Give a new subscription the retained messages it asked for, and no others."""
        for topic, kept in self._retained.items():
            if matches(pattern, topic):
                self._deliver(client, Message(kept.topic, kept.payload, min(granted, kept.qos), retain=True))

    def _deliver(self, client: str, message: Message) -> None:
        mailbox = self._mailboxes[client]
        if not mailbox.put(message) and mailbox.dropped & (mailbox.dropped - 1) == 0:  # at 1, 2, 4, 8 …
            logger.warning("%s is too slow or away: %d messages dropped so far", client, mailbox.dropped)

    def _retain(self, topic: str, message: Message) -> None:
        older = self._retained.pop(topic, None)
        if older is not None:
            self._retained_bytes -= older.size_bytes
        if not message.payload:
            return
        if (
            len(self._retained) >= self._limits.retained_messages
            or self._retained_bytes + message.size_bytes > self._limits.retained_bytes
        ):
            logger.warning("message on %s not retained: the broker's limit is reached", topic)
            return
        self._retained_bytes += message.size_bytes
        self._retained[topic] = message
