"""A real `edgetide up` in a temporary state folder, watched over its own JSON."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 30.0
POLL_S = 0.2


class LiveFleet:
    """A running fleet.

    Args:
        process: of `edgetide up`. port: of its page. log: what it wrote on stderr.

    Attributes:
        url: of the page.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self._process = process
        self._log = log

    def get(self, name: str) -> Any:
        """A JSON twin of the page, such as "fleet"; None while the coordinator does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}api/v1/{name}", timeout=5.0) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def processes(self) -> list[psutil.Process]:
        """All that `edgetide up` has started: broker, coordinator, agents."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def wait_for(self, what: str, holds: Callable[[dict[str, Any]], bool], limit_s: float) -> dict[str, Any]:
        """Look at the fleet until something holds, and return that view of it.

        Raises:
            RuntimeError: `edgetide up` ended, or the time was over; with what it said last.
        """
        ends_s = time.monotonic() + limit_s
        while time.monotonic() < ends_s and self._process.poll() is None:
            view = self.get("fleet")
            if view is not None and holds(view):
                return view
            time.sleep(POLL_S)
        said = self._log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"waited {limit_s:.0f} s in vain for {what}; edgetide up said:\n{said}")


@contextlib.contextmanager
def live_fleet(options: Sequence[str]) -> Iterator[LiveFleet]:
    """Start `edgetide up` with these options, and end it as Ctrl-C does.

    Args:
        options: besides --state and --port, which are chosen here.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="edgetide-fleet-") as folder:
        log = Path(folder, "up.log")
        argv = [sys.executable, "-m", "coordinator.cli", "up", "--state", f"{folder}/state"]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*argv, "--port", str(port), *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            yield LiveFleet(process, port, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def busy_cores(num_cores: int, seconds: float) -> Iterator[None]:
    """Load cores with real work of processes that are not the fleet's, for as long as the block lasts."""
    argv = [sys.executable, "-m", "benchmarks.busy", str(seconds)]
    workers = [subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL) for _ in range(num_cores)]
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
