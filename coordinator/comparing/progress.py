"""How a comparison goes on, told on stderr: what has ended, what runs, and the time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from coordinator.comparing.compare import Prepared, Watch
from coordinator.comparing.plan import PlannedRun
from coordinator.comparing.runs import Now

LINE_S = 60.0
"""How often a line is written where there is no terminal and nothing has ended."""

_TRUSTED_FRACTION = 0.05
"""Of a run that must be done before its own speed tells how long it takes."""


class TimeLeft:
    """Seconds until all runs are over, from those that are.

    Args:
        wall_s: runs that are over -> seconds each took.
        num_workers: runs at a time.
    """

    def __init__(self, wall_s: Mapping[PlannedRun, float], num_workers: int) -> None:
        self._wall_s, self._num_workers = dict(wall_s), num_workers

    def learn(self, run: PlannedRun, wall_s: float) -> None:
        """A run took so long."""
        self._wall_s[run] = wall_s

    def seconds(self, now: Now) -> float | None:
        """Seconds left; None as long as nothing tells."""
        left, longest = 0.0, 0.0
        for run, fraction, taken_s in now.running:
            whole_s = taken_s / fraction if fraction >= _TRUSTED_FRACTION else self._expected_s(run)
            if whole_s is None:
                return None
            left += max(0.0, whole_s - taken_s)
            longest = max(longest, whole_s - taken_s)
        by_running = [
            taken_s / fraction for _, fraction, taken_s in now.running if fraction >= _TRUSTED_FRACTION
        ]
        for run in now.waiting:
            expected_s = self._expected_s(run) or (statistics.fmean(by_running) if by_running else None)
            if expected_s is None:
                return None
            left += expected_s
        return max(longest, left / self._num_workers)

    def _expected_s(self, run: PlannedRun) -> float | None:
        """From the runs most like it: of its scenario and method, of its scenario, of all."""
        for is_like in (
            lambda other: (other.scenario, other.method) == (run.scenario, run.method),
            lambda other: other.scenario == run.scenario,
            lambda _: True,
        ):
            alike = [wall_s for other, wall_s in self._wall_s.items() if is_like(other)]
            if alike:
                return statistics.fmean(alike)
        return None


@contextmanager
def progress_watch() -> Iterator[Watch]:
    """Show a comparison on stderr: a bar on a terminal, lines elsewhere."""
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield _Told(say).watch()
        return
    columns: tuple[Any, ...] = (TextColumn("{task.description}", markup=False), BarColumn())
    columns = (*columns, MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("runs", left="", total=None)

        def show(total: int, done: float, left: str) -> None:
            bar.update(task, total=total, completed=done, left=left)

        yield _Told(say, show).watch()


class _Told:
    """What was told, and what is told next."""

    def __init__(self, say: Any, show: Any = None) -> None:
        self._say, self._show = say, show
        self._time_left = TimeLeft({}, 1)
        self._total = self._num_over = 0
        self._said_s = time.monotonic()

    def watch(self) -> Watch:
        return Watch(prepared=self._prepared, now=self._now)

    def _prepared(self, prepared: Prepared) -> None:
        for complaint in prepared.complaints:
            self._say(f"not trusted, runs again: {complaint}")
        self._time_left = TimeLeft(prepared.wall_s, prepared.num_workers)
        self._total = len(prepared.todo)
        self._say(
            f"{len(prepared.wall_s)} runs are there, {len(prepared.todo)} to do, "
            f"{prepared.num_workers} at a time"
        )

    def _now(self, now: Now) -> None:
        if now.finished is not None:
            self._num_over += 1
            if now.reason is None:
                self._time_left.learn(now.finished, now.wall_s)
        left = self._left(now)
        if self._show is not None:
            done = self._num_over + sum(fraction for _, fraction, _ in now.running)
            self._show(self._total, done, left)
        if now.finished is not None:
            how = f"{now.wall_s:.0f} s" if now.reason is None else f"FAILED: {now.reason}"
            self._say(f"{self._num_over}/{self._total}  {now.finished}: {how}{'' if self._show else left}")
        elif self._show is None and time.monotonic() - self._said_s >= LINE_S:
            self._say(f"{self._num_over}/{self._total}  {len(now.running)} running{left}")
        else:
            return
        self._said_s = time.monotonic()

    def _left(self, now: Now) -> str:
        seconds = self._time_left.seconds(now)
        return "" if seconds is None or not (now.running or now.waiting) else f"  {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Such as 45 s, 12 min or 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
