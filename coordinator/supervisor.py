"""Starts, watches and ends the child processes of `edgetide up`, so that none outlives it.

All children are started by one thread of the supervisor's own; see `child` for the reason.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from coordinator.child import Command, how_it_ended, kill_group, last_words, log_tail, spawn
from firmware_profiles.errors import WorldError

logger = logging.getLogger(__name__)

_WATCH_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How a child that dies is treated.

    Attributes:
        first_wait_s: wait before the first restart; doubled at each fast failure, with jitter.
        longest_wait_s: upper bound of the wait.
        healthy_s: a child that lived this long has not failed fast, and counting starts anew.
        coming_up_s: a child that says in its log what is wrong within this time of its first start would
            say so again: we give up at once.
        num_fast_failures: fast failures in a row after which we give up.
        grace_s: between SIGTERM and SIGKILL: one of low priority gets little of a busy machine to end in.
    """

    first_wait_s: float = 0.25
    longest_wait_s: float = 10.0
    healthy_s: float = 10.0
    coming_up_s: float = 60.0
    num_fast_failures: int = 6
    grace_s: float = 20.0


@dataclass(eq=False)
class _Child:
    """A command and what became of it."""

    command: Command
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    returncode: int | None = None
    num_fast_failures: int = 0
    num_restarts: int = 0
    restart_at_s: float | None = None
    back_at_s: float | None = None
    ending: bool = False
    first_start: threading.Event = field(default_factory=threading.Event)


