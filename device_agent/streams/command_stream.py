"""A live stream from the output of a command, which is started again when it fails."""

from __future__ import annotations

import atexit
import logging
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Sequence

from device_agent.loop import Action
from device_agent.streams.live_events import LiveEvents
from device_agent.streams.log_limit import LogLimit
from device_agent.streams.process import StopSignal, run_program
from device_agent.streams.reading import MAX_EVENT_BYTES
from device_agent.streams.stream import Deliver, Sample
from firmware_profiles.errors import UserError, WorldError
from models.data.live import LiveSource

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Before a command that failed is started again; doubled each time. One that ran for longer begins anew."""

MOST_LINES_S = 20_000
"""A command that prints faster is held back by its pipe: reading has its price."""

LINES_BETWEEN_LOOKS = 2048
"""At the clock."""

GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""

_LOGGED = 300  # characters of a line of the command's error output


def _nothing(*_arguments: object) -> None:
    """Before the start there is nobody to tell."""


def check_program(source: LiveSource) -> list[str]:
    """The words of the command line, of which the first is a program.

    Raises:
        UserError: there is no such program.
    """
    argv = shlex.split(source.target)
    if shutil.which(argv[0]) is None:
        raise UserError(f"there is no program '{argv[0]}' that can be run. Check path and rights.")
    return argv


class CommandStream:
    """Runs a command and delivers each line of its output.

    A thread reads the lines; what the node does not take in time is dropped, the oldest first. Exit status 0
    is the end of the stream; after any other the command is started again. It does not outlive this process.

    Args:
        source: its target is the command line; no shell is involved.
        post: runs an action on the node's thread; safe to call from any thread.
        first_number: of the first sample; in a later life, one that was not used.
        first_wait_s, longest_wait_s: before a command that failed is started again.
        grace_s: between SIGTERM and SIGKILL.

    Raises:
        UserError: there is no such program.
    """

    num_left = None

    def __init__(
        self,
        source: LiveSource,
        post: Callable[[Action], None],
        *,
        first_number: int = 0,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._argv = check_program(source)
        self._name = self._argv[0]
        self._post = post
        self._first_wait_s, self._longest_wait_s, self._grace_s = first_wait_s, longest_wait_s, grace_s
        self._events = LiveEvents(
            source,
            f"command {self._name}",
            post,
            deliver=self._came,
            emptied=self._end_if_finished,
            first_number=first_number,
        )
        self._error_limit = LogLimit()
        self._deliver: Deliver = _nothing
        self._ended: Callable[[], None] = _nothing
        self._running = self._finished = False
        self._num_restarts = self._num_lines = 0
        self._looked_at_s = 0.0
        self._stop: StopSignal | None = None
        self._thread: threading.Thread | None = None

    @property
    def num_missed(self) -> int:
        """Lines that came while it was held, were not taken in time, or could not be read."""
        return self._events.num_missed

    def start(self, deliver: Deliver, ended: Callable[[], None]) -> None:
        """Start the command."""
        self._deliver, self._ended, self._running = deliver, ended, True
        self._stop = stop = StopSignal()

        def run() -> None:
            try:
                self._run(stop)
            finally:
                atexit.unregister(end_with_us)
                stop.close()

        def end_with_us() -> None:
            stop.set()
            thread.join(self._grace_s + 1.0)

        self._thread = thread = threading.Thread(target=run, name="command", daemon=True)
        atexit.register(end_with_us)
        thread.start()

    def hold(self) -> None:
        """Leave out what comes; the command goes on."""
        self._events.hold()

    def rest(self) -> None:
        """Let wait what comes; the command goes on."""
        self._events.rest()

    def go_on(self) -> None:
        """Take what comes."""
        self._events.go_on()

    def stop(self) -> None:
        """Deliver nothing more, and have the command ended; does not wait for it."""
        self._running = False
        self._events.stop()
        if self._stop is not None:
            self._stop.set()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until no command runs any more, nor will; False if that takes too long."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    # ------------------------------------------------------------ on the node's thread

    def _came(self, samples: Sequence[Sample]) -> None:
        if self._running:
            self._deliver(samples)

    def _finish(self) -> None:
        self._finished = True
        if self._events.is_empty:
            self._end_if_finished()

    def _end_if_finished(self) -> None:
        if self._finished and self._running:
            self._running = False
            self._ended()

    # ------------------------------------------------------------ on the command's thread

    def _run(self, stop: StopSignal) -> None:
        wait_s = self._first_wait_s
        while True:
            began_s = time.monotonic()
            how = self._run_once(stop)
            if how is None:
                return
            if time.monotonic() - began_s > self._longest_wait_s:
                wait_s = self._first_wait_s
            log.warning("command %s %s; started again in %.0f s", self._name, how, wait_s)
            if stop.wait(wait_s):
                return
            wait_s = min(2 * wait_s, self._longest_wait_s)
            self._num_restarts += 1

    def _run_once(self, stop: StopSignal) -> str | None:
        """Run the command; how it failed, or None if it is over."""
        try:
            status = run_program(
                self._argv,
                self._on_output,
                self._on_error,
                stop,
                most_line_bytes=MAX_EVENT_BYTES,
                grace_s=self._grace_s,
            )
        except WorldError as error:
            return str(error)
        if status is None:
            return None
        if status == 0:
            self._post(self._finish)
            return None
        return f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"

    def _on_output(self, line: bytes) -> None:
        if line.strip():
            self._events.put(line, life=self._num_restarts)
        self._num_lines += 1
        if self._num_lines % LINES_BETWEEN_LOOKS == 0 and self._stop is not None:
            ahead_s = self._looked_at_s + LINES_BETWEEN_LOOKS / MOST_LINES_S - time.monotonic()
            if ahead_s > 0:
                self._stop.wait(ahead_s)
            self._looked_at_s = time.monotonic()

    def _on_error(self, line: bytes) -> None:
        text = line[:_LOGGED].decode("utf-8", "replace").strip()
        left_out = self._error_limit.admit() if text else None
        if left_out is not None:
            log.info("command %s says: %r (%d more not logged)", self._name, text, left_out)
