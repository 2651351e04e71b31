"""What a node's work takes in virtual time: all in one queue, or learning beside sending and receiving."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Work:
    """How long a node is at its tasks.

    Attributes:
        learn_s: a sample, with the foreign prototypes learned after it. check_s: a gate, for one neighbour.
        send_s, receive_s: a message.
        overlaps: learning, sending and receiving go on beside each other, and what waits to be sent or heard
            gives way to what is newer; else they are done one after another, as they come, and all of them.
    """

    learn_s: float = 0.0
    check_s: float = 0.0
    send_s: float = 0.0
    receive_s: float = 0.0
    overlaps: bool = True


AT_ONCE = Work()
"""Of a node that is far faster than its stream."""

LEARN_S, CHECK_S, SEND_S, RECEIVE_S = 0.005, 0.01, 0.02, 0.01
"""Of a small board; four neighbours told and heard after each sample take more than the 0.1 s between two."""

PARALLEL = Work(learn_s=LEARN_S, check_s=CHECK_S, send_s=SEND_S, receive_s=RECEIVE_S)
SEQUENTIAL = Work(learn_s=LEARN_S, check_s=CHECK_S, send_s=SEND_S, receive_s=RECEIVE_S, overlaps=False)


class Clock:
    """What happens when.

    Attributes:
        now_s: the moment.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], object]]] = []

    def at(self, time_s: float, happens: Callable[[], object]) -> None:
        """Call it then; of two at the same moment first the one that was asked for first."""
        heapq.heappush(self._events, (time_s, next(self._order), happens))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now_s, _, happens = heapq.heappop(self._events)
            happens()


class Server:
    """Does one task after another, in the order in which they came.

    Args:
        clock: of the world.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[object, tuple[float, Callable[[], object]]] = {}
        self._is_busy = False

    def take(self, takes_s: float, begins: Callable[[], object], name: object = None) -> None:
        """Queue a task.

        Args:
            takes_s: from its beginning to its end.
            begins: called at its beginning.
            name: of a task that gives way to a newer one of the same name, as long as it waits.
        """
        self._waiting[object() if name is None else name] = takes_s, begins
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            takes_s, begins = self._waiting.pop(next(iter(self._waiting)))
            begins()
            self._clock.at(self._clock.now_s + takes_s, self._next)
