"""What the two live streams share: numbers samples in order of arrival, and counts what is missed."""

from __future__ import annotations

import logging

from device_agent.streams.log_limit import LogLimit
from device_agent.streams.reading import GivenIds, read_event
from device_agent.streams.stream import Sample
from firmware_profiles.errors import PeerError
from models.data.live import LiveSource

log = logging.getLogger(__name__)


class LiveEvents:
    """Reads events; those that come while it is held are left out, and the unreadable ones are logged.

    Args:
        source: says what an event looks like.
        name: of the source, for the log.
        first_number: of the first sample; in a later life, one that was not used.
        limit: of the log.

    Attributes:
        held: whether what comes is left out.
        num_missed: events that came while held, or could not be read.
    """

    def __init__(
        self, source: LiveSource, name: str, first_number: int = 0, limit: LogLimit | None = None
    ) -> None:
        self.held = False
        self.num_missed = 0
        self._source, self._name, self._next = source, name, first_number
        self._ids = GivenIds()
        self._limit = limit or LogLimit()

    def read(self, payload: bytes) -> Sample | None:
        """The event, or None if it is missed."""
        if self.held:
            self.num_missed += 1
            return None
        try:
            sample = read_event(payload, self._source, self._next, self._ids)
        except PeerError as error:
            self.num_missed += 1
            left_out = self._limit.admit()
            if left_out is not None:
                log.warning("%s: event dropped: %s (%d more not logged)", self._name, error, left_out)
            return None
        if sample.vector is not None:
            self._next += 1
        return sample

    def forget_ids(self) -> None:
        """Ids begin anew, such as in a program that was started again."""
        self._ids = GivenIds()
