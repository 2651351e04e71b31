"""A simulated run's RunState: what a database keeps of a live one, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from coordinator.effects import Commit, Settled
from device_agent.effects import Note
from device_agent.wire.messages import Hello, Run
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
        # What is in a version belongs to its window, whatever the device says.
        self.settled += [replace(one, round=commit.round) for one in commit.settled]
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

    @property
    def newest_accuracy(self) -> float | None:
        """Of the newest version that was measured; None before the first."""
        return self.accuracies[max(self.accuracies)] if self.accuracies else None

    def curve(self) -> list[tuple[float, float]]:
        """(virtual second of the commit, accuracy 0..1) of each version, in order."""
        return [(self.committed_s[version], self.accuracies[version]) for version in sorted(self.accuracies)]
