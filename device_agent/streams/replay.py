"""A stored stream, played in its own time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from device_agent.loop import Timers
from device_agent.streams.stream import Deliver, Sample
from models.subnet import Array, Indices

TIMER = "stream"

BETWEEN_S = 0.02
"""From the end of a delivery to the next, at least; what is due in the meantime comes together. So a board
that is slower than its stream still hears its neighbours."""

MOST_EVENTS = 64
"""In one delivery, so that the loop can do other things before the next."""


def _nothing(*_arguments: object) -> None:
    """Before the start there is nobody to tell."""


class ReplayStream:
    """Plays samples when they are due; while it is held its clock stands still.

    Step k brings sample k, and the label of sample k - label_delay; after the last sample the labels that
    are still missing come at once.

    Args:
        vectors: float32 [n, d]. labels: int64 [n].
        times_s: float64 [n], ascending, seconds from the start of the replay.
        timers: of the node.
        label_delay: own samples that come before a sample's label; 0: it comes with its sample.
        position: samples consumed in an earlier life; the next one comes at once, and the others as long
            after it as they would have.
        passes: how often all is gone through. Numbers go on rising. A pass takes as long as from the first
            sample to the last, and a mean gap more.

    Raises:
        ValueError: lengths differ, times do not ascend from 0 or above, or a count is too small.
    """

    num_missed = 0

    def __init__(
        self,
        vectors: Array,
        labels: Indices,
        times_s: NDArray[np.float64],
        timers: Timers,
        *,
        label_delay: int = 0,
        position: int = 0,
        passes: int = 1,
    ) -> None:
        if not len(vectors) == len(labels) == len(times_s):
            raise ValueError(f"{len(vectors)} samples, {len(labels)} labels and {len(times_s)} times")
        if len(times_s) and not (
            np.isfinite(times_s).all() and times_s[0] >= 0 and (np.diff(times_s) >= 0).all()
        ):
            raise ValueError("times of a replay do not ascend from 0 or above")
        if label_delay < 0 or position < 0 or passes < 1:
            raise ValueError(f"label delay {label_delay}, position {position}, {passes} passes")
        self._vectors, self._labels, self._times_s, self._timers = vectors, labels, times_s, timers
        self._label_delay = label_delay
        self._num_samples = len(labels) * passes
        self._num_steps = self._num_samples + label_delay if len(labels) else 0
        self._next = min(position, self._num_samples)
        gaps = len(labels) - 1
        self._period_s = (times_s[-1] - times_s[0]) * (gaps + 1) / gaps if gaps > 0 else 0.0
        self._skipped_s = 0.0
        self._skipped_s = self._due_s(self._next) if position and len(labels) else 0.0
        self._deliver: Deliver = _nothing
        self._ended: Callable[[], None] = _nothing
        self._running = self._held = False
        # All in seconds of the replay, but for the moment when it began, in seconds of the timers' clock.
        self._began_s = self._played_s = self._aimed_s = self._earliest_s = 0.0

    @property
    def num_left(self) -> int:
        """Samples to come."""
        return max(0, self._num_samples - self._next)

    def start(self, deliver: Deliver, ended: Callable[[], None]) -> None:
        """Play; the first sample comes after its time, not within this call."""
        self._deliver, self._ended, self._running = deliver, ended, True
        self._began_s = self._timers.now_s()
        if not self._held:
            self._aim()

    def hold(self) -> None:
        """Stand still. Twice is harmless."""
        if self._running and not self._held:
            self._played_s = self._timers.now_s() - self._began_s
            self._timers.cancel_timer(TIMER)
        self._held = True

    def rest(self) -> None:
        """The same: a stored stream has time."""
        self.hold()

    def go_on(self) -> None:
        """Play on from where it stood. Twice is harmless."""
        if self._running and self._held:
            self._began_s = self._timers.now_s() - self._played_s
            self._held = False
            self._aim()
        self._held = False

    def stop(self) -> None:
        """Deliver nothing more."""
        self._running = False
        self._timers.cancel_timer(TIMER)

    def _aim(self) -> None:
        """Set the timer for what is due next."""
        played_s = self._timers.now_s() - self._began_s
        due_s = played_s if self._next >= self._num_steps else self._due_s(self._next)
        self._aimed_s = max(due_s, self._earliest_s)
        self._timers.set_timer(TIMER, max(0.0, self._aimed_s - played_s), self._play)

    def _play(self) -> None:
        # The timer was for the aim; the clock may be short of it by rounding.
        played_s = max(self._timers.now_s() - self._began_s, self._aimed_s)
        samples = self._take(played_s)
        if samples:
            self._deliver(samples)
        done_s = max(self._timers.now_s() - self._began_s, played_s)
        self._earliest_s = done_s + BETWEEN_S
        if not self._running or self._held:
            return
        if self._next < self._num_steps:
            self._aim()
        else:
            self._running = False
            self._ended()

    def _take(self, played_s: float) -> list[Sample]:
        """The events that are due, as many as fit into one delivery."""
        events: list[Sample] = []
        while self._next < self._num_steps and len(events) < MOST_EVENTS - 1:
            if self._due_s(self._next) > played_s:
                break
            events += self._step(self._next)
            self._next += 1
        return events

    def _step(self, step: int) -> list[Sample]:
        if self._label_delay == 0:
            return [Sample(step, self._vector(step), self._label(step))]
        events = [Sample(step, self._vector(step), None)] if step < self._num_samples else []
        labelled = step - self._label_delay
        if labelled >= 0:
            events.append(Sample(labelled, None, self._label(labelled)))
        return events

    def _vector(self, number: int) -> Array:
        return self._vectors[number % len(self._vectors)]

    def _label(self, number: int) -> int:
        return int(self._labels[number % len(self._labels)])

    def _due_s(self, step: int) -> float:
        """When a step is due in seconds of the replay; labels after the last sample are due with it."""
        number_of_pass, index = divmod(min(step, self._num_samples - 1), len(self._times_s))
        return float(number_of_pass * self._period_s + self._times_s[index]) - self._skipped_s
