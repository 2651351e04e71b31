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
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.prototypes import saved
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
        self._buckets = np.zeros((_SIZES, _PER_SIZE + 1))  # sums; the first of a row is the oldest
        self._squares = np.zeros_like(self._buckets)
        self._filled = np.zeros(_SIZES, np.int64)
        self._seen = np.zeros(1, np.int64)

    def observe(self, value: float) -> Drift | None:
        """Take in a value; what drift it shows, if any.

        Raises:
            ValueError: it is not between 0 and 1.
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"a drift detector watches values from 0 to 1, not {value}")
        self._seen[0] += 1
        self._append(0, value, value * value)
        if self._seen[0] % _EVERY:
            return None
        drift = None
        while (found := self._cut()) is not None:
            drift = found
        return drift

    @property
    def length(self) -> int:
        """Values in the window."""
        return int(self._filled @ 2 ** np.arange(_SIZES))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The window, as arrays."""
        return saved.copied(self._arrays())

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it is damaged; nothing has changed then.
        """
        saved.check(self._arrays(), state)
        saved.check_range(state, "filled", 0, _PER_SIZE)
        saved.copy_back(self._arrays(), state)

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {
            "buckets": self._buckets,
            "squares": self._squares,
            "filled": self._filled,
            "seen": self._seen,
        }

    def _append(self, size: int, total: float, squares: float) -> None:
        """A new bucket; where there are too many of its size, the two oldest become one of the next."""
        place = self._filled[size]
        self._buckets[size, place], self._squares[size, place] = total, squares
        self._filled[size] += 1
        if self._filled[size] > _PER_SIZE:
            first = float(self._buckets[size, :2].sum()), float(self._squares[size, :2].sum())
            self._drop(size, 2)
            if size + 1 < _SIZES:
                self._append(size + 1, *first)

    def _drop(self, size: int, num: int) -> None:
        for row in (self._buckets[size], self._squares[size]):
            row[:-num] = row[num:].copy()
        self._filled[size] -= num

    def _oldest_first(self) -> tuple[Doubles, Doubles, float]:
        """Cumulated values and sums of the buckets, and the variance of all."""
        sizes = [size for size in range(_SIZES - 1, -1, -1) if self._filled[size]]
        sums = np.concatenate([self._buckets[size, : self._filled[size]] for size in sizes])
        squares = sum(float(self._squares[size, : self._filled[size]].sum()) for size in sizes)
        numbers = np.repeat([2.0**size for size in sizes], [self._filled[size] for size in sizes])
        num, total = numbers.sum(), sums.sum()
        return np.cumsum(numbers), np.cumsum(sums), max(0.0, squares / num - (total / num) ** 2)

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
        self._drop(int(np.flatnonzero(self._filled)[-1]), 1)
        return Drift(int(self._seen[0]), float(before[best]), float(after[best]), int(new[best]))
