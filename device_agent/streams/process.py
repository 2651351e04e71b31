"""Runs a program in a process group of its own, and passes on what it says."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from device_agent.streams.lines import LineCutter
from firmware_profiles.errors import WorldError

_CHUNK_BYTES = 1 << 16
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.001, 0.5
_OURS = "EDGETIDE_"

TakeLine = Callable[[bytes], None]


class StopSignal:
    """Tells a thread to end, whether it waits for time or for files. Close it when that thread has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading, self._writing = os.pipe()
        self._closed = False

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._reading

    def set(self) -> None:
        """Wake the thread; twice, or after it has ended, is harmless."""
        with self._lock:
            if not self._closed:
                os.write(self._writing, b"\0")

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set; False if the time is over before."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            return bool(selector.select(timeout_s))

    def close(self) -> None:
        """Give the files back."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._reading)
                os.close(self._writing)


def run_program(
    argv: Sequence[str],
    on_output: TakeLine,
    on_error: TakeLine,
    stop: StopSignal,
    *,
    most_line_bytes: int,
    grace_s: float,
) -> int | None:
    """Run a program until it has ended, or until it is stopped; nothing of its process group stays.

    It has no input, and none of our own settings in its environment: there may be a password among them.

    Args:
        argv: program and arguments.
        on_output: takes each line of its output.
        on_error: takes each line of its error output.
        stop: ends it, with SIGTERM.
        most_line_bytes: longer lines are cut, see `device_agent.streams.lines`.
        grace_s: after which SIGKILL follows.

    Returns:
        Its exit status, -n if signal n killed it, None if it was stopped.

    Raises:
        WorldError: it cannot be started.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=environment,
        )
    except (OSError, ValueError) as error:
        raise WorldError(f"{argv[0]} cannot be started: {error}") from error
    stopped = True  # also where passing on fails: then it must not live on
    try:
        stopped = _pass_on(process, on_output, on_error, stop, most_line_bytes)
    finally:
        status = _end(process, grace_s if stopped else 0.0)
    return None if stopped else status


def _pass_on(
    process: subprocess.Popen[bytes],
    on_output: TakeLine,
    on_error: TakeLine,
    stop: StopSignal,
    most_line_bytes: int,
) -> bool:
    """Pass on lines until the program has ended (False) or is to be stopped (True)."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = process.stdout.fileno(), process.stderr.fileno()
    cutters = {
        output: (LineCutter(most_line_bytes), on_output),
        errors: (LineCutter(most_line_bytes), on_error),
    }
    look_s = _FIRST_LOOK_S
    with selectors.DefaultSelector() as selector:
        for file in (stop, output, errors):
            selector.register(file, selectors.EVENT_READ)
        while True:
            # Output without end is waited for; once it has ended, so does the program, as a rule at once.
            ready = selector.select(None if output in cutters else look_s)
            for key, _ in ready:
                if key.fileobj is stop:
                    return True
                if not _pass_chunk(key.fd, *cutters[key.fd]):
                    selector.unregister(key.fd)
                    del cutters[key.fd]
            if output not in cutters and not ready:
                if _has_ended(process.pid):
                    return False
                look_s = min(2 * look_s, _LONGEST_LOOK_S)


def _pass_chunk(file: int, cutter: LineCutter, take: TakeLine) -> bool:
    """Pass on the lines that can be read; whether there may be more."""
    chunk = os.read(file, _CHUNK_BYTES)
    for line in cutter.cut(chunk):
        take(line)
    if not chunk:
        take(cutter.last())
    return bool(chunk)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """End what is left of the process group, and give its leader's exit status.

    The leader is awaited last: until then its number, which is the group's, can be nobody else's.
    """
    if grace_s > 0:
        _signal(process, signal.SIGTERM)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    until_s, look_s = time.monotonic() + grace_s, _FIRST_LOOK_S
    while time.monotonic() < until_s and not _has_ended(process.pid):
        time.sleep(look_s)
        look_s = min(2 * look_s, 0.05)
    _signal(process, signal.SIGKILL)
    return process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays a zombie."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
