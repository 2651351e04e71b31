"""A simulated run's RunState: what a database keeps of a live one, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coordinator.effects import Commit, Settled
from coordinator.stream_view import summed
from device_agent.effects import Note
from device_agent.wire.messages import Hello, Run
from models.prototypes.prequential import accuracy
from models.subnet import Array


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The newest version, where a coordinator that is started again goes on.

    Attributes:
        version, round: its numbers. weights: of it.
        before: weights of the version before, None where another model took its place.
        oldest_base: the newest version that completed no round: a model that was rolled out, or the first.
    """

    version: int = 0
    round: int = 0
    weights: Mapping[str, Array]
    before: Mapping[str, Array] | None = None
    oldest_base: int = 0

    def after(self, commit: Commit) -> Stored:
        """What is stored when a version has been committed."""
        is_replaced = commit.round == self.round
        return Stored(
            version=commit.version,
            round=commit.round,
            weights=commit.weights,
            before=None if is_replaced else self.weights,
            oldest_base=commit.version if is_replaced else self.oldest_base,
        )


@dataclass
class MemoryRun:
    """Keeps one run.

    Attributes:
        clock: virtual seconds. stored: the newest version.
        committed_s: when each version was committed. closed_s: when each round was.
        accuracies: of the versions measured. losses: mean losses of the same.
        settled: what became of every update.
        events: how often each event was noted.
    """

    clock: Callable[[], float]
    stored: Stored
    committed_s: dict[int, float] = field(default_factory=lambda: {0: 0.0})
    closed_s: dict[int, float] = field(default_factory=dict)
    accuracies: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    settled: list[Settled] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)

    def commit(self, commit: Commit, bytes_sent: int) -> None:
        """Keep a version's time and what became of its updates."""
        del bytes_sent  # the simulator counts at the senders
        self.committed_s[commit.version] = self.clock()
        self.closed_s.setdefault(commit.round, self.clock())  # a model that is replaced closes none
        self.settled += commit.settled
        self.stored = self.stored.after(commit)

    def record(self, settled: Settled) -> None:
        """Keep what became of an update that changed no model."""
        self.settled.append(settled)

    def evaluated(self, version: int, accuracy: float, loss: float) -> None:
        """Add a version's accuracy to the curve."""
        self.accuracies[version], self.losses[version] = accuracy, loss

    def device(self, hello: Hello) -> None:
        """Nothing: the simulator knows its devices."""

    def event(self, note: Note) -> None:
        """Count an event."""
        self.events[note.event] += 1

    def announced(self, run: Run) -> None:
        """Nothing: the core has it."""

    def share_predicted(self, version: int) -> float:
        """Share of right predictions in the reports of a version's window; of none that of the one before."""
        closed = {time_s: window for window, time_s in self.closed_s.items()}
        window = closed.get(self.committed_s[version])
        counts = summed(
            one.stream
            for one in self.settled
            if one.stream is not None and one.outcome == "applied" and one.round == window
        )
        found = None if counts is None else accuracy(counts)
        return (self.newest_accuracy or 0.0) if found is None else found

    @property
    def newest_accuracy(self) -> float | None:
        """Of the newest version that was measured; None before the first."""
        return self.accuracies[max(self.accuracies)] if self.accuracies else None

    def curve(self) -> list[tuple[float, float]]:
        """(virtual second of the commit, accuracy 0..1) of each version, in order."""
        return [(self.committed_s[version], self.accuracies[version]) for version in sorted(self.accuracies)]
