"""The agent's core with its ports: it carries out effects and brings what happens to the core.

The live runtime and the simulator build the same node with other ports: a bus, timers, a job driver.
Everything here runs on one thread (or in one virtual time).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from device_agent.agent import AgentCore
from device_agent.effects import (
    Acknowledged,
    Announce,
    CancelTimer,
    CloseStream,
    Effect,
    Fetch,
    Install,
    KeepLearned,
    Listen,
    Note,
    OpenStream,
    Overhear,
    Prepare,
    Send,
    SetTimer,
    StartJob,
    StopFetch,
    StopJob,
)
from device_agent.fetching import Fetching
from device_agent.gossip.link import GossipLink, Streams, no_stream
from device_agent.gossip.telling import Tell
from device_agent.jobs import Jobs
from device_agent.kept_content import KeptContent
from device_agent.learned_store import LearnedStore, MemoryLearned
from device_agent.loop import Timers
from device_agent.outbox import Outbox
from device_agent.peers.link import PeerLink
from device_agent.residual_store import MemoryResiduals, ResidualStore
from device_agent.training import StepCost, TrainingResult
from device_agent.wire.bus import Bus
from device_agent.wire.chunks import Downloads, serve
from device_agent.wire.codec import decode, decode_run, encode, encode_public, refer
from device_agent.wire.dedupe import SeenMessages
from device_agent.wire.messages import Chunk, ChunkRequest, Envelope, Status
from device_agent.wire.topics import COORDINATOR, device_topic, down_topic, fleet_topic
from firmware_profiles.errors import EdgetideError, PeerError, WorldError
from firmware_profiles.resources import Pause, Snapshot
from models.weights import pack

log = logging.getLogger(__name__)

DISK_RETRY_S = 10.0


@dataclass
class Counters:
    """What went by."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_refused: int = 0


class _Once:
    """Subscribes to a topic once, whoever asks for it, since all of it comes to `received`."""

    def __init__(self, listen: Callable[[str], None]) -> None:
        self._listen, self._topics = listen, set[str]()

    def __call__(self, topic: str) -> None:
        if topic not in self._topics:
            self._topics.add(topic)
            self._listen(topic)


