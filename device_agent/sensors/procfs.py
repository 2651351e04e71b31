"""Parsers of /proc files. See proc(5) and the kernel's Documentation/filesystems/proc.rst."""

from __future__ import annotations

from typing import NamedTuple

from device_agent.sensors.tree import parse_int


class CpuTicks(NamedTuple):
    """Clock ticks of one CPU since boot. `idle` includes waiting for I/O: that CPU could compute."""

    busy: int
    idle: int


class ProcessTicks(NamedTuple):
    """A process by its start, which a recycled pid does not share, and the ticks of all its threads."""

    start: int
    used: int


def parse_stat(text: str) -> dict[int, CpuTicks] | None:
    """Ticks of each CPU in /proc/stat.

    user and nice already contain guest and guest_nice, which are therefore not added. Stolen time
    counts as busy: it is the hypervisor's, not ours to take.
    """
    cpus: dict[int, CpuTicks] = {}
    for line in text.splitlines():
        name, *columns = line.split()[:9] or [""]
        if not name.startswith("cpu") or name == "cpu":
            continue
        number = parse_int(name[3:])
        ticks = [parse_int(column) for column in columns]
        known = [tick for tick in ticks if tick is not None and tick >= 0]
        if number is None or len(known) != len(ticks) or len(ticks) < 4:
            return None
        user, nice, system, idle, iowait, irq, softirq, steal = [*known, 0, 0, 0, 0][:8]
        cpus[number] = CpuTicks(busy=user + nice + system + irq + softirq + steal, idle=idle + iowait)
    return cpus or None


def parse_process_stat(text: str) -> ProcessTicks | None:
    """Start and used ticks (utime + stime) in /proc/<pid>/stat; None for a zombie, which runs no more."""
    # The command is in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rfind(")") + 1 :].split()
    if len(fields) < 20 or fields[0] in ("Z", "X", "x"):
        return None
    user, system, start = (parse_int(fields[index]) for index in (11, 12, 19))
    if user is None or system is None or start is None or min(user, system, start) < 0:
        return None
    return ProcessTicks(start=start, used=user + system)


def parse_allowed_cpus(text: str) -> frozenset[int] | None:
    """CPUs that the process may run on, from Cpus_allowed_list of /proc/<pid>/status, such as 0-3,8."""
    for line in text.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.partition(":")[2].strip())
    return None


def parse_cpu_list(text: str) -> frozenset[int] | None:
    """A list such as 0-3,8."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = parse_int(first), parse_int(last or first)
        if low is None or high is None or not 0 <= low <= high < 65536:
            return None
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


def parse_memory_available(text: str) -> int | None:
    """MemAvailable of /proc/meminfo in bytes."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "MemAvailable:" and words[2] == "kB":
            kibibytes = parse_int(words[1])
            return kibibytes * 1024 if kibibytes is not None and kibibytes >= 0 else None
    return None
