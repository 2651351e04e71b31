"""Items on their way from one thread to another, as many as memory allows."""

from __future__ import annotations

import threading
from collections import deque


class Backlog:
    """A queue that drops its oldest items when there are too many.

    Args:
        most_items: kept. most_bytes: of them together.
    """

    def __init__(self, most_items: int = 4096, most_bytes: int = 4 << 20) -> None:
        self._most_items, self._most_bytes = most_items, most_bytes
        self._items: deque[tuple[int, bytes]] = deque()
        self._num_bytes = self._num_dropped = 0
        self._called = False
        self._lock = threading.Lock()

    @property
    def num_dropped(self) -> int:
        """Items that nobody took in time."""
        with self._lock:
            return self._num_dropped

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        with self._lock:
            return not self._items

    def put(self, item: bytes, source: int = 0) -> bool:
        """Append an item.

        Args:
            item: itself.
            source: where it is from, to be told with it.

        Returns:
            Whether the one who takes must be called: it was not since it last took everything.
        """
        with self._lock:
            self._items.append((source, item))
            self._num_bytes += len(item)
            while len(self._items) > self._most_items or self._num_bytes > self._most_bytes:
                self._num_bytes -= len(self._items.popleft()[1])
                self._num_dropped += 1
            called, self._called = self._called, True
            return not called

    def take(self, most: int) -> tuple[list[tuple[int, bytes]], bool]:
        """The oldest items, each after its source, and whether it must be called again for more."""
        with self._lock:
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._num_bytes -= sum(len(item) for _, item in taken)
            self._called = bool(self._items)
            return taken, self._called

    def clear(self) -> None:
        """Drop all; it is not counted."""
        with self._lock:
            self._items.clear()
            self._num_bytes = 0
