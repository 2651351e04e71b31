"""Lets some lines of a log pass, and counts the others: a hostile or broken source must not fill the disk."""

from __future__ import annotations

import time
from collections.abc import Callable


class LogLimit:
    """At most so many lines a period.

    Args:
        most: lines in a period.
        period_s: its seconds; it begins with the first line after the one before.
        now_s: seconds of a monotonic clock.
    """

    def __init__(
        self, most: int = 5, period_s: float = 60.0, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._period_s, self._now_s = most, period_s, now_s
        self._began_s: float | None = None
        self._num_passed = self._num_left_out = 0

    def admit(self) -> int | None:
        """Whether a line may pass.

        Returns:
            How many were left out since the last that passed; None: this one is left out too.
        """
        now_s = self._now_s()
        if self._began_s is None or now_s - self._began_s >= self._period_s:
            self._began_s, self._num_passed = now_s, 0
        if self._num_passed >= self._most:
            self._num_left_out += 1
            return None
        self._num_passed += 1
        left_out, self._num_left_out = self._num_left_out, 0
        return left_out
