"""All sensors together: one call, one Snapshot."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from device_agent.sensors.cgroup import Limits, read_limits
from device_agent.sensors.cohort import Cohort, parse_cohort
from device_agent.sensors.power import read_power
from device_agent.sensors.procfs import (
    CpuTicks,
    ProcessTicks,
    parse_allowed_cpus,
    parse_cpu_list,
    parse_memory_available,
    parse_process_stat,
    parse_stat,
)
from device_agent.sensors.thermal import read_clock, read_temperature, read_throttled
from device_agent.sensors.tree import Tree
from device_agent.sensors.usage import Sample, Window, usable_cores
from firmware_profiles.resources import Snapshot

WINDOW_S = 1.5
INTERVAL_S = 0.25


def local_hour() -> float:
    """Local time in hours, 0..24."""
    now = time.localtime()
    return now.tm_hour + now.tm_min / 60 + now.tm_sec / 3600


def own_memory_bytes() -> int | None:
    """Resident memory of this process."""
    try:
        return psutil.Process().memory_info().rss
    except (psutil.Error, OSError):
        return None


class Sensors:
    """Reads a device. Safe to call before every mini-batch and from several threads.

    Others' use of the CPU is a mean over `window_s`, so a load shows in full after that time. The
    first reading has none yet: it is None.

    Args:
        root: where `proc` and `sys` are; a captured tree in tests.
        cohort_file: written by `edgetide up` (`write_cohort`); missing or garbled means that this
            process is alone.
        clock: monotonic seconds.
        hour: local time in hours.
        own_memory: resident memory of this process in bytes.
        own_pid: pid of this process.
        window_s: length of the window.
        interval_s: within this time the last snapshot is given again, without reading.
    """

    def __init__(
        self,
        root: str | Path = "/",
        cohort_file: str | Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        hour: Callable[[], float | None] = local_hour,
        own_memory: Callable[[], int | None] = own_memory_bytes,
        own_pid: int | None = None,
        window_s: float = WINDOW_S,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._tree = Tree(root)
        self._cohort_path = None if cohort_file is None else Path(cohort_file).absolute()
        self._cohort_tree = None if self._cohort_path is None else Tree(self._cohort_path.parent)
        self._clock, self._hour, self._own_memory = clock, hour, own_memory
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._interval_s = interval_s
        self._window = Window(window_s)
        self._last: tuple[float, Snapshot] | None = None
        self._lock = threading.Lock()

    def read(self) -> Snapshot:
        """What the device has now, at most `interval_s` old."""
        with self._lock:
            now_s = self._clock()
            if self._last is None or not 0 <= now_s - self._last[0] < self._interval_s:
                self._last = now_s, self._read(now_s)
            return self._last[1]

    def _read(self, now_s: float) -> Snapshot:
        cohort = self._read_cohort()
        own = self._own_ticks(cohort)
        cpus = self._allowed_cpus()
        limits = read_limits(self._tree)
        others = None if cpus is None else self._window.add(Sample(now_s, cpus, own))
        num_cores, others = usable_cores(self._num_cpus(cpus), others, limits.num_cores)
        power = read_power(self._tree)
        return Snapshot(
            num_cores=num_cores,
            cpu_others_fraction=others,
            cohort_size=max(1, sum(pid in own for pid in set(cohort.agents))),
            memory_available_bytes=self._memory_available(limits),
            memory_own_bytes=self._own_memory(),
            battery_fraction=power.battery_fraction,
            charging=power.charging,
            temperature_celsius=read_temperature(self._tree),
            throttled=read_throttled(self._tree),
            clock_hz=read_clock(self._tree),
            hour_of_day=self._hour(),
        )

    def _read_cohort(self) -> Cohort:
        cohort = None
        if self._cohort_path is not None and self._cohort_tree is not None:
            cohort = self._cohort_tree.value(self._cohort_path.name, parse_cohort)
        if cohort is None:
            return Cohort(agents=(self._own_pid,))
        return Cohort(agents=(*cohort.agents, self._own_pid), others=cohort.others)

    def _own_ticks(self, cohort: Cohort) -> dict[int, ProcessTicks]:
        """Ticks of our processes that live."""
        ticks: dict[int, ProcessTicks] = {}
        for pid in {*cohort.agents, *cohort.others}:
            text = self._tree.text(f"proc/{pid}/stat")
            parsed = None if text is None else parse_process_stat(text)
            if parsed is not None:
                ticks[pid] = parsed
        return ticks

    def _allowed_cpus(self) -> dict[int, CpuTicks] | None:
        cpus = self._tree.value("proc/stat", parse_stat)
        if cpus is None:
            return None
        allowed = self._tree.value("proc/self/status", parse_allowed_cpus)
        return {cpu: ticks for cpu, ticks in cpus.items() if allowed is None or cpu in allowed} or cpus

    def _num_cpus(self, cpus: dict[int, CpuTicks] | None) -> int:
        if cpus is not None:
            return len(cpus)
        return len(self._tree.value("sys/devices/system/cpu/online", parse_cpu_list) or (0,))

    def _memory_available(self, limits: Limits) -> int | None:
        available = self._tree.value("proc/meminfo", parse_memory_available)
        known = [room for room in (available, limits.memory_available_bytes) if room is not None]
        return min(known, default=None)
