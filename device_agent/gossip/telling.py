"""What a gossiper asks to be told to neighbours, and how whispers are numbered and known again."""

from __future__ import annotations

from dataclasses import dataclass, field

from device_agent.wire.whispers import SCHEMA_VERSION, Said, Whisper

ALL = "all"
"""In place of a neighbour's id: to everybody who listens, in one message."""

REMEMBERED = 1024
"""Of each neighbour's newest whispers it is known which came; older ones count as repeats."""

NEVER = -1
"""In place of a boot epoch or a sequence: none was heard yet."""


@dataclass(frozen=True)
class Tell:
    """Say this to a neighbour, or to ALL; it may be lost."""

    to: str
    whisper: Whisper


@dataclass
class Numbering:
    """Numbers a device's own whispers.

    Attributes:
        run: mark of the run. boot_epoch: of this life. next_sequence: counts them.
    """

    run: int
    boot_epoch: int
    next_sequence: int = 0

    def tell(self, to: str, said: Said, age_s: float = 0.0) -> Tell:
        """The message; `age_s` is its content's."""
        whisper = Whisper(
            SCHEMA_VERSION, self.run, self.boot_epoch, self.next_sequence, round(1000 * age_s), said
        )
        self.next_sequence += 1
        return Tell(to, whisper)


@dataclass
class Heard:
    """Which whispers of one neighbour have come: each counts once, in whatever order.

    Attributes:
        boot_epoch: of its newest life that was heard. highest: sequence in it.
    """

    boot_epoch: int = NEVER
    highest: int = NEVER
    _came: set[int] = field(default_factory=set)

    def is_new(self, whisper: Whisper) -> bool:
        """Whether it comes for the first time; remembers it."""
        if whisper.boot_epoch < self.boot_epoch:
            return False
        if whisper.boot_epoch > self.boot_epoch:
            self.boot_epoch, self.highest, self._came = whisper.boot_epoch, NEVER, set()
        number = whisper.sequence
        if number <= self.highest - REMEMBERED or number in self._came:
            return False
        self.highest = max(self.highest, number)
        self._came.add(number)
        if len(self._came) > 2 * REMEMBERED:
            self._came = {one for one in self._came if one > self.highest - REMEMBERED}
        return True