class AgentNode:
    """An agent, wherever it runs.

    Args:
        fleet: name of the fleet. core: the state machine.
        bus, outbox, downloads, timers, jobs: the ports.
        snapshot: reads the sensors.
        kept: content that orders name again; in memory only if left out.
        residuals: what compression left out of earlier updates, the bench's own; in memory by default.
        learned: what was learned of prototypes, for the agent's next life; in memory by default.
        streams: makes the device's stream; left out, it has none.
        listen: subscribes to a topic and brings what comes there to `received`, on the node's thread; left
            out where the bus delivers on it anyway.
    """

    def __init__(
        self,
        *,
        fleet: str,
        core: AgentCore,
        bus: Bus,
        outbox: Outbox,
        downloads: Downloads,
        timers: Timers,
        jobs: Jobs,
        snapshot: Callable[[], Snapshot],
        kept: KeptContent | None = None,
        residuals: ResidualStore | None = None,
        learned: LearnedStore | None = None,
        streams: Streams | None = None,
        listen: Callable[[str], None] | None = None,
    ) -> None:
        self.fleet, self.core = fleet, core
        self.bus, self.outbox, self.kept = bus, outbox, kept or KeptContent()
        self.timers, self.jobs, self.snapshot = timers, jobs, snapshot
        self.residuals = residuals or MemoryResiduals()
        self._learned = learned or MemoryLearned()
        core.recall = self._learned.recall
        self.counters = Counters()
        self._is_online = True
        self._seen_run, self._seen = "", SeenMessages()
        self._fetching = Fetching(
            downloads=downloads,
            kept=self.kept,
            timers=timers,
            ask=lambda send: self._publish_body(send, "up"),
            run=lambda: core.run or "none",
            fetched=lambda digest, content: self._perform(core.on_fetched(digest, content)),
            failed=lambda digest, reason: self._perform(core.on_fetch_failed(digest, reason)),
        )
        once = _Once(listen or (lambda topic: bus.subscribe(topic, self.received)))
        self._link = PeerLink(
            fleet=fleet,
            core=core,
            timers=timers,
            publish=self._publish_once,
            listen=once,
            stamp=self._stamp,
            perform=self._perform,
        )
        self._gossip = GossipLink(
            fleet=fleet,
            core=core,
            timers=timers,
            publish=self._publish_once,
            listen=once,
            streams=streams or no_stream,
            allowance=jobs.allowance,
            core_seconds=jobs.core_seconds,
            perform=self._perform,
        )
        self._carry_out = self._carriers()

    @property
    def device(self) -> str:
        """The device's id."""
        return self.core.hello.device

    # ------------------------------------------------------------ what happens

    def start(self) -> None:
        """Begin: the bus may connect at any time from now on."""
        self._perform(self.core.on_start())
        self._offer_outbox()

    def connected(self) -> None:
        """The bus is (again) connected."""
        self._is_online = self._fetching.is_online = True
        self._perform(self.core.on_connected())
        self._fetching.on_reconnect()
        self._gossip.connected()
        self.outbox.on_reconnect(self.timers.now_s())
        self._offer_outbox()

    def disconnected(self) -> None:
        """The bus is not connected: what is sent again until it is answered waits, or copies pile up."""
        self._is_online = self._fetching.is_online = False

    def received(self, topic: str, payload: bytes) -> None:
        """A message came; what cannot be trusted is counted and dropped."""
        self.counters.bytes_received += len(payload)
        try:
            if topic == fleet_topic(self.fleet, "run"):
                self._perform(self.core.on_run(decode_run(payload)))
                # The coordinator is there (again): what it missed need not wait for its turn.
                self.outbox.on_reconnect(self.timers.now_s())
                self._offer_outbox()
            elif topic in (
                down_topic(self.fleet, self.device),
                down_topic(self.fleet, self.device, bulk=True),
            ):
                self._on_machine_message(payload, topic)
            elif self._gossip.hears(topic):
                self._gossip.received(topic, payload)
            elif self._link.hears(topic):
                self._link.received(topic, payload)
        except PeerError as error:
            self.counters.messages_refused += 1
            log.warning("message refused: %s: %s", topic, error)
        except WorldError as error:  # of the disk; whoever wrote asks again
            log.warning("message not dealt with: %s: %s", topic, error)

    def job_progress(self, cost: StepCost) -> None:
        """The job trained a mini-batch."""
        self._perform(self.core.on_progress(cost))

    def job_paused(self, pause: Pause) -> None:
        """The job must wait."""
        self._perform(self.core.on_paused(pause))

    def job_done(self, result: TrainingResult, busy_s: float, wall_s: float) -> None:
        """The job ended."""
        if self.core.peers is not None:
            self._perform(self.core.on_unit_done(self.timers.now_s(), result, busy_s))
            return
        sealed = result.sealed
        content = pack(result.delta) if sealed is None else sealed.content
        ref = refer(content)
        if sealed is not None:
            self.residuals.stage(ref.digest, sealed)
        self._perform(self.core.on_job_done(result, ref, content, busy_s, wall_s))

    def job_failed(self, reason: str) -> None:
        """The job could not be done."""
        self._perform(self.core.on_job_failed(reason))

    def data_changed(self, num_samples: int) -> None:
        """New local data is there; the next order trains on it."""
        self.core.hello = msgspec.structs.replace(self.core.hello, num_samples=num_samples)
        self._perform(
            [Announce(self.core.hello), Note("local data changed", details={"num_samples": num_samples})]
        )

    def leave(self, reason: str) -> None:
        """Say goodbye: the last thing a node does."""
        self.jobs.stop()
        self._gossip.leave()
        self._perform([Announce(Status(online=False, boot_epoch=self.core.hello.boot_epoch, reason=reason))])

    # ------------------------------------------------------------ how it is carried out

    def _on_machine_message(self, payload: bytes, topic: str) -> None:
        envelope = decode(payload, topic)
        now_s = self.timers.now_s()
        body = envelope.body
        if isinstance(body, Chunk):
            self._fetching.on_chunk(envelope.sender, body)
        elif isinstance(body, ChunkRequest):
            chunk = serve(self.outbox.blob, body)
            self._publish_body(Send(to=COORDINATOR, body=chunk, run=envelope.run), "up/bulk")
        elif self._is_new(envelope):
            self._perform(self.core.on_message(now_s, envelope))

    def _is_new(self, envelope: Envelope) -> bool:
        if envelope.run != self._seen_run:  # in each run the coordinator counts its starts from 1
            self._seen_run, self._seen = envelope.run, SeenMessages()
        is_new = self._seen.is_new(envelope)
        self._seen.remember(envelope)
        return is_new

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._carry_out[type(effect)](effect)

    def _carriers(self) -> dict[type[Effect], Callable[[Any], None]]:
        """What carries out which effect."""
        return {
            Send: self._send,
            Announce: self._announce,
            SetTimer: self._set_timer,
            CancelTimer: lambda effect: self.timers.cancel_timer(f"core/{effect.key}"),
            Fetch: self._fetching.fetch,
            StopFetch: self._fetching.stop,
            Listen: self._link.listen_to,
            Overhear: self._gossip.overhear,
            Tell: self._tell,
            OpenStream: self._gossip.open_stream,
            CloseStream: lambda _effect: self._gossip.close_stream(),
            KeepLearned: lambda effect: self._learned.keep(effect.run, effect.arrays),
            StartJob: lambda effect: self.jobs.start(effect.job),
            StopJob: lambda _effect: self.jobs.stop(),
            Prepare: lambda _effect: self.jobs.prepare(),
            Install: self._install,
            Acknowledged: self._acknowledged,
            Note: self._note,
        }

    def _announce(self, effect: Announce) -> None:
        leaf, retain, qos = {
            "Status": ("status", True, 1),
            "Hello": ("hello", True, 1),
            "Telemetry": ("telemetry", False, 0),
        }[type(effect.message).__name__]
        topic = device_topic(self.fleet, self.device, leaf)
        self._publish(topic, encode_public(effect.message), retain=retain, qos=qos)

    def _send(self, effect: Send) -> None:
        if effect.to != COORDINATOR:
            if self._is_online:
                self._link.send(effect)
            return
        if not effect.durable:
            self._publish_body(effect, "up")
            return
        try:
            self.outbox.put(
                run=effect.run,
                body=effect.body,
                base_version=effect.base_version,
                base_digest=effect.base_digest,
                blobs=effect.blobs,
            )
        except WorldError as error:  # the disk is full
            self._perform(self.core.on_update_lost(effect, f"the update could not be stored: {error}"))
            return
        for digest in effect.blobs:
            self.residuals.commit(digest)
        self._offer_outbox()

    def _publish_body(self, effect: Send, leaf: str) -> None:
        self._publish(device_topic(self.fleet, self.device, leaf), encode(self._stamp(effect)))

    def _stamp(self, effect: Send) -> Envelope:
        return self.outbox.stamp(
            run=effect.run, body=effect.body, base_version=effect.base_version, base_digest=effect.base_digest
        )

    def _offer_outbox(self) -> None:
        """Send what is due, and look again when the next message is."""
        if not self._is_online:
            return  # `connected` offers it
        now_s = self.timers.now_s()
        try:
            for envelope in self.outbox.due(now_s):
                self._publish(device_topic(self.fleet, self.device, "up"), encode(envelope))
        except WorldError as error:
            log.warning("outbox not read, tried again later: %s", error)
            self.timers.set_timer("outbox", DISK_RETRY_S, self._offer_outbox)
            return
        next_s = self.outbox.next_due_s()
        if next_s is not None:
            self.timers.set_timer("outbox", max(0.05, next_s - now_s), self._offer_outbox)

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        self.counters.bytes_sent += len(payload)
        self.bus.publish(topic, payload, retain=retain, qos=qos)

    def _publish_once(self, topic: str, payload: bytes) -> None:
        """It may be lost."""
        self._publish(topic, payload, qos=0)

    def _tell(self, effect: Tell) -> None:
        if self._is_online:
            self._gossip.tell(effect)

    def _set_timer(self, effect: SetTimer) -> None:
        self.timers.set_timer(f"core/{effect.key}", effect.delay_s, lambda: self._on_core_timer(effect.key))

    def _on_core_timer(self, key: str) -> None:
        if key.startswith("session/"):
            self._perform(self.core.on_session_timer(self.timers.now_s(), key))
            return
        share = self.jobs.cpu_share_fraction()
        self._perform(self.core.on_timer(key, self.snapshot(), share, len(self.outbox)))

    def _install(self, effect: Install) -> None:
        try:
            self.jobs.install(effect.kind, effect.content)
        except EdgetideError as error:
            self._perform(self.core.on_installed(effect.kind, effect.digest, str(error)))
            return
        if effect.kind == "policy":
            self.core.hello = msgspec.structs.replace(self.core.hello, policy_digest=effect.digest)
        self._perform(self.core.on_installed(effect.kind, effect.digest, None))

    def _acknowledged(self, effect: Acknowledged) -> None:
        if effect.is_refused:  # else what made it useless would go with each of the next
            self.residuals.forget()
        self.outbox.acknowledge(effect.boot_epoch, effect.sequence)

    def _note(self, effect: Note) -> None:
        log.info("%s: %s %s", self.device, effect.event, effect.details or "")
