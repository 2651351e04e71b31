"""Detects that errors have become more, or fewer: drift.

ADWIN keeps a window of the latest values, as long as no cut of it into an older and a newer part shows two
means that differ by more than chance; then the oldest values go. The window is a row of buckets of 1, 2, 4,
and so on values, at most five of each size, so memory and time grow with the logarithm of its length.

References:
    Bifet, Gavalda, Learning from time-changing data with adaptive windowing, SDM 2007
    (ADWIN2's buckets, and the cut that knows the variance).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from models.prototypes.scaling import Doubles

_PER_SIZE = 5
_SIZES = 40
_EVERY = 8  # values between two looks for a cut
_LEAST = 5.0  # values in each part of a cut


class Drift(NamedTuple):
    """The mean changed.

    Attributes:
        at: values seen before, and with, the one that showed it.
        before, after: means of the two parts of the window.
        length: values of the newer part, about the time since.
    """

    at: int
    before: float
    after: float
    length: int


class DriftDetector:
    """Watches values between 0 and 1, such as whether each prediction was wrong.

    Args:
        confidence: delta, the chance that a cut of a stream without drift is taken for one, above 0, below 1.
    """

    def __init__(self, confidence: float = 0.002) -> None:
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"a confidence of {confidence} is not between 0 and 1")
        self._confidence = confidence
        # Of each size the sums of its buckets, and of their squares, the oldest first.
        self._sums: list[list[float]] = [[]]
        self._squares: list[list[float]] = [[]]
        self._seen = 0

    def observe(self, value: float) -> Drift | None:
        """Take in a value; what drift it shows, if any.

        Raises:
            ValueError: it is not between 0 and 1.
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"a drift detector watches values from 0 to 1, not {value}")
        self._seen += 1
        self._append(value)
        if self._seen % _EVERY:
            return None
        drift = None
        while (found := self._cut()) is not None:
            drift = found
        return drift

    @property
    def length(self) -> int:
        """Values in the window."""
        return sum(len(row) << size for size, row in enumerate(self._sums))

    def _append(self, value: float) -> None:
        """A new bucket; where there are too many of a size, the two oldest become one of the next."""
        total, square = value, value * value
        for size in range(_SIZES):
            if size == len(self._sums):
                self._sums.append([])
                self._squares.append([])
            sums, squares = self._sums[size], self._squares[size]
            sums.append(total)
            squares.append(square)
            if len(sums) <= _PER_SIZE:
                return
            total, square = sums[0] + sums[1], squares[0] + squares[1]
            del sums[:2], squares[:2]

    def _oldest_first(self) -> tuple[Doubles, Doubles, float]:
        """Cumulated values and sums of the buckets, and the variance of all."""
        sums = np.array([total for row in reversed(self._sums) for total in row])
        sizes = [size for size in reversed(range(len(self._sums))) for _ in self._sums[size]]
        numbers = np.cumsum(np.exp2(sizes))
        num, total = float(numbers[-1]), float(sums.sum())
        squares = sum(map(sum, self._squares))
        return numbers, np.cumsum(sums), max(0.0, squares / num - (total / num) ** 2)

    def _cut(self) -> Drift | None:
        """Drop the oldest bucket if some cut shows a difference."""
        numbers, sums, variance = self._oldest_first()
        old, new = numbers[:-1], numbers[-1] - numbers[:-1]
        usable = (old >= _LEAST) & (new >= _LEAST)
        if not usable.any():
            return None
        old, new = old[usable], new[usable]
        before = sums[:-1][usable] / old
        after = (sums[-1] - sums[:-1][usable]) / new
        inverse = 1.0 / old + 1.0 / new  # 1 / m, with m the harmonic mean of both
        chance = math.log(2.0 * math.log(numbers[-1]) / self._confidence)
        limit = np.sqrt(2.0 * inverse * variance * chance) + 2.0 / 3.0 * inverse * chance
        excess = np.abs(before - after) - limit
        best = int(excess.argmax())
        if excess[best] <= 0.0:
            return None
        self._drop_oldest()
        return Drift(self._seen, float(before[best]), float(after[best]), int(new[best]))

    def _drop_oldest(self) -> None:
        while not self._sums[-1]:
            self._sums.pop()
            self._squares.pop()
        del self._sums[-1][0], self._squares[-1][0]
