"""One child process: how it is started so that it cannot outlive us, ended, and spoken of.

It is started as a few lines of Python that ask Linux to be killed with their parent and then become the
program (exec). That costs no memory and, unlike `preexec_fn`, is safe beside other threads. Linux means
the parent *thread*: start children from one that lives as long as they may. Each child leads its own
session: Ctrl-C at the terminal reaches it only through us.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LOG_TAIL_LINES = 12
_ERROR = "edgetide: error: "
_LOG_LIMIT_BYTES = 8 * 2**20

# Parent's pid, program, arguments. 1 is PR_SET_PDEATHSIG. The parent may have died before it was asked for.
_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"cannot start {sys.argv[2]}: {error.strerror}")
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run, and how.

    Attributes:
        name: what people call it; unique within one supervisor.
        argv: program and arguments.
        log_path: stdout and stderr are appended here.
        restart: start it again when it dies of anything but exit status 0.
        agent: whether it is counted as an agent in the cohort file.
        env: its whole environment, or None for ours.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    restart: bool = True
    agent: bool = False
    env: Mapping[str, str] | None = None


def log_tail(path: Path, num_lines: int = _LOG_TAIL_LINES) -> str:
    """The last lines of a log file, indented; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-num_lines:])


def last_words(path: Path) -> str | None:
    """The error that an `edgetide` command ended its log with; None where that is not how it ended."""
    lines = log_tail(path, 1).strip()
    return lines.removeprefix(_ERROR) if lines.startswith(_ERROR) else None


def spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start a child. A log grown too long by earlier starts is moved aside first.

    Raises:
        OSError: its log cannot be written, or no process can be made.
    """
    command.log_path.parent.mkdir(parents=True, exist_ok=True)
    if command.log_path.exists() and command.log_path.stat().st_size > _LOG_LIMIT_BYTES:
        command.log_path.replace(command.log_path.with_name(command.log_path.name + ".1"))
    with command.log_path.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command.argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if command.env is None else dict(command.env),
            start_new_session=True,
        )


def kill_group(pid: int) -> None:
    """Kill a child with whatever it has started itself."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nothing is left of it


def how_it_ended(returncode: int) -> str:
    """A clause a person understands."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"exited with status {returncode}"
