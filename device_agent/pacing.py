"""A training job at the pace its budgets allow, for any clock: live thread and twin drive the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from device_agent.throttle import DutyCycle
from device_agent.training import Job, StepCost, TrainingResult
from firmware_profiles.resources import Budget, Pause, Task

PAUSE_S = 0.25
"""How often a paused job asks whether it may go on."""

TELL_S = 1.0
"""Saving up time for the cheapest vector is called a pause when it takes as long as this."""

REST_S = 0.5
"""A longer rest comes in pieces, so that a share that has grown, or a pause, ends it sooner."""


@dataclass(frozen=True, kw_only=True)
class Worked:
    """A job's result with the seconds it took: computing, and on the wall."""

    result: TrainingResult
    busy_s: float
    wall_s: float


Grant = Callable[[Task], Budget | Pause]
Pace = Generator[float, None, Worked]
"""Yields seconds to let pass before it goes on; returns the result. Close it to give the job up."""


def remaining(time_left_s: float, num_batches_left: int, batch_s: float) -> Task:
    """What is left of a job: time lost in pauses costs mini-batches, it does not shrink the network.

    Args:
        time_left_s: seconds until the deadline.
        num_batches_left: mini-batches ordered and not trained.
        batch_s: seconds the next mini-batch may take at least: the order's pace, and what was saved.
    """
    reachable = max(1, round(time_left_s / batch_s))
    return Task(time_left_s=time_left_s, num_batches_left=max(1, min(num_batches_left, reachable)))


def no_seconds(_cost: StepCost) -> float:
    """Live, the seconds of a step have passed when it is done."""
    return 0.0


def pace(
    job: Job,
    *,
    num_batches: int,
    deadline_at_s: float,
    grant: Grant,
    observe: Callable[[StepCost, float], None],
    report: Callable[[StepCost | Pause], None],
    num_cores: int,
    clock: Callable[[], float] = time.monotonic,
    cpu_clock: Callable[[], float] = time.process_time,
    step_s: Callable[[StepCost], float] = no_seconds,
) -> Pace:
    """Run a job to its end.

    Args:
        job: a fresh generator of `device_agent.training.train`.
        num_batches: mini-batches ordered.
        deadline_at_s: when to finish, in seconds of `clock`.
        grant: the budget of this moment, or why to pause.
        observe: told each step with the seconds of one core it took.
        report: told each step, and each pause.
        num_cores: cores of the machine, to which shares refer.
        clock: monotonic seconds.
        cpu_clock: core-seconds used so far.
        step_s: seconds that a step just computed has yet to take, where time is a model; it moves
            `cpu_clock` too.
    """
    began_s, busy_s, done = clock(), 0.0, 0
    pace_s = max(1e-3, (deadline_at_s - began_s) / num_batches)
    saved_s = 0.0  # while even the cheapest vector is too dear, time is saved up for it
    duty = DutyCycle(clock=clock, cpu_clock=cpu_clock)
    with closing(job):
        next(job)
        try:
            while True:
                left_s = deadline_at_s - clock()
                task = remaining(left_s, num_batches - done, pace_s + saved_s)
                budget = None if left_s <= 0 or done >= num_batches else grant(task)
                if isinstance(budget, Pause):
                    report(budget)
                    yield min(PAUSE_S, left_s)
                    duty.reset()
                    continue
                step_began_s, cpu_began_s = clock(), cpu_clock()
                yielded = job.send(budget)
                if not isinstance(yielded, StepCost):
                    if isinstance(yielded, Pause):
                        if saved_s >= TELL_S:
                            report(yielded)
                        yield min(pace_s, PAUSE_S, max(0.0, left_s))
                        saved_s += clock() - step_began_s
                    continue
                if (takes_s := step_s(yielded)) > 0:
                    yield takes_s
                core_s = cpu_clock() - cpu_began_s
                busy_s += core_s
                done += 1
                observe(yielded, core_s)
                report(yielded)
                assert budget is not None
                yield from _rest(duty, budget, lambda task=task: grant(task), num_cores, deadline_at_s, clock)
                saved_s = max(0.0, saved_s - max(0.0, clock() - step_began_s - pace_s))
        except StopIteration as end:
            return Worked(result=end.value, busy_s=busy_s, wall_s=clock() - began_s)


def _rest(
    duty: DutyCycle,
    budget: Budget,
    again: Callable[[], Budget | Pause],
    num_cores: int,
    deadline_at_s: float,
    clock: Callable[[], float],
) -> Generator[float, None, None]:
    """Rest until the account is settled, at the share of the moment; a pause and the deadline end it."""
    while (left_s := deadline_at_s - clock()) > 0:
        owed_s = duty.owed_s(budget.cpu_share_fraction, num_cores)
        if owed_s > 0:
            yield min(owed_s, REST_S, left_s)
        if owed_s <= REST_S:
            return
        granted = again()
        if isinstance(granted, Pause):
            return
        budget = granted
