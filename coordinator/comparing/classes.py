"""Accuracy by class: the worst one, and the classes whose samples only some groups hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from coordinator.comparing.spread import Spread, spread, spread_of_known

ByClass = Sequence[float | None]
"""Accuracy 0..1 by class; None where a class has no sample."""


class WorstClass(msgspec.Struct, frozen=True, kw_only=True):
    """The class of the lowest mean accuracy of the last version over seeds."""

    label: int
    accuracy: Spread


class OwnClasses(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of the classes whose samples only one group holds, and of all others."""

    group: str
    labels: tuple[int, ...]
    own: Spread
    others: Spread | None


def worst_class(measured: Iterable[ByClass]) -> WorstClass | None:
    """Find the worst class over runs; None where no run was measured by class."""
    values: dict[int, list[float]] = {}
    for classes in measured:
        for label, accuracy in enumerate(classes):
            if accuracy is not None:
                values.setdefault(label, []).append(accuracy)
    if not values:
        return None
    label, worst = min(values.items(), key=lambda item: statistics.fmean(item[1]))
    return WorstClass(label=label, accuracy=spread(worst))


def own_classes(
    measured: Sequence[ByClass], own_labels: Mapping[str, Sequence[int]]
) -> tuple[OwnClasses, ...]:
    """Set the classes of each group against all others.

    Args:
        measured: of each run; empty where it was not measured by class.
        own_labels: group -> classes that only its devices hold.
    """
    told = []
    for group, labels in own_labels.items():
        own = spread_of_known(_mean(classes, labels, inside=True) for classes in measured)
        others = spread_of_known(_mean(classes, labels, inside=False) for classes in measured)
        if own is not None:
            told.append(OwnClasses(group=group, labels=tuple(labels), own=own, others=others))
    return tuple(told)


def _mean(classes: ByClass, labels: Sequence[int], *, inside: bool) -> float | None:
    """Mean over the classes inside, or outside, of the labels."""
    values = [
        accuracy
        for label, accuracy in enumerate(classes)
        if accuracy is not None and (label in labels) is inside
    ]
    return statistics.fmean(values) if values else None
