"""A quantity over seeds: mean, spread, and how sure the mean is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec

CONFIDENCE = 0.95


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity over seeds: mean, sample standard deviation (None of fewer than two), how many."""

    mean: float
    sd: float | None
    num: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    return Spread(
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        num=len(values),
    )


def spread_of_known(values: Iterable[float | None]) -> Spread | None:
    """As `spread`, over the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t-interval of a mean; None of fewer than two values.

    References:
        Student. The Probable Error of a Mean. Biometrika 6(1), 1908.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t  # noqa: PLC0415 - scipy.stats takes a second to load

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean - reach, mean + reach
