"""The live driver of the training job: a thread that grants budgets, measures seconds and rests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from device_agent.throttle import DutyCycle
from device_agent.training import Job, StepCost, TrainingResult
from firmware_profiles.errors import EdgetideError
from firmware_profiles.resources import Budget, Pause, Task

log = logging.getLogger(__name__)

PAUSE_S = 0.25
"""How often a paused job asks whether it may go on."""


@dataclass(frozen=True, kw_only=True)
class Worked:
    """A job's result with the seconds it took: computing, and on the wall."""

    result: TrainingResult
    busy_s: float
    wall_s: float


Grant = Callable[[Task], Union[Budget, Pause]]
Work = Callable[[int, threading.Event], Union[Worked, None]]
"""Called with the ticket that names the job, and the event that stops it."""


def remaining(time_left_s: float, num_batches_left: int, pace_s: float) -> Task:
    """What is left of a job: time lost in pauses costs mini-batches, it does not shrink the network.

    Args:
        time_left_s: seconds until the deadline.
        num_batches_left: mini-batches ordered and not trained.
        pace_s: seconds per mini-batch that the order allowed.
    """
    reachable = max(1, round(time_left_s / pace_s))
    return Task(time_left_s=time_left_s, num_batches_left=max(1, min(num_batches_left, reachable)))


def drive(
    job: Job,
    *,
    num_batches: int,
    deadline_at_s: float,
    grant: Grant,
    observe: Callable[[StepCost, float], None],
    report: Callable[[Union[StepCost, Pause]], None],
    stop: threading.Event,
    num_cores: int,
) -> Worked | None:
    """Run a job to its end on this thread.

    Args:
        job: a fresh generator of `device_agent.training.train`.
        num_batches: mini-batches ordered.
        deadline_at_s: when to finish, in seconds of `time.monotonic`.
        grant: the budget of this moment, or why to pause.
        observe: told each step with the seconds of one core it took.
        report: told each step, and each pause.
        stop: set from outside to give the job up within one mini-batch.
        num_cores: cores of the machine, to which shares refer.

    Returns:
        What was learned and how long it took, or None if it was stopped.
    """
    began_s, busy_s, done = time.monotonic(), 0.0, 0
    pace_s = max(1e-3, (deadline_at_s - began_s) / num_batches)
    duty = DutyCycle(stop)
    next(job)
    try:
        while not stop.is_set():
            left_s = deadline_at_s - time.monotonic()
            task = remaining(left_s, num_batches - done, pace_s)
            budget = None if left_s <= 0 or done >= num_batches else grant(task)
            if isinstance(budget, Pause):
                report(budget)
                stop.wait(min(PAUSE_S, left_s))
                duty.reset()
                continue
            cpu_began_s = time.process_time()
            yielded = job.send(budget)
            core_s = time.process_time() - cpu_began_s
            if not isinstance(yielded, StepCost):
                if isinstance(yielded, Pause):
                    report(yielded)
                    stop.wait(min(PAUSE_S, max(0.0, left_s)))
                continue
            busy_s += core_s
            done += 1
            observe(yielded, core_s)
            report(yielded)
            assert budget is not None
            while not duty.rest(budget.cpu_share_fraction, num_cores) and time.monotonic() < deadline_at_s:
                now = grant(task)  # a share that has grown, or a pause, ends a long rest sooner
                if stop.is_set() or isinstance(now, Pause):
                    break
                budget = now
    except StopIteration as end:
        return Worked(result=end.value, busy_s=busy_s, wall_s=time.monotonic() - began_s)
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
