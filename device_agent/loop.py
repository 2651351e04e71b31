"""One thread that runs everything a node decides: events in order, timers when they are due."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

Action = Callable[[], None]

MOST_ACTIONS = 64
"""That are run between two looks at the timers."""


class Timers(Protocol):
    """Where a node sets its timers: the live loop, or the simulator's virtual clock."""

    def now_s(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    def set_timer(self, key: str, delay_s: float, action: Action) -> None:
        """Run the action after the delay; replaces a timer of the same key."""
        ...

    def cancel_timer(self, key: str) -> None:
        """Forget a timer."""
        ...


class Loop:
    """Runs posted actions one after another on the thread that calls `run`.

    `post` may be called from any thread; timers only from the loop's own.
    """

    def __init__(self) -> None:
        self._actions: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._heap: list[tuple[float, int, str]] = []
        self._timers: dict[str, tuple[int, Action]] = {}
        self._numbers = itertools.count()

    def now_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def post(self, action: Action) -> None:
        """Run the action soon."""
        self._actions.put(action)

    def stop(self) -> None:
        """End `run` once the actions posted so far are done."""
        self._actions.put(None)

    def set_timer(self, key: str, delay_s: float, action: Action) -> None:
        """Run the action after the delay; replaces a timer of the same key."""
        number = next(self._numbers)
        self._timers[key] = (number, action)
        heapq.heappush(self._heap, (self.now_s() + max(0.0, delay_s), number, key))

    def cancel_timer(self, key: str) -> None:
        """Forget a timer."""
        self._timers.pop(key, None)

    def run(self) -> None:
        """Run until `stop`. An action that raises is a defect of ours: it ends the loop, loudly.

        Up to MOST_ACTIONS that wait are run before timers are looked at again: neither does a timer that is
        soon due again, such as of a stream that comes faster than it can be learned, keep messages waiting,
        nor does a flood of messages keep timers waiting.
        """
        while True:
            self._run_due()
            wait_s = self._wait_s()
            for _ in range(min(MOST_ACTIONS, max(1, self._actions.qsize()))):
                try:
                    action = self._actions.get(timeout=wait_s)
                except queue.Empty:
                    break
                if action is None:
                    return
                action()

    def _wait_s(self) -> float:
        return min(60.0, max(0.0, self._heap[0][0] - self.now_s())) if self._heap else 60.0

    def _run_due(self) -> None:
        now_s = self.now_s()
        while self._heap and self._heap[0][0] <= now_s:
            _, number, key = heapq.heappop(self._heap)
            if self._timers.get(key, (None,))[0] == number:
                self._timers.pop(key)[1]()
