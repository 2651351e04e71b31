"""What neighbours say, on its way between the bus and the session: topics, checks, content in chunks.

A device writes on `<itself>/peer/<neighbour>` and hears `<neighbour>/peer/<itself>`, at quality of service 0:
whoever needs an answer asks again. Weights too large for a message are fetched from their sender.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from device_agent.agent import AgentCore
from device_agent.effects import Effect, Listen, Send
from device_agent.loop import Timers
from device_agent.wire.chunks import DownloadEffect, Downloads, Finished, Request, serve
from device_agent.wire.codec import decode, encode
from device_agent.wire.messages import Answer, Chunk, ChunkRequest, Envelope, Offer
from device_agent.wire.topics import device_topic
from firmware_profiles.errors import PeerError

if TYPE_CHECKING:  # it is imported when a run asks for it
    from device_agent.peers.session import PeerSession

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""A chunk is asked for again after about so long; it grows."""


@dataclass(frozen=True)
class _Waiting:
    """A message whose weights are on their way. heard_s: when it came."""

    envelope: Envelope
    heard_s: float

    def age_s(self, now_s: float) -> float:
        """Seconds since it was sent."""
        return _age_s(self.envelope) + now_s - self.heard_s


class PeerLink:
    """A device's link to its neighbours.

    Args:
        fleet: its name. core: whose session says and hears.
        timers: of the node; the key "neighbours" is taken.
        publish: (topic, payload), at quality of service 0.
        listen: subscribes to a topic; what comes there reaches `received`, on the node's thread.
        stamp: makes the envelope of a body.
        perform: carries out what the core answers.
    """

    def __init__(
        self,
        *,
        fleet: str,
        core: AgentCore,
        timers: Timers,
        publish: Callable[[str, bytes], None],
        listen: Callable[[str], None],
        stamp: Callable[[Send], Envelope],
        perform: Callable[[list[Effect]], None],
    ) -> None:
        self._fleet, self._device, self._core = fleet, core.hello.device, core
        self._timers, self._publish, self._listen = timers, publish, listen
        self._stamp, self._perform = stamp, perform
        self._heard: set[str] = set()
        rng = random.Random(f"{self._device}/{core.hello.boot_epoch}/neighbours")
        self._downloads = Downloads(rng, retry_s=RETRY_S)
        self._waiting: dict[tuple[str, str], _Waiting] = {}

    # ------------------------------------------------------------ out

    def listen_to(self, effect: Listen) -> None:
        """Hear these, too. Those heard before stay heard: exchanges with them may be open."""
        for neighbour in effect.neighbours:
            topic = device_topic(self._fleet, neighbour, f"peer/{self._device}")
            if topic not in self._heard:
                self._heard.add(topic)
                self._listen(topic)

    def send(self, effect: Send) -> None:
        """Say something to a neighbour, who may not hear it."""
        payload = encode(self._stamp(effect))
        if self._core.peers is not None:
            self._core.peers.window.bytes_sent += len(payload)
        self._publish(device_topic(self._fleet, self._device, f"peer/{effect.to}"), payload)

    # ------------------------------------------------------------ in

    def hears(self, topic: str) -> bool:
        """Whether this is a topic of a neighbour."""
        return topic in self._heard

    def received(self, topic: str, payload: bytes) -> None:
        """A neighbour said something.

        Raises:
            PeerError: it cannot be trusted, or its weights cannot be used.
        """
        session, now_s = self._core.peers, self._timers.now_s()
        if session is None:
            return
        envelope = decode(payload, topic)
        body, sender = envelope.body, envelope.sender
        if isinstance(body, Chunk):
            self._transfer(self._downloads.on_chunk(sender, body, now_s), session)
        elif isinstance(body, ChunkRequest):
            self.send(Send(to=sender, body=serve(session.content, body), run=session.run))
        elif session.wants(now_s, envelope):
            if isinstance(body, (Offer, Answer)) and body.weights.data is None:
                self._fetch(envelope, body, session)
            else:
                self._perform(self._core.on_peer_message(now_s, envelope, _age_s(envelope)))

    def _fetch(self, envelope: Envelope, body: Offer | Answer, session: PeerSession) -> None:
        sender, ref, now_s = envelope.sender, body.weights, self._timers.now_s()
        effects: list[DownloadEffect] = []
        for holder, digest in list(self._waiting):
            kind = type(self._waiting[holder, digest].envelope.body)
            if holder == sender and kind is type(body) and digest != ref.digest:
                effects += self._give_up(holder, digest)  # it has newer ones, and serves few
        self._waiting[sender, ref.digest] = _Waiting(envelope, now_s)
        effects += self._downloads.start(sender, ref.digest, ref.size_bytes, now_s)
        self._transfer(effects, session)

    def _on_timer(self) -> None:
        """Ask again for chunks that did not come, and give up what is of no use any more."""
        session, now_s = self._core.peers, self._timers.now_s()
        effects: list[DownloadEffect] = []
        for (holder, digest), waiting in list(self._waiting.items()):
            if session is None or waiting.age_s(now_s) > session.settings.max_age_s:
                effects += self._give_up(holder, digest)
        if session is None:
            return
        try:
            self._transfer([*effects, *self._downloads.on_timer(now_s)], session)
        except PeerError as error:
            log.warning("neighbour's weights refused: %s", error)

    def _give_up(self, holder: str, digest: str) -> list[DownloadEffect]:
        del self._waiting[holder, digest]
        return self._downloads.cancel(holder, digest, self._timers.now_s())

    def _transfer(self, effects: list[DownloadEffect], session: PeerSession) -> None:
        now_s = self._timers.now_s()
        next_s = self._downloads.next_timer_s()
        if next_s is not None:
            self._timers.set_timer("neighbours", max(0.0, next_s - now_s), self._on_timer)
        for effect in effects:
            if isinstance(effect, Request):
                self.send(Send(to=effect.holder, body=effect.message, run=session.run))
                continue
            waiting = self._waiting.pop((effect.holder, effect.digest), None)
            if waiting is None or not isinstance(effect, Finished) or waiting.envelope.run != session.run:
                continue
            envelope = _filled(waiting.envelope, effect.data)
            self._perform(self._core.on_peer_message(now_s, envelope, waiting.age_s(now_s)))


def _filled(envelope: Envelope, data: bytes) -> Envelope:
    """The message with its weights inside."""
    body = envelope.body
    assert isinstance(body, (Offer, Answer))
    ref = msgspec.structs.replace(body.weights, data=data)
    return msgspec.structs.replace(envelope, body=msgspec.structs.replace(body, weights=ref))


def _age_s(envelope: Envelope) -> float:
    return (envelope.age_ms or 0) / 1000
