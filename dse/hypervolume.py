"""Hypervolume: how much of the objective space a set of measurements dominates, exactly.

It is the one number that judges a whole front: it never falls when a point is added, and of two fronts of
which one dominates the other, that one's is larger. It says nothing without its reference point.

References:
    Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the strength
    Pareto approach", IEEE TEVC 3(4), 1999.
    While, Hingston, Barone and Huband, "A faster algorithm for calculating hypervolume", IEEE TEVC 10(1),
    2006: slicing along one objective after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

Point = tuple[float, ...]


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that (cost, gain) points dominate: cheaper and more gain is better.

    Args:
        points: (cost, gain) pairs, finite, in any order; those no better than the reference count nothing.
        reference: the worst corner (largest cost, smallest gain) that is reckoned with.

    Returns:
        The area, in units of cost times gain.
    """
    return dominated_volume([(cost, -gain) for cost, gain in points], (reference[0], -reference[1]))


def running_hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> list[float]:
    """`hypervolume` of the first point, the first two, and so on.

    Args:
        points: (cost, gain) pairs in the order they were measured.
        reference: as for `hypervolume`.
    """
    found: list[float] = []
    front: list[tuple[float, float]] = []
    for cost, gain in points:
        if not any(other <= cost and more >= gain for other, more in front):
            front = [one for one in front if one[0] < cost or one[1] > gain]
            front.append((cost, gain))
            found.append(hypervolume(front, reference))
        else:
            found.append(found[-1])
    return found


def dominated_volume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume that points dominate where every objective is minimised, such as (MACs, memory, -gain).

    Args:
        points: finite coordinates, as many as the reference has.
        reference: the worst corner, two coordinates or more.
    """
    inside = [
        tuple(point)
        for point in points
        if all(value < worst for value, worst in zip(point, reference, strict=True))
    ]
    return _volume(inside, tuple(reference))


def _volume(points: list[Point], reference: Point) -> float:
    if len(reference) == 2:
        return _area(points, reference)
    levels = [*sorted({point[-1] for point in points}), reference[-1]]
    return sum(
        (above - level) * _volume([point[:-1] for point in points if point[-1] <= level], reference[:-1])
        for level, above in pairwise(levels)
    )


def _area(points: list[Point], reference: Point) -> float:
    """Two objectives: by rising first one, each point adds the strip below what came before."""
    area, lowest = 0.0, reference[1]
    for first, second in sorted(points):
        if second < lowest:
            area += (reference[0] - first) * (lowest - second)
            lowest = second
    return area
