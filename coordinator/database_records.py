"""What the database keeps, as plain data, and how it becomes rows and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes:
        id: `[a-z0-9-]{1,64}`.
        graph_digest: digest of the model graph.
        config: settings of the run, JSON-ready.
        state: waiting, training or finished.
        created_s: Unix time.
    """

    id: str
    strategy: str
    graph_digest: str
    config: Mapping[str, Any]
    seed: int
    state: str = "waiting"
    created_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a run's model.

    Attributes:
        version: 0 is the start, then one more a round.
        digest: names the weights in the model store.
        accuracy: on the held-out data, 0..1, or None if it was not measured.
        loss: mean training loss of the updates, or None.
        wall_s: seconds of training since the run began, restarts left out.
        num_updates: updates that this version was made from.
        bytes_sent: payload bytes that crossed the coordinator since the run began.
        created_s: Unix time, stamped when it is committed.
    """

    version: int
    digest: str
    round: int
    accuracy: float | None = None
    loss: float | None = None
    wall_s: float = 0.0
    num_updates: int = 0
    bytes_sent: int = 0
    created_s: float = 0.0


@dataclass(frozen=True, order=True)
class UpdateId:
    """Names an update for ever: who sent it, in which of its starts, as which of its messages."""

    device: str
    boot_epoch: int
    sequence: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an update for good, and the work it reported.

    Attributes:
        outcome: applied, expired or refused. reason: why, "" if applied.
        macs: training MACs.
        vectors: kept channels, written "8-16-16" -> mini-batches trained with them.
        staleness: versions that an applied update was late; None if nobody kept it.
        peers: of a decentralised method: the keys of PeerReport, and its window as `round`.
        stream: of a method that learns from streams: those of StreamReport, and `round`.
    """

    update: UpdateId
    outcome: str = "applied"
    reason: str = ""
    macs: int = 0
    vectors: Mapping[str, int] = field(default_factory=dict)
    peers: Mapping[str, Any] | None = None
    stream: Mapping[str, Any] | None = None
    staleness: int | None = None


def outcome_row(run: str, outcome: Outcome, version: int | None) -> dict[str, Any]:
    """The columns of an outcome; `version` is the one an applied update went into."""
    return {
        "run": run,
        **vars(outcome.update),
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "version": version if outcome.outcome == "applied" else None,
        "macs": outcome.macs,
        "vectors": dict(outcome.vectors),
        "staleness": outcome.staleness,
        "peers": None if outcome.peers is None else dict(outcome.peers),
        "stream": None if outcome.stream is None else dict(outcome.stream),
    }


def run_of(row: sa.Row, config: Mapping[str, Any]) -> Run:
    """A row of `runs`, with the config that is in force now."""
    return Run(
        id=row.id,
        strategy=row.strategy,
        graph_digest=row.graph_digest,
        config=config,
        seed=row.seed,
        state=row.state,
        created_s=row.created_s,
    )


def version_of(row: sa.Row) -> Version:
    """A row of `versions`."""
    values = {name: value for name, value in row._mapping.items() if name != "run"}  # noqa: SLF001 (public by name)
    return Version(**values)
