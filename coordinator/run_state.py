"""The durable side of a run: a database and a model store behind the node's RunState port."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from coordinator.database import Database, Outcome, UpdateId, Version
from coordinator.effects import Commit, Settled
from coordinator.model_store import ModelStore
from coordinator.peer_view import PeerView, Told, fold_run
from coordinator.peer_view import to_json as peers_json
from coordinator.stream_view import StreamView, ToldOfStream
from coordinator.stream_view import fold_run as fold_streams
from coordinator.stream_view import to_json as streams_json
from coordinator.updates import histogram
from device_agent.effects import Note
from device_agent.wire.messages import Hello, PeerReport, Run
from device_agent.wire.stream_report import StreamReport
from models.subnet import Array

RECENT = 12
"""Models that stay on disk: the newest versions, as committed and as measured."""


@dataclass
class DurableRun:
    """Keeps one run in a database and a model store.

    Attributes:
        database, store: where. run: id of the run.
        base_bytes: bytes sent before this start of the coordinator.
        base_wall_s: seconds of training before this start.
    """

    database: Database
    store: ModelStore
    run: str
    base_bytes: int = 0
    base_wall_s: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Start the stop-watch."""
        self._began_s = self.clock()
        self._state = ""
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._files = threading.Lock()  # models are kept on one thread and pruned on another

    @property
    def wall_s(self) -> float:
        """Seconds of training since the run began, restarts left out."""
        return self.base_wall_s + self.clock() - self._began_s

    def commit(self, commit: Commit, bytes_sent: int) -> None:
        """Store the weights, then the version with its updates in one transaction."""
        with self._files:
            digest = self.store.put(commit.weights)
            self._recent.append(digest)
        applied = sum(settled.outcome == "applied" for settled in commit.settled)
        version = Version(
            version=commit.version,
            digest=digest,
            round=commit.round,
            wall_s=self.wall_s,
            num_updates=applied,
            bytes_sent=self.base_bytes + bytes_sent,
        )
        outcomes = [_outcome(settled, commit.round) for settled in commit.settled]
        self.database.commit_round(self.run, version, outcomes)
        with self._files:
            if len(self._recent) == RECENT:
                self.store.prune(self._recent)

    def keep_measured(self, weights: Mapping[str, Array], statistics: Mapping[str, Array]) -> None:
        """Store a measured version with its batch-norm statistics, for `edgetide models export`."""
        with self._files:
            self._recent.append(self.store.put(weights, statistics))

    def record(self, settled: Settled) -> None:
        """Remember what became of an update that changed no model."""
        self.database.record_outcome(self.run, _outcome(settled))

    def evaluated(self, version: int, accuracy: float, loss: float) -> None:
        """Add a version's accuracy to the curve."""
        self.database.record_accuracy(self.run, version, accuracy, loss if math.isfinite(loss) else None)

    def device(self, hello: Hello) -> None:
        """Remember how a device introduced itself."""
        self.database.record_device(hello.device, msgspec.to_builtins(hello))

    def event(self, note: Note) -> None:
        """Add a line to the history."""
        self.database.record_event(self.run, note.event, note.device, note.details)

    def announced(self, run: Run) -> None:
        """Keep the run's public state."""
        if run.state != self._state:
            self._state = run.state
            self.database.set_run_state(self.run, run.state)


