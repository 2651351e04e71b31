"""What live streams share: numbers samples in order of arrival, delivers them, and counts what is missed."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

from device_agent.loop import Action
from device_agent.streams.backlog import Backlog
from device_agent.streams.log_limit import LogLimit
from device_agent.streams.reading import GivenIds, read_event
from device_agent.streams.stream import Deliver, Sample
from firmware_profiles.errors import PeerError
from models.data.live import LiveSource

log = logging.getLogger(__name__)

MOST_EVENTS = 256
"""Read at a time, so that the loop can do other things before the next."""


class _State(enum.Enum):
    GOING = enum.auto()
    HELD = enum.auto()
    RESTING = enum.auto()
    STOPPED = enum.auto()


class LiveEvents:
    """Takes events from any thread and delivers them on the node's.

    What comes while it is held is left out; what comes while it rests, or faster than the node takes it,
    waits, and when too much waits the oldest is left out. The unreadable is left out and logged.

    Args:
        source: says what an event looks like.
        name: of the source, for the log.
        post: runs an action on the node's thread; safe to call from any thread.
        deliver: takes the samples.
        emptied: told when nothing waits any more.
        first_number: of the first sample; in a later life, one that was not used.
    """

    def __init__(
        self,
        source: LiveSource,
        name: str,
        post: Callable[[Action], None],
        *,
        deliver: Deliver,
        emptied: Callable[[], None] = lambda: None,
        first_number: int = 0,
    ) -> None:
        self._source, self._name, self._next = source, name, first_number
        self._post, self._deliver, self._emptied = post, deliver, emptied
        self._state = _State.GOING
        self._backlog = Backlog()
        self._num_left_out = 0
        self._life, self._ids, self._limit = 0, GivenIds(), LogLimit()

    @property
    def num_missed(self) -> int:
        """Events that came while it was held, that waited too long, or could not be read."""
        return self._num_left_out + self._backlog.num_dropped

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self._backlog.is_empty

    def put(self, event: bytes, life: int = 0) -> None:
        """An event came. Safe to call from any thread.

        Args:
            event: to be read.
            life: of what says it; in each one ids begin anew.
        """
        if self._state is not _State.STOPPED and self._backlog.put(event, life):
            self._post(self._drain)

    def hold(self) -> None:
        """Leave out what waits and what comes."""
        self._enter(_State.HELD)

    def rest(self) -> None:
        """Let wait what comes."""
        self._enter(_State.RESTING)

    def go_on(self) -> None:
        """Deliver what waits and what comes."""
        self._enter(_State.GOING)

    def stop(self) -> None:
        """Deliver nothing more, and forget what waits."""
        self._state = _State.STOPPED
        self._backlog.clear()

    def _enter(self, state: _State) -> None:
        if self._state is _State.STOPPED:
            return
        rested = self._state is _State.RESTING
        self._state = state
        if rested and state is not _State.RESTING:
            self._post(self._drain)

    def _drain(self) -> None:
        if self._state in {_State.RESTING, _State.STOPPED}:
            return  # `_enter` comes back to what waits while it rests
        events, more = self._backlog.take(MOST_EVENTS)
        samples = [sample for life, event in events if (sample := self._read(event, life)) is not None]
        if samples:
            self._deliver(samples)
        if more:
            self._post(self._drain)
        else:
            self._emptied()

    def _read(self, event: bytes, life: int) -> Sample | None:
        """The event, or None if it is missed."""
        if self._state is _State.HELD:
            self._num_left_out += 1
            return None
        if life != self._life:
            self._life, self._ids = life, GivenIds()
        try:
            sample = read_event(event, self._source, self._next, self._ids)
        except PeerError as error:
            self._num_left_out += 1
            left_out = self._limit.admit()
            if left_out is not None:
                log.warning("%s: event dropped: %s (%d more not logged)", self._name, error, left_out)
            return None
        if sample.vector is not None:
            self._next += 1
        return sample