class Supervisor:
    """Children that live as long as the `with` block at most.

    Args:
        cohort_path: file that lists the process ids for the agents' sensors, or None.
        patience: how children that die are treated.
        signals: take SIGINT and SIGTERM over while inside the block (main thread only): the first raises
            KeyboardInterrupt or SystemExit there, another during the end kills what is left at once.
        rng: for the jitter.
    """

    def __init__(
        self,
        cohort_path: Path | None = None,
        *,
        patience: Patience | None = None,
        signals: bool = True,
        rng: random.Random | None = None,
    ) -> None:
        self._cohort_path = cohort_path
        self._patience = patience or Patience()
        self._signals = signals
        self._rng = rng or random.Random()
        self._children: dict[str, _Child] = {}
        self._changed = threading.Condition()
        self._ending = False
        self._kill_now = False
        self._failure: str | None = None
        self._wake = threading.Event()
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:  # noqa: PYI034  typing.Self is younger than Python 3.10
        if self._signals and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------ for the caller

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        restart: bool = True,
        agent: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a child and return its process id.

        Raises:
            WorldError: there is no such program, or the supervisor is ending.
            ValueError: a child of that name is there already.
        """
        if shutil.which(argv[0]) is None:
            raise WorldError(f"cannot start {name}: there is no program {argv[0]!r} on this machine")
        child = _Child(
            Command(name=name, argv=tuple(argv), log_path=log_path, restart=restart, agent=agent, env=env)
        )
        with self._changed:
            if self._ending:
                raise WorldError(f"cannot start {name}: everything is being ended")
            known = self._children.get(name)
            if known is not None and known.returncode is None:
                raise ValueError(f"a child named {name!r} is there already")
            self._children[name] = child
        child.restart_at_s = time.monotonic()
        self._wake.set()
        child.first_start.wait()
        pid = self.pid(name)
        if pid is None:
            self.check()
        return pid or 0

    def stop(self, name: str) -> None:
        """End one child: SIGTERM, then SIGKILL after the grace. It is not started again."""
        self._end([self._children[name]])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a child; nothing where it does not run at the moment."""
        with self._changed:
            process = self._children[name].process
            if process is not None:
                os.kill(process.pid, number)  # not reaped: we hold the lock

    def crash(self, name: str, back_after_s: float) -> None:
        """Kill a child as a power cut does. It is started again after so long, and has not failed."""
        with self._changed:
            child = self._children[name]
            if child.process is not None:
                child.back_at_s = time.monotonic() + back_after_s
                kill_group(child.process.pid)

    def has(self, name: str) -> bool:
        """Whether a child of that name was ever started."""
        return name in self._children

    def pid(self, name: str) -> int | None:
        """Process id of a child that runs, None between its death and its restart and after its end."""
        process = self._children[name].process
        return process.pid if process is not None else None

    def returncode(self, name: str) -> int | None:
        """Exit status of a child that has ended for good (negative: the signal), None before."""
        return self._children[name].returncode

    def num_restarts(self, name: str) -> int:
        """How often a child has been started again."""
        return self._children[name].num_restarts

    def wait(self, name: str, timeout_s: float | None = None) -> int | None:
        """Wait until a child has ended for good and return its exit status, or None after the timeout.

        Raises:
            WorldError: some child failed again and again.
        """
        self.wait_until(lambda: self.returncode(name) is not None, timeout_s)
        return self.returncode(name)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until something about the children holds; False after the timeout.

        Raises:
            WorldError: some child failed again and again.
        """
        with self._changed:
            reached = self._changed.wait_for(lambda: self._failure is not None or condition(), timeout_s)
        self.check()
        return reached

    def check(self) -> None:
        """Raise what cannot be mended by starting children again.

        Raises:
            WorldError: a child failed again and again; the message ends with the last lines of its log.
        """
        if self._failure is not None:
            raise WorldError(self._failure)

    def close(self) -> None:
        """End all children: agents together, then the others, last started first. No child is left."""
        with self._changed:
            self._ending = True
            children = list(reversed(self._children.values()))
        self._end([child for child in children if child.command.agent])
        for child in children:
            if not child.command.agent:
                self._end([child])
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._cohort_path is not None:
            self._cohort_path.unlink(missing_ok=True)

    # ------------------------------------------------------------ ending

    def _end(self, children: Sequence[_Child]) -> None:
        with self._changed:
            for child in children:
                child.ending = True
                if child.process is not None:
                    os.kill(child.process.pid, signal.SIGTERM)  # not reaped: we hold the lock
                    os.kill(child.process.pid, signal.SIGCONT)  # one that is stopped could not end
        self._wake.set()
        deadline_s = time.monotonic() + self._patience.grace_s
        with self._changed:
            # In slices, so that a second Ctrl-C is seen at once.
            while not self._ended(children) and not self._kill_now and time.monotonic() < deadline_s:
                self._changed.wait(_WATCH_S)
            for child in children:
                if child.process is not None:
                    logger.warning("%s does not end; killed", child.command.name)
                    kill_group(child.process.pid)
            self._changed.wait_for(lambda: self._ended(children))

    @staticmethod
    def _ended(children: Sequence[_Child]) -> bool:
        return all(child.returncode is not None for child in children)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._ending:
            self._kill_now = True
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)

    # ------------------------------------------------------------ the supervisor's thread

    def _watch(self) -> None:
        while True:
            self._wake.wait(_WATCH_S)
            self._wake.clear()
            with self._changed:
                children = tuple(self._children.values())
                if any([self._look_after(child) for child in children]):  # noqa: C419  each must be looked at
                    self._write_cohort()
                    self._changed.notify_all()
                if self._ending and self._ended(children):
                    return

    def _look_after(self, child: _Child) -> bool:
        """Note a death, or start what is due; whether anything changed."""
        process = child.process
        if process is not None:
            # Look without reaping: while the process is a zombie its group cannot become another's.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            kill_group(process.pid)
            child.process = None
            self._bury(child, process.wait())
            return True
        if child.returncode is None and child.ending:
            child.returncode = -signal.SIGTERM
            child.first_start.set()
            return True
        if child.restart_at_s is not None and time.monotonic() >= child.restart_at_s and not child.ending:
            self._spawn(child)
            return True
        return False

    def _spawn(self, child: _Child) -> None:
        command, child.restart_at_s = child.command, None
        try:
            child.process = spawn(command)
        except OSError as error:
            child.returncode = 127
            self._failure = f"cannot start {command.name}: {error}"
        child.started_s = time.monotonic()
        child.num_restarts += child.first_start.is_set()
        child.first_start.set()

    def _bury(self, child: _Child, returncode: int) -> None:
        command = child.command
        lived_s = time.monotonic() - child.started_s
        if child.ending or not command.restart or returncode == 0:
            child.returncode = returncode
            return
        if child.back_at_s is not None:
            child.restart_at_s, child.back_at_s = child.back_at_s, None
            return
        if returncode == 1 and child.num_restarts == 0 and lived_s < self._patience.coming_up_s:
            said = last_words(command.log_path)
            if said is not None:
                child.returncode = returncode
                self._failure = f"{command.name}: {said}"
                return
        child.num_fast_failures = 1 if lived_s >= self._patience.healthy_s else child.num_fast_failures + 1
        if child.num_fast_failures >= self._patience.num_fast_failures:
            child.returncode = returncode
            self._failure = (
                f"{command.name} failed {child.num_fast_failures} times in a row, "
                f"the last time {how_it_ended(returncode)}. "
                f"The end of its log {command.log_path}:\n{log_tail(command.log_path)}"
            )
            return
        wait_s = min(
            self._patience.first_wait_s * 2 ** (child.num_fast_failures - 1), self._patience.longest_wait_s
        )
        wait_s *= self._rng.uniform(0.5, 1.0)
        child.restart_at_s = time.monotonic() + wait_s
        logger.warning("%s %s; started again in %.1f s", command.name, how_it_ended(returncode), wait_s)

    def _write_cohort(self) -> None:
        """Write who is alive; readers see the old file or the new one."""
        if self._cohort_path is None:
            return
        pids: dict[str, list[int]] = {"agents": [], "others": [os.getpid()]}
        for child in self._children.values():
            if child.process is not None:
                pids["agents" if child.command.agent else "others"].append(child.process.pid)
        draft = self._cohort_path.with_name(self._cohort_path.name + ".draft")
        try:
            draft.write_text(json.dumps(pids), encoding="utf-8")
            draft.replace(self._cohort_path)
        except OSError as error:
            logger.warning("the list of processes %s cannot be written: %s", self._cohort_path, error)
