"""Virtual time: timers of all nodes and deliveries of the broker, in one order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from device_agent.loop import Action
from device_agent.wire.memory import MemoryBroker


class VirtualClock:
    """Moves time from event to event; at one time deliveries come first, then timers as they were set.

    An action that raises is a defect of ours: it ends the run, loudly.

    Args:
        broker: whose deliveries belong to the same time.

    Attributes:
        now_s: virtual seconds since the start.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self.now_s = 0.0
        self._broker = broker
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = count()

    def post(self, action: Action) -> None:
        """Run the action at this moment, after what is going on now."""
        self.call_at(self.now_s, action)

    def call_at(self, time_s: float, action: Action) -> None:
        """Run the action at a time; one that has passed means now."""
        heapq.heappush(self._heap, (max(time_s, self.now_s), next(self._numbers), action))

    def run(self, is_over: Callable[[], bool], limit_s: float) -> bool:
        """Run events until `is_over`; False if nothing was left to do, or time went past the limit first."""
        while not is_over():
            delivery_s = self._broker.next_due_s()
            timer_s = self._heap[0][0] if self._heap else None
            due_s = min((time_s for time_s in (delivery_s, timer_s) if time_s is not None), default=None)
            if due_s is None or due_s > limit_s:
                return False
            self.now_s = max(self.now_s, due_s)
            if delivery_s is not None and delivery_s <= due_s:
                self._broker.run_until(self.now_s)
                continue
            self._broker.run_until(self.now_s)  # nothing is due: this sets the broker's clock
            heapq.heappop(self._heap)[2]()
        return True


class VirtualTimers:
    """The Timers of one node on the virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._timers: dict[str, tuple[int, Action]] = {}
        self._numbers = count()

    def now_s(self) -> float:
        """Virtual seconds since the start."""
        return self._clock.now_s

    def set_timer(self, key: str, delay_s: float, action: Action) -> None:
        """Run the action after the delay; replaces a timer of the same key."""
        number = next(self._numbers)
        self._timers[key] = (number, action)
        self._clock.call_at(self._clock.now_s + max(0.0, delay_s), lambda: self._due(key, number))

    def cancel_timer(self, key: str) -> None:
        """Forget a timer."""
        self._timers.pop(key, None)

    def cancel_all(self) -> None:
        """Forget all timers: their process has ended."""
        self._timers.clear()

    def _due(self, key: str, number: int) -> None:
        if self._timers.get(key, (None,))[0] == number:
            self._timers.pop(key)[1]()
