"""The live driver of training jobs: a thread on which one runs at a time, until it ends or is given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from device_agent.pacing import Pace, Worked
from firmware_profiles.errors import EdgetideError

log = logging.getLogger(__name__)

Work = Callable[[int, threading.Event], Worked | None]
"""Called with the ticket that names the job, and the event that stops it."""


def drive(job: Pace, stop: threading.Event) -> Worked | None:
    """Run a paced job to its end on this thread.

    Args:
        job: a fresh generator of `device_agent.pacing.pace`.
        stop: set from outside to give the job up within one mini-batch.

    Returns:
        What was learned and how long it took, or None if it was stopped.
    """
    try:
        while not stop.is_set():
            stop.wait(next(job))
    except StopIteration as end:
        return end.value
    job.close()
    return None


class JobThread:
    """At most one training job at a time, on a thread of its own.

    Args:
        done: called on the job's thread with (ticket, Worked) when a job ended by itself.
        failed: called with (ticket, reason) when it could not.
    """

    def __init__(self, done: Callable[[int, Worked], None], failed: Callable[[int, str], None]) -> None:
        self._done, self._failed = done, failed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ticket = 0

    def start(self, work: Work) -> None:
        """Run `work(ticket, stop)`; give up what ran before."""
        self.stop()
        self._ticket += 1
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._ticket, work, self._stop), name="training", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Give the running job up within one mini-batch; returns when its thread has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._ticket += 1

    def current(self, ticket: int) -> bool:
        """Whether this ticket's job is still the one that counts."""
        return ticket == self._ticket

    def _run(self, ticket: int, work: Work, stop: threading.Event) -> None:
        try:
            worked = work(ticket, stop)
        except (EdgetideError, MemoryError) as error:
            self._failed(ticket, str(error) or type(error).__name__)
        except Exception as error:
            log.exception("training job failed")
            self._failed(ticket, f"{type(error).__name__}: {error}")
        else:
            if worked is not None:
                self._done(ticket, worked)
