"""How much of the CPU others use: all that is busy, less what our own processes used."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from device_agent.sensors.procfs import CpuTicks, ProcessTicks


@dataclass(frozen=True)
class Sample:
    """Tick counters at one moment.

    Attributes:
        time_s: of a monotonic clock.
        cpus: by CPU number, only those this process may run on.
        own: by pid, only processes of ours that live.
    """

    time_s: float
    cpus: Mapping[int, CpuTicks]
    own: Mapping[int, ProcessTicks]


def others_fraction(before: Sample, after: Sample) -> float | None:
    """Share of the CPUs' time that processes of others took between two samples, 0..1.

    A process of ours that began, ended or changed its pid in between is left to the next window.
    None if no time has passed.
    """
    shared = before.cpus.keys() & after.cpus.keys()
    busy = sum(after.cpus[cpu].busy - before.cpus[cpu].busy for cpu in shared)
    # Counters of iowait may run backwards (proc(5)).
    idle = max(0, sum(after.cpus[cpu].idle - before.cpus[cpu].idle for cpu in shared))
    if busy < 0 or busy + idle <= 0:
        return None
    own = sum(
        max(0, ticks.used - before.own[pid].used)
        for pid, ticks in after.own.items()
        if pid in before.own and before.own[pid].start == ticks.start
    )
    return min(1.0, max(0.0, (busy - own) / (busy + idle)))


class Window:
    """Mean of others' use over a sliding window: as fast as its length, and as steady."""

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._samples: deque[Sample] = deque()
        self._last: float | None = None

    def add(self, sample: Sample) -> float | None:
        """Take a sample in; the mean over the window, or None before the second sample."""
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.time_s - self._samples[0].time_s > self._length_s:
            self._samples.popleft()
        fraction = others_fraction(self._samples[0], sample)
        # Two readings within one tick say nothing new.
        self._last = self._last if fraction is None else fraction
        return self._last


def usable_cores(num_cpus: int, others: float | None, quota_cores: float | None) -> tuple[int, float | None]:
    """Whole cores this process may use, and the share of them that is not its own to take.

    A control group's quota of 1.5 cores on an idle machine of 4 is 2 cores, a quarter of which
    belongs to others.

    Args:
        num_cpus: CPUs it may run on.
        others: share of these that others use, or None.
        quota_cores: quota of the control group, or None.
    """
    if quota_cores is None or quota_cores >= num_cpus:
        return num_cpus, others
    num_cores = math.ceil(quota_cores)
    room = min(quota_cores, num_cpus * (1.0 - (others or 0.0)))
    return num_cores, min(1.0, max(0.0, 1.0 - room / num_cores))
