"""What the database keeps, as plain data, and how rows become it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
        bytes_sent: payload bytes of the run so far.
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
    """

    update: UpdateId
    outcome: str = "applied"
    reason: str = ""
    macs: int = 0
    vectors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an update for good.

    Attributes:
        outcome: applied, expired or refused.
        reason: why, "" if applied.
        macs: training MACs it reported.
        vectors: "8-16-16" -> mini-batches trained with that vector.
    """

    update: UpdateId
    outcome: str
    reason: str = ""
    macs: int = 0
    vectors: Mapping[str, int] = field(default_factory=dict)


def run_of(row: sa.Row, config: Mapping[str, Any]) -> Run:
    """A row of `runs`, with the config that is in force now."""
    names = ("id", "strategy", "graph_digest", "seed", "state", "created_s")
    return Run(**{name: getattr(row, name) for name in names}, config=config)


def version_of(row: sa.Row) -> Version:
    """A row of `versions`."""
    return Version(**{entry.name: getattr(row, entry.name) for entry in fields(Version)})


def outcome_of(row: sa.Row) -> Outcome:
    """A row of `outcomes`."""
    return Outcome(
        update=UpdateId(row.device, row.boot_epoch, row.sequence),
        outcome=row.outcome,
        reason=row.reason,
        macs=row.macs,
        vectors=row.vectors,
    )


def outcome_values(outcome: Outcome) -> dict[str, Any]:
    """The columns of an outcome."""
    rest = {
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "macs": outcome.macs,
        "vectors": dict(outcome.vectors),
    }
    return {**vars(outcome.update), **rest}
