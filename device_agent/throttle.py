"""Holding learning to its share of the CPU: compute, then rest until the share is met."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MAX_DEBT_CORE_S = 60.0
"""Beyond this a step was so out of scale that resting for it in full would look like a hang."""

MAX_CREDIT_S = 0.1
"""Time not used is saved up only this long: a pause buys no burst afterwards."""

NICENESS = 10


def rest_s(busy_core_s: float, wall_s: float, share_fraction: float, num_cores: int) -> float:
    """Seconds to rest so that busy core-seconds over wall seconds equal the granted cores.

    Args:
        busy_core_s: core-seconds that were computed, summed over all threads.
        wall_s: seconds that passed meanwhile.
        share_fraction: granted share of all cores, above 0.
        num_cores: all cores.

    Returns:
        Seconds, 0 or more.
    """
    return max(0.0, busy_core_s / (share_fraction * num_cores) - wall_s)


def settle(
    debt_core_s: float, busy_core_s: float, wall_s: float, share_fraction: float, num_cores: int
) -> float:
    """Carry the account over one stretch of time.

    The debt is in core-seconds, not in seconds of rest: when the share changes, what is owed is
    paid at the new share.

    Returns:
        The new debt; negative is credit. Bounded by MAX_DEBT_CORE_S and by MAX_CREDIT_S of the share.
    """
    cores = share_fraction * num_cores
    return min(MAX_DEBT_CORE_S, max(-MAX_CREDIT_S * cores, debt_core_s + busy_core_s - cores * wall_s))


class DutyCycle:
    """The account of what was computed and what was granted, from which follows how long to rest.

    Args:
        clock: monotonic seconds.
        cpu_clock: core-seconds used so far. By default of the whole process, all threads included:
            what is granted, is granted to the process.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._debt_core_s = 0.0
        self._at = clock(), cpu_clock()

    def reset(self) -> None:
        """Forget the account: a new job begins, or it goes on after a pause."""
        self._debt_core_s = 0.0
        self._at = self._clock(), self._cpu_clock()

    def owed_s(self, share_fraction: float, num_cores: int) -> float:
        """Bring the account up to now and say how long to rest at this share."""
        wall_s, cpu_s = self._clock(), self._cpu_clock()
        self._debt_core_s = settle(
            self._debt_core_s, cpu_s - self._at[1], wall_s - self._at[0], share_fraction, num_cores
        )
        self._at = wall_s, cpu_s
        return rest_s(self._debt_core_s, 0.0, share_fraction, num_cores)


def be_nice() -> None:
    """Yield to everything else on the board. Never fails: what is not permitted is left as it is.

    On Linux niceness belongs to a thread and is inherited by those it starts: call it first of all.
    I/O gets the lowest best-effort priority, not the idle class, which could starve the outbox.
    """
    with contextlib.suppress(OSError):
        os.nice(max(0, NICENESS - os.getpriority(os.PRIO_PROCESS, 0)))
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        # Where the kernel schedules sessions as groups, niceness counts within ours only: the group's own
        # has to be set too (sched(7), "The autogroup feature"). A shell's session is not ours to slow down.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS), "ascii")
    with contextlib.suppress(OSError, psutil.Error, AttributeError, ValueError):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, 7)