def make_report(
    database: Database, run: str, about: dict[str, Any], window: int = 1, num_windows: int = 1
) -> dict[str, Any]:
    """What a run came to, JSON-ready.

    Args:
        database: that holds the run.
        run: its id.
        about: what the database does not know: broker, the coordinator's engine. In the report stands what
            the devices computed with, if they told.
        window: what one round of the coordinator counts for.
        num_windows: how many of its rounds count for one.
    """
    curve = database.curve(run)
    measured = [(version.wall_s, version.accuracy) for version in curve if version.accuracy is not None]
    outcomes = database.outcomes(run)
    hellos = database.devices()
    devices: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        if outcome.outcome != "applied":
            continue
        device = devices.setdefault(
            outcome.update.device,
            {
                "id": outcome.update.device,
                "engine": hellos.get(outcome.update.device, {}).get("engine"),
                "updates": 0,
                "batches": 0,
                "macs": 0,
                "vectors": {},
            },
        )
        device["updates"] += 1
        device["macs"] += outcome.macs
        for vector, count in outcome.vectors.items():
            device["batches"] += count
            device["vectors"][vector] = device["vectors"].get(vector, 0) + count
    totals: dict[str, int] = {}
    for device in devices.values():
        for vector, count in device["vectors"].items():
            totals[vector] = totals.get(vector, 0) + count
    num_batches = sum(totals.values())
    last = curve[-1] if curve else None
    peers, streams = peers_of(database, run), streams_of(database, run)
    engines = sorted({device["engine"] for device in devices.values()} - {None})
    return {
        **about,
        **({"engine": ", ".join(engines)} if engines else {}),
        "run": run,
        "accuracy": measured[-1][1] if measured else None,
        "accuracy_curve": [[round(wall_s, 3), accuracy] for wall_s, accuracy in measured],
        "rounds": window * max((version.round for version in curve), default=0) // num_windows,
        "wall_s": round(last.wall_s, 3) if last else 0.0,
        "bytes_sent": last.bytes_sent if last else 0,
        "macs": sum(device["macs"] for device in devices.values()),
        "updates_applied": sum(outcome.outcome == "applied" for outcome in outcomes),
        "updates_expired": sum(outcome.outcome == "expired" for outcome in outcomes),
        "updates_refused": sum(outcome.outcome == "refused" for outcome in outcomes),
        "staleness": histogram(outcome.staleness for outcome in outcomes),
        "vector_shares": {
            vector: round(count / num_batches, 4)
            for vector, count in sorted(totals.items(), key=lambda item: -item[1])
        },
        "devices": [devices[name] for name in sorted(devices)],
        **({} if peers is None else {"peers": peers_json(peers)}),
        **({} if streams is None else _of_streams(streams_json(streams))),
    }


def _of_streams(seen: dict[str, Any]) -> dict[str, Any]:
    """What a report says of streams; its accuracy is that of all predictions, not of the last window's."""
    return {"accuracy": seen["accuracy"], "f1": seen["f1"], "streams": seen}


def peers_of(database: Database, run: str, offset_s: float = 0.0) -> PeerView | None:
    """What the devices of a run told of their exchanges; None if they told nothing.

    Args:
        database: that holds the run.
        run: its id.
        offset_s: from seconds of the run to those of another clock.
    """
    told = [
        Told(
            outcome.update.device,
            outcome.peers["round"],
            msgspec.convert(outcome.peers, PeerReport),
            in_time=outcome.outcome == "applied",
        )
        for outcome in database.outcomes(run)
        if outcome.peers is not None
    ]
    return fold_run(told, _closed_s(database, run, offset_s)) if told else None


def streams_of(database: Database, run: str, offset_s: float = 0.0) -> StreamView | None:
    """What the devices of a run told of their streams; None if they told nothing.

    Args:
        database: that holds the run.
        run: its id.
        offset_s: from seconds of the run to those of another clock.
    """
    told = [
        ToldOfStream(
            outcome.update.device,
            outcome.stream["round"],
            msgspec.convert(outcome.stream, StreamReport),
            in_time=outcome.outcome == "applied",
        )
        for outcome in database.outcomes(run)
        if outcome.stream is not None
    ]
    return fold_streams(told, _closed_s(database, run, offset_s)) if told else None


def _closed_s(database: Database, run: str, offset_s: float) -> dict[int, float]:
    """When each round was completed: of its versions the first did."""
    return {version.round: version.wall_s + offset_s for version in reversed(database.curve(run))}


def _outcome(settled: Settled, window: int | None = None) -> Outcome:
    """As it is kept; what is in a version belongs to its window, whatever the device says."""
    number = settled.round if window is None or settled.outcome != "applied" else window
    peers = settled.peers
    if peers is not None and not all(map(math.isfinite, peers.sketch)):
        peers = msgspec.structs.replace(peers, sketch=())  # JSON has no NaN, and not every database takes it
    return Outcome(
        update=UpdateId(settled.device, settled.boot_epoch, settled.sequence),
        outcome=settled.outcome,
        reason=settled.reason,
        macs=settled.macs,
        vectors=settled.vectors,
        staleness=settled.staleness,
        peers=None if peers is None else {"round": number, **msgspec.to_builtins(peers)},
        stream=None if settled.stream is None else {"round": number, **msgspec.to_builtins(settled.stream)},
    )
