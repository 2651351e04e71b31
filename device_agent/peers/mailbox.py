"""The newest weights that each neighbour pushed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.subnet import Array

Name = tuple[int, int]
"""(boot epoch, sequence) of a message: later ones of a sender are greater."""


@dataclass(frozen=True, kw_only=True)
class Letter:
    """Weights that a neighbour pushed.

    Attributes:
        name: of its message. degree: neighbours that the sender has. step: barriers it has passed.
        weights: float32 tensors. sent_s: when they were sent, by the receiver's clock.
    """

    name: Name
    degree: int
    step: int
    weights: Mapping[str, Array]
    sent_s: float


@dataclass
class Mailbox:
    """Latest wins; a repeat or an older message changes nothing.

    Attributes:
        max_age_s: older weights are not mixed.
        consumes: whether weights are mixed once; else at every step, until newer ones come or they are old.
    """

    max_age_s: float
    consumes: bool = True
    _letters: dict[str, Letter] = field(default_factory=dict)
    _newest: dict[str, tuple[Name, int]] = field(default_factory=dict)

    def is_news(self, sender: str, name: Name) -> bool:
        """Whether nothing so new has come from this sender."""
        return sender not in self._newest or name > self._newest[sender][0]

    def put(self, sender: str, letter: Letter) -> bool:
        """Keep weights in place of the sender's older ones; False if there are newer ones already."""
        if not self.is_news(sender, letter.name):
            return False
        self._newest[sender] = letter.name, letter.step
        self._letters[sender] = letter
        return True

    def step_of(self, sender: str) -> int:
        """Barriers that the sender had passed when it last pushed; -1 before it ever did."""
        return self._newest[sender][1] if sender in self._newest else -1

    def take(self, now_s: float) -> dict[str, Letter]:
        """The letters to mix now, by sender."""
        fresh = {
            sender: letter
            for sender, letter in sorted(self._letters.items())
            if now_s - letter.sent_s <= self.max_age_s
        }
        self._letters = {} if self.consumes else dict(fresh)
        return fresh
