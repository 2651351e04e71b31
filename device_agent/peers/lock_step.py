"""A step that waits for neighbours, which only the pace `synchronous` has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from device_agent.wire.messages import Envelope


@dataclass
class LockStep:
    """Whom the present step waits for.

    Attributes:
        max_age_s: a neighbour is waited for so long; then no more until it is heard of.
        retry_s: after so long what is waited for is asked for again, for it may have been lost.
        since_s: when the waiting began, None: nothing waits. again_s: when to ask again.
        waits_for: these. absent: not waited for.
        held: by sender, offers of neighbours who are ahead, with the time they were sent at.
    """

    max_age_s: float
    retry_s: float
    since_s: float | None = None
    again_s: float = 0.0
    waits_for: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    held: dict[str, tuple[Envelope, float]] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether a step waits now."""
        return self.since_s is not None

    def begin(self, now_s: float, neighbours: Iterable[str]) -> None:
        """Wait for these from now on, but for those that are absent."""
        self.since_s, self.again_s = now_s, now_s + self.retry_s
        self.waits_for = set(neighbours) - self.absent

    def heard_of(self, neighbour: str) -> None:
        """It is not absent."""
        self.absent.discard(neighbour)

    def release(self) -> list[tuple[Envelope, float]]:
        """The offers that were held."""
        held, self.held = self.held, {}
        return list(held.values())

    def due_s(self) -> list[float]:
        """When something is to be done."""
        return [] if self.since_s is None else [self.again_s, self.since_s + self.max_age_s]

    def asks_again(self, now_s: float) -> bool:
        """Whether it is time to; if so, the next time is set."""
        if self.since_s is None or now_s < self.again_s:
            return False
        self.again_s = now_s + self.retry_s
        return True

    def ends(self, now_s: float) -> bool:
        """Whether the waiting is over just now: for nobody any more, or too long."""
        if self.since_s is None:
            return False
        if now_s - self.since_s >= self.max_age_s:
            self.absent |= self.waits_for
            self.waits_for = set()
        if self.waits_for:
            return False
        self.since_s = None
        return True
