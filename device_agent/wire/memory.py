"""A broker and a bus in memory, for tests and the simulator: no threads, no clock, no chance of its own.

A `Network` says for each delivery when its copies arrive, so one function drops, duplicates, delays
and reorders. Time is a number that only `run_until` moves.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from device_agent.wire.bus import Receive
from device_agent.wire.outgoing import Message
from device_agent.wire.topics import matches

_log = logging.getLogger(__name__)

Will = tuple[str, bytes]
"""(topic, payload), published retained when a connection breaks without goodbye."""


@dataclass(frozen=True)
class Delivery:
    """One message on its way to one subscriber.

    Attributes:
        sent_s: the broker's time when it was sent.
        publication: number of the `publish` that caused it, None for a retained message the broker had.
    """

    sender: str
    receiver: str
    topic: str
    payload: bytes
    qos: int
    sent_s: float = 0.0
    publication: int | None = None


Network = Callable[[Delivery], tuple[float, ...]]
"""Delays in seconds after which the copies of a delivery arrive; () loses it, (0.0,) is a perfect network."""


def perfect_network(_delivery: Delivery) -> tuple[float, ...]:
    """Deliver everything once, at once."""
    return (0.0,)


def faulty_network(
    rng: random.Random,
    *,
    drop_fraction: float = 0.0,
    duplicate_fraction: float = 0.0,
    max_delay_s: float = 0.0,
) -> Network:
    """Return a network that loses, repeats, delays and so reorders deliveries, as `rng` decides."""

    def network(_delivery: Delivery) -> tuple[float, ...]:
        if rng.random() < drop_fraction:
            return ()
        num_copies = 2 if rng.random() < duplicate_fraction else 1
        return tuple(rng.uniform(0.0, max_delay_s) for _ in range(num_copies))

    return network


class _Flight(NamedTuple):
    """A copy under way; sorted by due time, then by order of sending."""

    due_s: float
    number: int
    bus: MemoryBus
    session: int
    receive: Receive
    delivery: Delivery


class MemoryBroker:
    """Carries messages between its buses.

    Args:
        network: what happens to each delivery.
        direct: deliver within `publish`, without waiting for `run_until_idle`; what a receiver
            publishes in turn is delivered after it returned, never inside it.

    Attributes:
        now_s: virtual time, moved by `run_until` and `run_until_idle`.
        num_delivered, num_lost: deliveries so far.
    """

    def __init__(self, *, network: Network = perfect_network, direct: bool = False) -> None:
        self.now_s = 0.0
        self.num_delivered = 0
        self.num_lost = 0
        self._network = network
        self._direct = direct
        self._delivering = False
        self._buses: dict[str, MemoryBus] = {}
        self._receivers: dict[str, list[tuple[MemoryBus, Receive]]] = {}
        self._retained: dict[str, tuple[str, Message]] = {}
        self._waiting: dict[str, MemoryBus] = {}
        self._num_crashes = 0
        self._queue: list[_Flight] = []
        self._num_queued = 0
        self._num_published = 0

    def connect(
        self,
        client_id: str,
        *,
        will: Will | None = None,
        on_connect: Callable[[], None] | None = None,
        on_disconnect: Callable[[str], None] | None = None,
        at_once: bool = True,
    ) -> MemoryBus:
        """Return a bus, connected if `at_once`; else `reconnect` connects it.

        As in MQTT, an older connection of the same client id is broken.
        """
        bus = MemoryBus(self, client_id, will, on_connect, on_disconnect)
        if at_once:
            bus.reconnect()
        return bus

    def next_due_s(self) -> float | None:
        """Return when the next delivery is due, None if there is none."""
        return self._queue[0].due_s if self._queue else None

    def run_until(self, until_s: float, *, max_deliveries: int = 1_000_000) -> int:
        """Deliver what is due until then, also what is published meanwhile; return how many.

        Raises:
            RuntimeError: the receivers keep each other busy for ever.
        """
        count = 0
        while self._queue and self._queue[0].due_s <= until_s:
            if count >= max_deliveries:
                raise RuntimeError(
                    f"more than {max_deliveries} deliveries: do two receivers answer each other?"
                )
            flight = heappop(self._queue)
            self.now_s = max(self.now_s, flight.due_s)
            self._deliver(flight)
            count += 1
        if math.isfinite(until_s):
            self.now_s = max(self.now_s, until_s)
        return count

    def run_until_idle(self, *, max_deliveries: int = 1_000_000) -> int:
        """Deliver until nothing is under way, however late it is due; return how many.

        Raises:
            RuntimeError: the receivers keep each other busy for ever.
        """
        return self.run_until(math.inf, max_deliveries=max_deliveries)

    def crash(self) -> None:
        """Break every connection without a will, and forget what was retained, as a killed broker does.

        Who was connected, or tries to meanwhile, is connected when as many `restart` have come.
        """
        self._num_crashes += 1
        for bus in list(self._buses.values()):
            bus._disconnect(None, "the broker is gone")  # noqa: SLF001 - ours
            self._waiting[bus.client_id] = bus
        self._retained.clear()

    def restart(self) -> None:
        """One reason for being down is gone."""
        self._num_crashes -= 1
        if self._num_crashes == 0:
            waiting, self._waiting = self._waiting, {}
            for bus in waiting.values():
                bus.reconnect()

    def retained(self, topic: str) -> bytes | None:
        """Return the retained message of a topic."""
        kept = self._retained.get(topic)
        return kept[1].payload if kept else None

    def _attach(self, bus: MemoryBus) -> bool:
        """Whether it is connected now; else as soon as the broker is there again."""
        if self._num_crashes:
            self._waiting[bus.client_id] = bus
            return False
        older = self._buses.get(bus.client_id)
        if older is not None and older is not bus:
            older.lose_connection("another connection took over the client id")
        self._buses[bus.client_id] = bus
        self._receivers.clear()
        return True

    def _wait_no_more(self, bus: MemoryBus) -> None:
        if self._waiting.get(bus.client_id) is bus:
            del self._waiting[bus.client_id]

    def _detach(self, bus: MemoryBus, will: Will | None) -> None:
        if self._buses.get(bus.client_id) is bus:
            del self._buses[bus.client_id]
            self._receivers.clear()
        if will is not None:
            self._publish(bus.client_id, Message(*will, retain=True))

    def _publish(self, sender: str, message: Message) -> None:
        if message.retain and message.payload:
            self._retained[message.topic] = (sender, message)
        elif message.retain:
            self._retained.pop(message.topic, None)
        self._num_published += 1
        for bus, receive in self._receivers_of(message.topic):
            self._enqueue(bus, receive, sender, message, self._num_published)
        self._flush_if_direct()

    def _receivers_of(self, topic: str) -> list[tuple[MemoryBus, Receive]]:
        """Who gets a topic, kept until connections or subscriptions change: fleets have thousands of them."""
        found = self._receivers.get(topic)
        if found is None:
            found = [
                (bus, receive)
                for bus in self._buses.values()
                for pattern, receive in bus.subscriptions
                if _fits(pattern, topic)
            ]
            self._receivers[topic] = found
        return found

    def _offer_retained(self, bus: MemoryBus, pattern: str, receive: Receive) -> None:
        self._receivers.clear()
        for sender, message in self._retained.values():
            if _fits(pattern, message.topic):
                self._enqueue(bus, receive, sender, message)
        self._flush_if_direct()

    def _enqueue(
        self,
        bus: MemoryBus,
        receive: Receive,
        sender: str,
        message: Message,
        publication: int | None = None,
    ) -> None:
        delivery = Delivery(
            sender, bus.client_id, message.topic, message.payload, message.qos, self.now_s, publication
        )
        delays_s = self._network(delivery)
        self.num_lost += not delays_s
        for delay_s in delays_s:
            self._num_queued += 1
            flight = _Flight(self.now_s + delay_s, self._num_queued, bus, bus.session, receive, delivery)
            heappush(self._queue, flight)

    def _flush_if_direct(self) -> None:
        if not self._direct or self._delivering:
            return
        self._delivering = True
        try:
            self.run_until(self.now_s)
        finally:
            self._delivering = False

    def _deliver(self, flight: _Flight) -> None:
        if not flight.bus.connected or flight.bus.session != flight.session:
            self.num_lost += 1
            return
        self.num_delivered += 1
        try:
            flight.receive(flight.delivery.topic, flight.delivery.payload)
        except Exception:  # noqa: BLE001 - a receiver must not raise; if it does, the others still get theirs
            _log.exception("receiver failed on %s", flight.delivery.topic)


def _fits(pattern: str, topic: str) -> bool:
    # Most subscriptions name one topic: in a large fleet comparing them level by level is what takes time.
    return pattern == topic or (("+" in pattern or "#" in pattern) and matches(pattern, topic))


class MemoryBus:
    """One client's connection to a MemoryBroker; made by `MemoryBroker.connect`.

    Attributes:
        client_id: names the client at the broker.
        connected: whether messages flow; while they don't, what is published is lost and counted.
        session: counts the connections; sessions are clean, what was under way to an older one is lost.
        num_dropped: messages published while not connected.
        subscriptions: (filter, receiver), kept across reconnects.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        will: Will | None,
        on_connect: Callable[[], None] | None,
        on_disconnect: Callable[[str], None] | None,
    ) -> None:
        self.client_id = client_id
        self.connected = False
        self.session = 0
        self.num_dropped = 0
        self.subscriptions: list[tuple[str, Receive]] = []
        self._broker = broker
        self._will = will
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Send a payload.

        Raises:
            ValueError: the payload is larger than MAX_MESSAGE_BYTES or the topic is a filter.
        """
        message = Message(topic, payload, qos=qos, retain=retain)
        if self.connected:
            self._broker._publish(self.client_id, message)  # noqa: SLF001 - its broker
        else:
            self.num_dropped += 1

    def subscribe(self, pattern: str, receive: Receive) -> None:
        """Have `receive` called for each matching message, retained ones first, across reconnects."""
        self.subscriptions.append((pattern, receive))
        if self.connected:
            self._broker._offer_retained(self, pattern, receive)  # noqa: SLF001 - its broker

    def close(self) -> None:
        """Say goodbye: the will is not published. Closing twice is harmless."""
        self._disconnect(None, "closed")

    def lose_connection(self, reason: str = "connection lost") -> None:
        """Break the connection, as a killed process or a dead link does: the broker publishes the will."""
        self._disconnect(self._will, reason)

    def reconnect(self) -> None:
        """Come back after `lose_connection`: subscriptions hold, retained messages arrive again."""
        if self.connected or not self._broker._attach(self):  # noqa: SLF001 - its broker
            return
        self.connected = True
        self.session += 1
        for pattern, receive in list(self.subscriptions):
            self._broker._offer_retained(self, pattern, receive)  # noqa: SLF001 - its broker
        if self._on_connect is not None:
            self._on_connect()

    def _disconnect(self, will: Will | None, reason: str) -> None:
        if not self.connected:
            self._broker._wait_no_more(self)  # noqa: SLF001 - its broker
            return
        self.connected = False
        self._broker._detach(self, will)  # noqa: SLF001 - its broker
        if self._on_disconnect is not None:
            self._on_disconnect(reason)
