"""The Stream seam: samples and labels as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from models.subnet import Array


class Sample(NamedTuple):
    """One event of a stream: a sample, its label, or both.

    Attributes:
        number: names it within this stream of this device, rising.
        vector: float32 [d], not to be changed; None: only the label of an earlier sample has come.
        label: its class; None: it comes later, or never.
    """

    number: int
    vector: Array | None
    label: int | None


Deliver = Callable[[Sequence[Sample]], None]
"""Called with one event or more, in order. It may hold, rest or stop the stream that calls it."""


class Stream(Protocol):
    """Delivers samples from `start` to `stop`, once in its life; all calls are on the node's thread."""

    @property
    def num_left(self) -> int | None:
        """Samples to come; None: endless."""
        ...

    @property
    def num_missed(self) -> int:
        """Events of a live stream that came while it was held, waited too long, or could not be read."""
        ...

    def start(self, deliver: Deliver, ended: Callable[[], None]) -> None:
        """Call `deliver` with what comes, and `ended` after the last."""
        ...

    def hold(self) -> None:
        """Pause: a stored stream waits; what comes of a live one is left out and counted."""
        ...

    def rest(self) -> None:
        """Deliver nothing for a while; what comes of a live stream waits, as much as memory allows."""
        ...

    def go_on(self) -> None:
        """End the pause, or the rest."""
        ...

    def stop(self) -> None:
        """Deliver nothing more; nobody is told that it ended."""
        ...
