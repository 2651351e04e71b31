"""Runs of a comparison side by side, each in a process of its own.

A process that crashes or is killed for memory costs its own run alone; none outlives the comparison.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from coordinator.child import Command, how_it_ended, kill_group, last_words, log_tail, spawn
from coordinator.comparing.plan import PlannedRun
from coordinator.comparing.worker import PROGRESS, Job
from firmware_profiles.process import own_argv

POLL_S = 0.2
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
_LAST_BYTES = 4096


class Running(Protocol):
    """A run that was started."""

    def ended(self) -> bool:
        """Whether it is over."""
        ...

    def failure(self) -> str | None:
        """Why a run that is over has no result; None where it was written."""
        ...

    def fraction(self) -> float:
        """Share of it that is done, 0..1."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


Start = Callable[[PlannedRun, Path], Running]
"""Starts a run whose result goes to a file."""


@dataclass(frozen=True)
class Failure:
    """A run without a result, and why."""

    run: PlannedRun
    reason: str


@dataclass(frozen=True, kw_only=True)
class Now:
    """How far the runs are.

    Attributes:
        finished: a run that has just ended, None where none has. reason: why it failed, or None.
        wall_s: seconds it took.
        running: runs under way with the share done and the seconds they have taken.
        waiting: runs to be started.
    """

    finished: PlannedRun | None = None
    reason: str | None = None
    wall_s: float = 0.0
    running: tuple[tuple[PlannedRun, float, float], ...] = ()
    waiting: tuple[PlannedRun, ...] = ()


def run_all(
    runs: Sequence[tuple[PlannedRun, Path]],
    start: Start,
    *,
    num_workers: int,
    watch: Callable[[Now], None],
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> list[Failure]:
    """Carry out runs, in order, so many at a time; those that fail do not stop the others.

    Args:
        runs: with the files of their results.
        start: how one is started.
        num_workers: at least 1.
        watch: told whenever a run has ended, and now and then.
        clock: seconds of now.
        wait: for so many seconds.

    Returns:
        The runs that failed.

    Raises:
        KeyboardInterrupt: from outside; the runs under way are ended first, as at every exception.
    """
    waiting, failures = list(runs), []
    running: dict[int, tuple[PlannedRun, Running, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_workers:
                number = len(runs) - len(waiting)
                run, path = waiting.pop(0)
                try:
                    running[number] = run, start(run, path), clock()
                except OSError as error:
                    failures.append(Failure(run, f"could not be started: {error}"))
                    watch(_now(waiting, running, clock(), (run, failures[-1].reason, 0.0)))
            over = [number for number, (_, process, _) in running.items() if process.ended()]
            for number in over:
                run, process, began_s = running.pop(number)
                reason = process.failure()
                if reason is not None:
                    failures.append(Failure(run, reason))
                watch(_now(waiting, running, clock(), (run, reason, clock() - began_s)))
            if not over:
                watch(_now(waiting, running, clock(), None))
                wait(POLL_S)
    finally:
        for _, process, _ in running.values():
            process.kill()
    return failures


def start_process(run: PlannedRun, result: Path) -> Running:
    """Start a run in a process of its own, on one thread, that ends with ours.

    Raises:
        OSError: its files cannot be written, or no process can be made.
    """
    work = result.parent / "running" / result.stem
    work.parent.mkdir(exist_ok=True)
    job = Job(
        scenario=run.scenario,
        method=run.method,
        digest=run.digest,
        settings=run.settings,
        result=str(result),
    )
    job_path, log_path = work.with_suffix(".json"), work.with_suffix(".log")
    job_path.write_bytes(msgspec.json.encode(job))
    log_path.unlink(missing_ok=True)
    command = Command(
        name=str(run),
        argv=tuple(own_argv("coordinator.comparing.worker", str(job_path))),
        log_path=log_path,
        env={**os.environ, **ONE_THREAD},
    )
    return _Process(spawn(command), job_path, log_path)


class _Process:
    """A child process with its job and its log."""

    def __init__(self, process: subprocess.Popen[bytes], job_path: Path, log_path: Path) -> None:
        self._process, self._job_path, self._log_path = process, job_path, log_path

    def ended(self) -> bool:
        return self._process.poll() is not None

    def failure(self) -> str | None:
        returncode = self._process.wait()
        if returncode == 0:
            self._clear()
            return None
        words = last_words(self._log_path)
        if words is not None:
            self._clear()
            return words
        return f"{how_it_ended(returncode)}; see {self._log_path}\n{log_tail(self._log_path)}".rstrip()

    def fraction(self) -> float:
        try:
            with self._log_path.open("rb") as file:
                file.seek(max(0, self._log_path.stat().st_size - _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return 0.0
        for line in reversed(lines):
            if line.startswith(PROGRESS):
                with contextlib.suppress(ValueError):
                    return float(line.removeprefix(PROGRESS))
        return 0.0

    def kill(self) -> None:
        kill_group(self._process.pid)
        self._process.wait()
        self._clear()

    def _clear(self) -> None:
        for path in (self._job_path, self._log_path):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._log_path.parent.rmdir()  # once the last one is gone


def _now(
    waiting: Sequence[tuple[PlannedRun, Path]],
    running: dict[int, tuple[PlannedRun, Running, float]],
    now_s: float,
    finished: tuple[PlannedRun, str | None, float] | None,
) -> Now:
    run, reason, wall_s = finished or (None, None, 0.0)
    return Now(
        finished=run,
        reason=reason,
        wall_s=wall_s,
        running=tuple(
            (one, process.fraction(), now_s - began_s) for one, process, began_s in running.values()
        ),
        waiting=tuple(one for one, _ in waiting),
    )
