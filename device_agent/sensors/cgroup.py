"""Limits of the control groups that a process is in, version 2 and version 1.

See the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, and
Documentation/scheduler/sched-bwc.rst. A limit of any ancestor binds too.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from device_agent.sensors.tree import Tree, parse_int

_V1_NO_LIMIT = 2**60
_MAX_LEVELS = 32
T = TypeVar("T", int, float)


class Limits(NamedTuple):
    """What the control groups leave; None where nothing is limited.

    Attributes:
        num_cores: CPU quota in cores, such as 1.5.
        memory_available_bytes: memory limit less what is used and could not be reclaimed.
    """

    num_cores: float | None = None
    memory_available_bytes: int | None = None


def parse_membership(text: str) -> dict[str, str]:
    """Group path by controller from /proc/self/cgroup; "" is version 2."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[2].startswith("/") and ".." not in parts[2].split("/"):
            for controller in parts[1].split(",") if parts[0] != "0" else [""]:
                groups[controller] = parts[2]
    return groups


def parse_cpu_max(text: str) -> float | None:
    """Cores that cpu.max allows, "50000 100000" being half of one; None for "max"."""
    words = text.split()
    if len(words) != 2 or words[0] == "max":
        return None
    return _quota(parse_int(words[0]), parse_int(words[1]))


def parse_reclaimable(text: str) -> int:
    """Bytes of page cache that memory.stat says could be dropped, 0 if it does not say."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        count = parse_int(number)
        if count is not None and count >= 0:
            counts[name] = count
    # Version 1 has both; its plain line leaves the children out.
    return counts.get("total_inactive_file", counts.get("inactive_file", 0))


def read_limits(tree: Tree) -> Limits:
    """The tightest limits of the groups this process is in."""
    groups = tree.value("proc/self/cgroup", parse_membership)
    if not groups:
        return Limits()
    cores: list[float] = []
    memory: list[int] = []
    for folder in _ancestors("sys/fs/cgroup", groups.get("")):
        cores += _known(_read_cpu_max(tree, folder))
        memory += _known(_room(tree, folder, "memory.max", "memory.current"))
    for folder in _ancestors("sys/fs/cgroup/cpu", groups.get("cpu")):
        quota = _number(tree, f"{folder}/cpu.cfs_quota_us")
        cores += _known(_quota(quota, _number(tree, f"{folder}/cpu.cfs_period_us")))
    for folder in _ancestors("sys/fs/cgroup/memory", groups.get("memory")):
        memory += _known(_room(tree, folder, "memory.limit_in_bytes", "memory.usage_in_bytes"))
    return Limits(min(cores, default=None), min(memory, default=None))


def _ancestors(mount: str, group: str | None) -> list[str]:
    """Folders of a group and of all above it. In a container the host's path leads nowhere: harmless."""
    if group is None:
        return []
    parts = [part for part in group.split("/") if part][:_MAX_LEVELS]
    return ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]


def _room(tree: Tree, folder: str, limit_file: str, used_file: str) -> int | None:
    limit, used = _number(tree, f"{folder}/{limit_file}"), _number(tree, f"{folder}/{used_file}")
    if limit is None or used is None or limit >= _V1_NO_LIMIT:
        return None
    reclaimable = tree.value(f"{folder}/memory.stat", parse_reclaimable) or 0
    return max(0, limit - max(0, used - reclaimable))


def _read_cpu_max(tree: Tree, folder: str) -> float | None:
    text = tree.text(f"{folder}/cpu.max")
    return None if text is None else parse_cpu_max(text)


def _quota(quota_us: int | None, period_us: int | None) -> float | None:
    return quota_us / period_us if quota_us and period_us and quota_us > 0 and period_us > 0 else None


def _number(tree: Tree, path: str) -> int | None:
    # "max" is a legal answer: it is not logged as unusable.
    text = tree.text(path)
    return None if text is None else parse_int(text)


def _known(value: T | None) -> list[T]:
    return [] if value is None else [value]
