"""Reading a run's accuracy over virtual time, at a moment and up to a target.

A curve is read in two ways. *Newest* is the accuracy of the newest version at a moment; *smoothed* is the
mean of the newest three, the untrained version 0 left out: single versions of a fleet with unlike data
jump by several points.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

NUM_SMOOTHED = 3
"""Versions that a smoothed accuracy is the mean of."""

Curve = Sequence[tuple[float, float]]
"""(virtual second, accuracy 0..1) of each version, by time; at least the first, the untrained one."""


def newest(curve: Curve, time_s: float) -> float:
    """Accuracy of the newest version at a time."""
    return _known(curve, time_s)[-1]


def smoothed(curve: Curve, time_s: float) -> float:
    """Mean accuracy of the newest NUM_SMOOTHED trained versions at a time; of version 0 before them."""
    known = _known(curve, time_s)
    return statistics.fmean(known[1:][-NUM_SMOOTHED:] or known)


def smoothed_curve(curve: Curve) -> tuple[tuple[float, float], ...]:
    """(virtual second, smoothed accuracy) of each version."""
    trained = [accuracy for _, accuracy in curve[1:]]
    return tuple(
        (time_s, statistics.fmean(trained[max(0, index - NUM_SMOOTHED) : index]) if index else accuracy)
        for index, (time_s, accuracy) in enumerate(curve)
    )


def seconds_to(curve: Curve, target: float) -> float | None:
    """When a curve first reaches a target; None if it never does."""
    return next((time_s for time_s, accuracy in curve if accuracy >= target), None)


def _known(curve: Curve, time_s: float) -> list[float]:
    """Accuracies of the versions there are at a time; the first is there from the beginning."""
    return [accuracy for index, (at_s, accuracy) in enumerate(curve) if index == 0 or at_s <= time_s]
