"""The modelled network: each device's link to the broker, as a `Network` of the in-memory broker.

A link carries one message after another in each direction: a message waits until those before it
have left, takes its bits over the bandwidth, and arrives a latency later. Within one connection
order holds, as MQTT runs over TCP; bulk topics have a connection of their own, so small messages
overtake bulk ones on the way, not in the queue of the link. The coordinator sits beside the broker.

What is lost on the way: TCP sends it again, so QoS 1 only comes later, each try after twice the last
one's timeout (RFC 6298, the first after 1 s), and holds up what comes behind it. QoS 0 stands for what
nobody sends again, and is gone. An outage is a lost connection and the simulator's to make. What a
scenario's `faults` say of pairs comes last: what one pair holds back does not hold up the others.

All chance comes from one seed; each link has a generator of its own, so that one device more changes
nothing for the others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.twins.groups import Link
from coordinator.twins.pair_links import FIRST_TIMEOUT_S, MAX_TIMEOUT_S, PairLinks
from device_agent.wire.memory import Delivery

HEADER_BYTES = 60
"""Of one message besides topic and payload: MQTT, TCP and IP headers."""


@dataclass
class _Direction:
    """One direction of one link.

    Attributes:
        free_at_s: when the last message has left. arrived_s: when the last one of each connection arrives.
    """

    bits_per_s: float | None
    free_at_s: float = 0.0
    arrived_s: dict[bool, float] = field(default_factory=dict)


class _LinkState:
    def __init__(self, link: Link, rng: random.Random) -> None:
        self.link, self.rng = link, rng
        self.up = _Direction(None if link.up_kbit_s is None else link.up_kbit_s * 1000)
        self.down = _Direction(None if link.down_kbit_s is None else link.down_kbit_s * 1000)

    def carry(self, way: _Direction, delivery: Delivery, now_s: float) -> float | None:
        """When a message handed over now arrives at the other end, None if it is lost."""
        link, rng = self.link, self.rng
        num_bits = 8 * (len(delivery.payload) + len(delivery.topic) + HEADER_BYTES)
        taken_s = 0.0 if way.bits_per_s is None else num_bits / way.bits_per_s
        way.free_at_s = max(now_s, way.free_at_s) + taken_s
        delay_s = (link.latency_ms + link.jitter_ms * rng.random()) / 1000
        timeout_s = FIRST_TIMEOUT_S
        while rng.random() < link.loss_fraction:
            if delivery.qos == 0:
                return None
            way.free_at_s += taken_s
            delay_s += timeout_s
            timeout_s = min(2 * timeout_s, MAX_TIMEOUT_S)
        bulk = delivery.topic.endswith("/bulk")
        way.arrived_s[bulk] = max(way.free_at_s + delay_s, way.arrived_s.get(bulk, 0.0))
        return way.arrived_s[bulk]


class LinkNetwork:
    """Delays of deliveries; give it to `MemoryBroker` as its network and `now_s` as its clock.

    Args:
        links: of the devices, by id; who is not among them sits beside the broker.
        seed: of losses and jitter.
        pairs: what happens between one and another besides; None: nothing.
    """

    def __init__(self, links: Mapping[str, Link], seed: str, pairs: PairLinks | None = None) -> None:
        self._links = {
            device: _LinkState(link, random.Random(f"{seed}/link/{device}")) for device, link in links.items()
        }
        self._pairs = pairs
        self._upload: tuple[int | None, float | None] = (None, None)

    def __call__(self, delivery: Delivery) -> tuple[float, ...]:
        """Say after how many seconds a delivery arrives; () if it is lost."""
        at_broker_s = self._at_broker_s(delivery)
        there_s = None if at_broker_s is None else self.down(delivery, at_broker_s)
        if there_s is not None and delivery.publication is not None:
            there_s = self.between(delivery, there_s)
        return () if there_s is None else (there_s - delivery.sent_s,)

    def up(self, delivery: Delivery) -> float | None:
        """When a message is at the broker, seconds; None if it is lost on its sender's link."""
        sender = self._links.get(delivery.sender)
        return delivery.sent_s if sender is None else sender.carry(sender.up, delivery, delivery.sent_s)

    def between(self, delivery: Delivery, at_s: float) -> float | None:
        """When a message that came down a link has passed the faults of its pair; None if it is lost."""
        if self._pairs is None:
            return at_s
        return self._pairs.carry(
            delivery.sender,
            delivery.receiver,
            qos=delivery.qos,
            bulk=delivery.topic.endswith("/bulk"),
            at_s=at_s,
        )

    def down(self, delivery: Delivery, at_s: float) -> float | None:
        """When a message that leaves the broker arrives; None if it is lost on its receiver's link."""
        receiver = self._links.get(delivery.receiver)
        return at_s if receiver is None else receiver.carry(receiver.down, delivery, at_s)

    def _at_broker_s(self, delivery: Delivery) -> float | None:
        """When the broker has a message; it goes up once, however many it is delivered to."""
        if delivery.publication is None:
            return delivery.sent_s
        if self._upload[0] != delivery.publication:
            self._upload = (delivery.publication, self.up(delivery))
        return self._upload[1]
