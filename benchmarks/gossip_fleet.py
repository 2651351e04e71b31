"""A fleet of gossip sessions in virtual time: real sessions and messages, a modelled network."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_agent.gossip.session import GossipSession
from device_agent.gossip.telling import ALL, Tell
from device_agent.wire.topics import device_topic
from device_agent.wire.whispers import decode_whisper, encode_whisper
from models.gossip_settings import GossipSettings
from models.subnet import Array, Indices

FLEET = "edgetide"


@dataclass(frozen=True)
class NodeStream:
    """What one node sees.

    Attributes:
        vectors: float32 [n, d]. labels: int64 [n]. times_s: float64 [n], when each sample comes, in order.
        label_delay: own samples that come before a sample's label; 0: it comes at once.
    """

    vectors: Array
    labels: Indices
    times_s: NDArray[np.float64]
    label_delay: int = 0


@dataclass(frozen=True, kw_only=True)
class Network:
    """Between any two nodes.

    Attributes:
        delay_s: of every message. loss_fraction: of them are lost, each copy by itself.
    """

    delay_s: float = 0.02
    loss_fraction: float = 0.0


@dataclass
class NodeFigures:
    """What a node did.

    Attributes:
        session: of the node. num_sent: messages; one to all is sent once, and received by each.
        bytes_sent, bytes_received: with topics and MQTT's headers.
    """

    session: GossipSession
    bytes_sent: int = 0
    bytes_received: int = 0
    num_sent: int = 0


def publish_bytes(topic_bytes: int, payload_bytes: int) -> int:
    """An MQTT publish at quality of service 0: type, length at 7 bits a byte, topic, payload."""
    rest = 2 + topic_bytes + payload_bytes
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest


def run_fleet(
    streams: Sequence[NodeStream],
    settings: GossipSettings,
    *,
    num_classes: int,
    network: Network | None = None,
    seed: int = 0,
) -> list[NodeFigures]:
    """Play the streams to the end."""
    network = network or Network()
    names = [f"node-{index}" for index in range(len(streams))]
    nodes = {
        name: NodeFigures(
            GossipSession(
                device=name,
                boot_epoch=1,
                run="run",
                settings=settings,
                num_features=stream.vectors.shape[1],
                num_classes=num_classes,
                seed=seed * 1000 + index,
            )
        )
        for index, (name, stream) in enumerate(zip(names, streams, strict=True))
    }
    for node in nodes.values():
        node.session.meet(names)
    rng, order = random.Random(f"{seed}/network"), itertools.count()
    events: list[tuple[float, int, str, int, str, bytes]] = [
        (float(time_s), next(order), name, number, "", b"")
        for name, stream in zip(names, streams, strict=True)
        for number, time_s in enumerate(stream.times_s)
    ]
    heapq.heapify(events)

    def carry(now_s: float, sender: str, tells: Sequence[Tell]) -> None:
        for tell in tells:
            payload = encode_whisper(tell.whisper)
            topic = device_topic(FLEET, sender, f"peer/{tell.to}")
            size = publish_bytes(len(topic), len(payload))
            nodes[sender].bytes_sent += size
            nodes[sender].num_sent += 1
            for to in nodes[sender].session.neighbours if tell.to == ALL else (tell.to,):
                if rng.random() >= network.loss_fraction:
                    nodes[to].bytes_received += size
                    heapq.heappush(events, (now_s + network.delay_s, next(order), to, -1, sender, payload))

    by_name = dict(zip(names, streams, strict=True))
    while events:
        now_s, _, name, number, sender, payload = heapq.heappop(events)
        session, stream = nodes[name].session, by_name[name]
        if number < 0:
            carry(now_s, name, session.on_whisper(now_s, sender, decode_whisper(payload, sender)))
            continue
        session.on_sample(number, stream.vectors[number], now_s)
        labelled = number - stream.label_delay
        if labelled >= 0:
            carry(now_s, name, session.on_label(labelled, int(stream.labels[labelled]), now_s))
    return list(nodes.values())
