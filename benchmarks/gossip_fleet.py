"""A fleet of gossipers in virtual time: real learners and messages, modelled nodes and network."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.gossip_work import AT_ONCE, Clock, Server, Work
from device_agent.gossip.gossiper import Gossiper
from device_agent.gossip.telling import ALL, Tell
from device_agent.wire.topics import device_topic
from device_agent.wire.whispers import Changed, Whisper, Whole, decode_whisper, encode_whisper
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
        gossiper: of the node. num_sent: messages; one to all is sent once, and received by each.
        bytes_sent, bytes_received: with topics and MQTT's headers.
        predicted: class of each sample, as it came. num_in_time: own samples learned by when the last came.
    """

    gossiper: Gossiper
    bytes_sent: int = 0
    bytes_received: int = 0
    num_sent: int = 0
    predicted: list[int] = field(default_factory=list)
    num_in_time: int = 0


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
    work: Work = AT_ONCE,
    seed: int = 0,
) -> list[NodeFigures]:
    """Play the streams to the end.

    A sample is predicted as it comes, and learned when the node gets to it. What a node measures of an age
    holds all but the time on the way.
    """
    names = [f"node-{index}" for index in range(len(streams))]
    gossipers = [
        Gossiper(
            device=name,
            boot_epoch=1,
            run="run",
            settings=settings,
            num_features=stream.vectors.shape[1],
            num_classes=num_classes,
            seed=seed * 1000 + index,
        )
        for index, (name, stream) in enumerate(zip(names, streams, strict=True))
    ]
    clock, fleet = Clock(), dict[str, _Node]()
    rng = random.Random(f"{seed}/network")
    is_gated = settings.shares == "sets" and settings.sets.gate != "open"
    check_s = min(settings.sets.partners, len(names) - 1) * work.check_s if is_gated else 0.0
    for gossiper, stream in zip(gossipers, streams, strict=True):
        gossiper.meet(names)
        node = _Node(gossiper, stream, fleet, clock, network or Network(), work, check_s, rng)
        fleet[gossiper.device] = node
        for number, time_s in enumerate(stream.times_s):
            clock.at(float(time_s), partial(node.sample_comes, number))
    clock.run()
    return [node.figures for node in fleet.values()]


class _Node:
    """A gossiper with its stream and what it has to do."""

    def __init__(
        self,
        gossiper: Gossiper,
        stream: NodeStream,
        fleet: Mapping[str, _Node],
        clock: Clock,
        network: Network,
        work: Work,
        check_s: float,
        rng: random.Random,
    ) -> None:
        self.figures = NodeFigures(gossiper)
        self._gossiper, self._stream, self._fleet = gossiper, stream, fleet
        self._clock, self._network, self._work, self._rng = clock, network, work, rng
        self._check_s = check_s  # of all gates after a sample
        self._learning = Server(clock)
        self._sending = Server(clock) if work.overlaps else self._learning
        self._receiving = Server(clock) if work.overlaps else self._learning

    def sample_comes(self, number: int) -> None:
        x = self._stream.vectors[number]
        self.figures.predicted.append(self._gossiper.on_sample(number, x, self._clock.now_s))
        labelled = number - self._stream.label_delay
        if labelled >= 0:
            self._after(self._learning, self._work.learn_s, partial(self._learn, labelled))

    def whisper_comes(self, sender: str, payload: bytes) -> None:
        whisper = decode_whisper(payload, sender)
        hear = partial(self._hear, self._clock.now_s, sender, whisper)
        is_set = isinstance(whisper.said, (Whole, Changed))
        name = sender if is_set else None  # a mailbox of one set a neighbour
        self._after(self._receiving, self._work.receive_s, hear, name)

    def _after(
        self, server: Server, takes_s: float, ends: Callable[[], None], name: str | None = None
    ) -> None:
        """Have it done, and call this at the end."""
        server.take(takes_s, lambda: self._clock.at(self._clock.now_s + takes_s, ends), self._newest(name))

    def _newest(self, name: str | None) -> str | None:
        """The name of work that gives way to newer work, where any does."""
        return name if self._work.overlaps else None

    def _learn(self, number: int) -> None:
        now_s = self._clock.now_s
        self.figures.num_in_time += bool(now_s <= self._stream.times_s[-1])
        tells = self._gossiper.on_label(number, int(self._stream.labels[number]), now_s)
        self._send(tells, self._check_s, "round")  # one that still waits is not worth sending any more

    def _hear(self, came_s: float, sender: str, whisper: Whisper) -> None:
        now_s = self._clock.now_s
        self._send(self._gossiper.on_whisper(now_s, sender, _aged(whisper, now_s - came_s)), 0.0, None)

    def _send(self, tells: Sequence[Tell], check_s: float, name: str | None) -> None:
        if not tells and not check_s:
            return
        each_s, made_s = self._work.send_s, self._clock.now_s

        def begins() -> None:
            for index, tell in enumerate(tells):
                left_s = self._clock.now_s + check_s + (index + 1) * each_s
                self._carry(tell.to, _aged(tell.whisper, left_s - made_s), left_s)

        self._sending.take(check_s + len(tells) * each_s, begins, self._newest(name))

    def _carry(self, to: str, whisper: Whisper, left_s: float) -> None:
        sender, payload = self._gossiper.device, encode_whisper(whisper)
        size = publish_bytes(len(device_topic(FLEET, sender, f"peer/{to}")), len(payload))
        self.figures.bytes_sent += size
        self.figures.num_sent += 1
        for one in self._gossiper.neighbours if to == ALL else (to,):
            if self._rng.random() >= self._network.loss_fraction:
                hearer = self._fleet[one]
                hearer.figures.bytes_received += size
                self._clock.at(left_s + self._network.delay_s, partial(hearer.whisper_comes, sender, payload))


def _aged(whisper: Whisper, waited_s: float) -> Whisper:
    """As it is after a wait, which whoever had it wait can measure."""
    if not waited_s:
        return whisper
    return msgspec.structs.replace(whisper, age_ms=whisper.age_ms + round(1000 * waited_s))
