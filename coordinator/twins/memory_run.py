"""A simulated run's RunState: what a database keeps of a live one, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.effects import Commit, Settled
from device_agent.effects import Note
from device_agent.wire.messages import Hello, Run


@dataclass
class MemoryRun:
    """Keeps one run.

    Attributes:
        clock: virtual seconds.
        committed_s: when each version was committed. accuracies: of the versions measured.
        losses: mean losses of the same. settled: what became of every update.
        events: how often each event was noted.
    """

    clock: Callable[[], float]
    committed_s: dict[int, float] = field(default_factory=lambda: {0: 0.0})
    accuracies: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    settled: list[Settled] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)

    def commit(self, commit: Commit, bytes_sent: int) -> None:
        """Keep a version's time and what became of its updates."""
        del bytes_sent  # the simulator counts at the senders
        self.committed_s[commit.version] = self.clock()
        self.settled += commit.settled

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

    def curve(self) -> list[tuple[float, float]]:
        """(virtual second of the commit, accuracy 0..1) of each version, in order."""
        return [(self.committed_s[version], self.accuracies[version]) for version in sorted(self.accuracies)]
