"""The coordinator's core with its ports: it carries out effects and brings what happens to the core.

The live runtime and the simulator build the same node with other ports. Everything runs on one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from coordinator.blobs import Blobs
from coordinator.effects import Commit, CoordinatorEffect, Evaluate, Finished, Record, Settled
from coordinator.fleet import Fleet, fold, fold_settled
from coordinator.fleet_core import FleetCore
from device_agent.effects import Announce, CancelTimer, Fetch, Note, Send, SetTimer
from device_agent.loop import Timers
from device_agent.wire.bus import Bus
from device_agent.wire.chunks import DownloadEffect, Downloads, Request, serve
from device_agent.wire.chunks import Finished as Fetched
from device_agent.wire.codec import (
    decode,
    decode_hello,
    decode_status,
    decode_telemetry,
    encode,
    encode_public,
)
from device_agent.wire.messages import SCHEMA_VERSION, Chunk, ChunkRequest, Envelope, Hello, Run
from device_agent.wire.topics import COORDINATOR, device_topic, down_topic, fleet_topic, parse_topic
from firmware_profiles.errors import PeerError
from models.subnet import Array
from models.weights import pack

log = logging.getLogger(__name__)


class RunState(Protocol):
    """Where a run is kept: a database and a model store, or memory in the simulator."""

    def commit(self, commit: Commit, bytes_sent: int) -> None:
        """Store the version and what became of its updates, durably, in one transaction."""
        ...

    def record(self, settled: Settled) -> None:
        """Remember what became of an update that changed no model."""
        ...

    def evaluated(self, version: int, accuracy: float, loss: float) -> None:
        """Add a version's accuracy to the curve."""
        ...

    def device(self, hello: Hello) -> None:
        """Remember how a device introduced itself."""
        ...

    def event(self, note: Note) -> None:
        """Add a line to the history."""
        ...

    def announced(self, run: Run) -> None:
        """The run's public state changed."""
        ...


@dataclass
class Counters:
    """Payload bytes that crossed the coordinator, each message once, and messages refused."""

    bytes_sent: int = 0
    messages_refused: int = 0


