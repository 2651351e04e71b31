"""What only the coordinator's core decides; the rest is in `device_agent.effects`."""

from __future__ import annotations

from dataclasses import dataclass, field

import device_agent.effects as shared
from device_agent.wire.messages import PeerReport
from device_agent.wire.stream_report import StreamReport
from models.subnet import Array


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What became of one update for good: the key of exactly-once application.

    Attributes:
        device, boot_epoch, sequence: name the update for ever.
        outcome: applied, expired or refused.
        reason: why, "" if applied.
        macs: training MACs it reported. vectors: "8-16-16" -> mini-batches trained with that vector.
        staleness: versions that it was late, None unless applied.
        round: of its order. peers: what it told of its exchanges; None of a method without.
        stream: what it told of its stream; None of a method that trains a network.
    """

    device: str
    boot_epoch: int
    sequence: int
    outcome: str
    reason: str = ""
    macs: int = 0
    vectors: dict[str, int] = field(default_factory=dict)
    round: int = 0
    peers: PeerReport | None = None
    stream: StreamReport | None = None
    staleness: int | None = None


@dataclass(frozen=True, kw_only=True)
class Commit:
    """In one transaction: store these weights as `version`, and what became of these updates.

    Then call `on_committed(digest)`. Nothing is acknowledged before.
    """

    version: int
    round: int
    weights: dict[str, Array]
    settled: tuple[Settled, ...]


@dataclass(frozen=True)
class Record:
    """Remember what became of an update that changed no model (expired or refused)."""

    settled: Settled


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure the accuracy of this version, then call `on_evaluated`."""

    version: int
    weights: dict[str, Array]


@dataclass(frozen=True)
class Finished:
    """The run is over: every round is committed and evaluated."""


CoordinatorEffect = shared.Effect | Commit | Record | Evaluate | Finished
