"""The agent's core with its ports: it carries out effects and brings what happens to the core.

The live runtime and the simulator build the same node with other ports: a bus, timers, a job driver.
Everything here runs on one thread (or in one virtual time).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import msgspec

from device_agent.agent import AgentCore
from device_agent.effects import (
    Acknowledged,
    Announce,
    CancelTimer,
    Effect,
    Fetch,
    Install,
    Listen,
    Note,
    Prepare,
    Send,
    SetTimer,
    StartJob,
    StopFetch,
    StopJob,
)
from device_agent.kept_content import KeptContent
from device_agent.loop import Timers
from device_agent.orders import JobRequest
from device_agent.outbox import Outbox
from device_agent.peers.link import PeerLink
from device_agent.peers.session import TIMERS
from device_agent.residual_store import MemoryResiduals, ResidualStore
from device_agent.training import StepCost, TrainingResult
from device_agent.wire.bus import Bus
from device_agent.wire.chunks import DownloadEffect, Downloads, Finished, Request, serve
from device_agent.wire.codec import decode, decode_run, encode, encode_public, refer
from device_agent.wire.dedupe import SeenMessages
from device_agent.wire.messages import Chunk, ChunkRequest, Envelope, Status
from device_agent.wire.topics import COORDINATOR, device_topic, down_topic, fleet_topic
from firmware_profiles.errors import EdgetideError, PeerError, WorldError
from firmware_profiles.resources import Pause, Snapshot
from models.weights import pack

log = logging.getLogger(__name__)

DISK_RETRY_S = 10.0


class Jobs(Protocol):
    """Drives training jobs; tells the node by `job_progress`, `job_paused`, `job_done`, `job_failed`."""

    def start(self, request: JobRequest) -> None:
        """Train this order; give up what ran before."""
        ...

    def stop(self) -> None:
        """Give up what runs, within one mini-batch."""
        ...

    def prepare(self) -> None:
        """A run is on: load what training needs."""
        ...

    def install(self, kind: str, content: bytes) -> None:
        """Put a policy or a table in force at the next mini-batch.

        Raises:
            EdgetideError: it cannot be used; what was in force stays.
        """
        ...

    def cpu_share_fraction(self) -> float | None:
        """The share granted last, None before the first."""
        ...


@dataclass
class Counters:
    """What went by."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_refused: int = 0


class AgentNode:
    """An agent, wherever it runs.

    Args:
        fleet: name of the fleet. core: the state machine.
        bus, outbox, downloads, timers, jobs: the ports.
        snapshot: reads the sensors.
        kept: content that orders name again; in memory only if left out.
        residuals: what compression left out of earlier updates, the bench's own; in memory by default.
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
        listen: Callable[[str], None] | None = None,
    ) -> None:
        self.fleet, self.core = fleet, core
        self.bus, self.outbox, self.downloads = bus, outbox, downloads
        self.timers, self.jobs, self.snapshot = timers, jobs, snapshot
        self.kept = kept or KeptContent()
        self.residuals = residuals or MemoryResiduals()
        self.counters = Counters()
        self._to_keep: set[str] = set()
        self._is_online = True
        self._seen_run, self._seen = "", SeenMessages()
        self._link = PeerLink(
            fleet=fleet,
            core=core,
            timers=timers,
            publish=lambda topic, payload: self._publish(topic, payload, qos=0),
            listen=listen or (lambda topic: bus.subscribe(topic, self.received)),
            stamp=self._stamp,
            perform=self._perform,
        )

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
        self._is_online = True
        self._perform(self.core.on_connected())
        self._transfer(self.downloads.on_reconnect(self.timers.now_s()))
        self.outbox.on_reconnect(self.timers.now_s())
        self._offer_outbox()

    def disconnected(self) -> None:
        """The bus is not connected: what is sent again until it is answered waits, or copies pile up."""
        self._is_online = False

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
        self._perform([Announce(Status(online=False, boot_epoch=self.core.hello.boot_epoch, reason=reason))])

    # ------------------------------------------------------------ how it is carried out

    def _on_machine_message(self, payload: bytes, topic: str) -> None:
        envelope = decode(payload, topic)
        now_s = self.timers.now_s()
        body = envelope.body
        if isinstance(body, Chunk):
            self._transfer(self.downloads.on_chunk(envelope.sender, body, now_s))
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

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._PERFORM[type(effect)](self, effect)

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

    def _fetch(self, effect: Fetch) -> None:
        if effect.keep:
            content = self.kept.get(effect.digest)
            if content is not None:
                self._perform(self.core.on_fetched(effect.digest, content))
                return
            self._to_keep.add(effect.digest)
        now_s = self.timers.now_s()
        self._transfer(self.downloads.start(effect.holder, effect.digest, effect.size_bytes, now_s))

    def _stop_fetch(self, effect: StopFetch) -> None:
        self._to_keep.discard(effect.digest)
        self._transfer(self.downloads.cancel(effect.holder, effect.digest, self.timers.now_s()))

    def _transfer(self, effects: list[DownloadEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Request):
                self._publish_body(
                    Send(to=COORDINATOR, body=effect.message, run=self.core.run or "none"), "up"
                )
            elif isinstance(effect, Finished):
                if effect.digest in self._to_keep:
                    self.kept.put(effect.digest, effect.data)
                self._to_keep.discard(effect.digest)
                self._perform(self.core.on_fetched(effect.digest, effect.data))
            else:
                self._to_keep.discard(effect.digest)
                self._perform(self.core.on_fetch_failed(effect.digest, effect.reason))
        next_s = self.downloads.next_timer_s()
        if next_s is not None:
            self.timers.set_timer("downloads", max(0.0, next_s - self.timers.now_s()), self._on_downloads_due)

    def _on_downloads_due(self) -> None:
        if self._is_online:  # else `connected` asks again
            self._transfer(self.downloads.on_timer(self.timers.now_s()))

    def _listen_to(self, effect: Listen) -> None:
        self._link.listen_to(effect)

    def _set_timer(self, effect: SetTimer) -> None:
        self.timers.set_timer(f"core/{effect.key}", effect.delay_s, lambda: self._on_core_timer(effect.key))

    def _on_core_timer(self, key: str) -> None:
        if key.startswith(TIMERS):
            self._perform(self.core.on_peer_timer(self.timers.now_s(), key))
            return
        share = self.jobs.cpu_share_fraction()
        self._perform(self.core.on_timer(key, self.snapshot(), share, len(self.outbox)))

    def _cancel_timer(self, effect: CancelTimer) -> None:
        self.timers.cancel_timer(f"core/{effect.key}")

    def _start_job(self, effect: StartJob) -> None:
        self.jobs.start(effect.job)

    def _stop_job(self, _effect: StopJob) -> None:
        self.jobs.stop()

    def _prepare(self, _effect: Prepare) -> None:
        self.jobs.prepare()

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

    _PERFORM: ClassVar = {
        Send: _send,
        Announce: _announce,
        SetTimer: _set_timer,
        CancelTimer: _cancel_timer,
        Fetch: _fetch,
        StopFetch: _stop_fetch,
        Listen: _listen_to,
        StartJob: _start_job,
        StopJob: _stop_job,
        Prepare: _prepare,
        Install: _install,
        Acknowledged: _acknowledged,
        Note: _note,
    }