class CoordinatorNode:
    """A coordinator, live or simulated.

    Args:
        fleet: name of the fleet. core: the state machine.
        bus, downloads, timers, blobs, state: the ports.
        evaluate: starts measuring a version; `evaluated` is called with the result.
        finished: called once when the run is over.
        view: the fleet as shown so far.
    """

    def __init__(
        self,
        *,
        fleet: str,
        core: FleetCore,
        bus: Bus,
        downloads: Downloads,
        timers: Timers,
        blobs: Blobs,
        state: RunState,
        evaluate: Callable[[int, dict[str, Array]], None],
        finished: Callable[[], None],
        view: Fleet,
    ) -> None:
        self.fleet, self.core = fleet, core
        self.bus, self.downloads, self.timers = bus, downloads, timers
        self.blobs, self.state = blobs, state
        self.view = view
        self.counters = Counters()
        self._evaluate_version, self._finished = evaluate, finished
        self._sequence = 0

    # ------------------------------------------------------------ what happens

    def subscribe(self, receive: Callable[[str, bytes], None]) -> None:
        """Ask the bus for everything devices say; `receive` must bring it to `received`."""
        for leaf in ("status", "hello", "telemetry", "up", "up/bulk"):
            self.bus.subscribe(device_topic(self.fleet, "+", leaf), receive)

    def start(self) -> None:
        """Begin the run, or go on with it."""
        self.perform(self.core.on_start(self.timers.now_s()))

    def connected(self) -> None:
        """The bus is (again) connected."""
        self.perform(self.core.on_connected())
        self._transfer(self.downloads.on_reconnect(self.timers.now_s()))

    def received(self, topic: str, payload: bytes) -> None:
        """A message came; what cannot be trusted is counted and dropped."""
        self.counters.bytes_sent += len(payload)
        try:
            _, sender, leaf = parse_topic(topic)
            if sender == COORDINATOR:
                return
            self._RECEIVE.get(leaf, CoordinatorNode._on_unknown_leaf)(self, sender, topic, payload)
        except PeerError as error:
            self.counters.messages_refused += 1
            log.warning("message refused: %s: %s", topic, error)

    def evaluated(self, version: int, accuracy: float | None, loss: float) -> None:
        """A version was measured; None: there was nothing to measure it on."""
        if accuracy is not None:
            self.state.evaluated(version, accuracy, loss)
        self.perform(self.core.on_evaluated(version, accuracy, loss))

    # ------------------------------------------------------------ messages

    def _on_status(self, sender: str, _topic: str, payload: bytes) -> None:
        status = decode_status(payload)
        self._show(sender, status)
        self.perform(self.core.on_status(self.timers.now_s(), sender, status))

    def _on_hello(self, sender: str, topic: str, payload: bytes) -> None:
        hello = decode_hello(payload, topic)
        self._show(sender, hello)
        self.perform(self.core.on_hello(self.timers.now_s(), sender, hello))
        known = self.core.devices.get(sender)
        if known is not None and known.hello == hello:
            self.state.device(hello)

    def _on_telemetry(self, sender: str, topic: str, payload: bytes) -> None:
        telemetry = decode_telemetry(payload, topic)
        self._show(sender, telemetry)
        self.perform(self.core.on_seen(self.timers.now_s(), sender, telemetry.boot_epoch))

    def _on_machine_message(self, sender: str, topic: str, payload: bytes) -> None:
        envelope = decode(payload, topic)
        now_s = self.timers.now_s()
        body = envelope.body
        if isinstance(body, Chunk):
            self._transfer(self.downloads.on_chunk(sender, body, now_s))
        elif isinstance(body, ChunkRequest):
            chunk = serve(self.blobs.get, body)
            self._publish_body(Send(to=sender, body=chunk, run=self.core.config.run), bulk=True)
        else:
            self.perform(self.core.on_message(now_s, envelope))

    def _on_unknown_leaf(self, sender: str, topic: str, payload: bytes) -> None:
        del sender, payload
        raise PeerError(f"topic {topic!r} has no meaning here")

    def _show(self, sender: str, message: object) -> None:
        self.view = fold(self.view, self.timers.now_s(), sender, message)  # pyright: ignore[reportArgumentType]

    # ------------------------------------------------------------ effects

    def perform(self, effects: list[CoordinatorEffect]) -> None:
        """Carry out what the core decided, in order."""
        for effect in effects:
            self._PERFORM[type(effect)](self, effect)

    def _send(self, effect: Send) -> None:
        self._publish_body(effect, bulk=False)

    def _publish_body(self, effect: Send, *, bulk: bool) -> None:
        self._sequence += 1
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run=effect.run,
            sender=COORDINATOR,
            boot_epoch=self.core.boot_epoch,
            sequence=self._sequence,
            body=effect.body,
            base_version=effect.base_version,
            base_digest=effect.base_digest,
        )
        self._publish(down_topic(self.fleet, effect.to, bulk=bulk), encode(envelope))

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.counters.bytes_sent += len(payload)
        self.bus.publish(topic, payload, retain=retain)

    def _announce(self, effect: Announce) -> None:
        message = effect.message
        if isinstance(message, Run):
            self._show(COORDINATOR, message)
            self.state.announced(message)
            self._publish(fleet_topic(self.fleet, "run"), encode_public(message), retain=True)

    def _set_timer(self, effect: SetTimer) -> None:
        key = effect.key
        self.timers.set_timer(f"core/{key}", effect.delay_s, lambda: self._on_core_timer(key))

    def _on_core_timer(self, key: str) -> None:
        self.perform(self.core.on_timer(self.timers.now_s(), key))

    def _cancel_timer(self, effect: CancelTimer) -> None:
        self.timers.cancel_timer(f"core/{effect.key}")

    def _fetch(self, effect: Fetch) -> None:
        now_s = self.timers.now_s()
        self._transfer(self.downloads.start(effect.holder, effect.digest, effect.size_bytes, now_s))

    def _transfer(self, effects: list[DownloadEffect]) -> None:
        now_s = self.timers.now_s()
        for effect in effects:
            if isinstance(effect, Request):
                send = Send(to=effect.holder, body=effect.message, run=self.core.config.run)
                self._publish_body(send, bulk=False)
            elif isinstance(effect, Fetched):
                self.perform(self.core.on_fetched(now_s, effect.digest, effect.data))
            else:
                self.perform(self.core.on_fetch_failed(now_s, effect.digest, effect.reason))
        next_s = self.downloads.next_timer_s()
        if next_s is not None:
            self.timers.set_timer("downloads", max(0.0, next_s - now_s), self._on_downloads_due)

    def _on_downloads_due(self) -> None:
        self._transfer(self.downloads.on_timer(self.timers.now_s()))

    def _commit(self, effect: Commit) -> None:
        self.state.commit(effect, self.counters.bytes_sent)
        self.view = fold_settled(self.view, self.timers.now_s(), effect.round, effect.settled)
        ref = self.blobs.put(pack(effect.weights))
        self.perform(self.core.on_committed(self.timers.now_s(), ref))

    def _record(self, effect: Record) -> None:
        self.state.record(effect.settled)
        self.view = fold_settled(self.view, self.timers.now_s(), effect.settled.round, (effect.settled,))

    def _evaluate(self, effect: Evaluate) -> None:
        self._evaluate_version(effect.version, effect.weights)

    def _finish(self, _effect: Finished) -> None:
        self._finished()

    def _note(self, effect: Note) -> None:
        log.info("%s: %s %s", effect.device or COORDINATOR, effect.event, effect.details or "")
        self._show(effect.device, effect)
        self.state.event(effect)

    _RECEIVE: ClassVar = {
        "status": _on_status,
        "hello": _on_hello,
        "telemetry": _on_telemetry,
        "up": _on_machine_message,
        "up/bulk": _on_machine_message,
    }
    _PERFORM: ClassVar = {
        Send: _send,
        Announce: _announce,
        SetTimer: _set_timer,
        CancelTimer: _cancel_timer,
        Fetch: _fetch,
        Note: _note,
        Commit: _commit,
        Record: _record,
        Evaluate: _evaluate,
        Finished: _finish,
    }
