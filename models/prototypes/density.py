"""How far two prototype sets are apart: the Jensen-Shannon distance of their kernel density estimates.

Features and the label are the coordinates, in units of the data, and all prototypes count alike. In more than
a few dimensions this says more about how many prototypes there are than about where they lie: two sets of 25
from the same source are 0.9 apart. `models.prototypes.gates` has the measure that allows for it.

References:
    Fernandez-Pineiro et al., "Towards efficient compression and communication for prototype-based
    decentralized learning", arXiv 2411.09267, and its authors' code: points drawn evenly in the box around
    both sets, as many of them as `_num_points`. Where they draw again, and at last call it 1, because no
    point met a set, points are drawn from the densities here, which gives the distance itself.
    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Information Theory 37 (1), 1991.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.prototypes.prototype_set import PrototypeSet

Doubles = NDArray[np.float64]

MAX_POINTS = 20_000
"""The most points drawn unless said otherwise: the authors' number doubles with every second dimension."""

_FEWEST_POINTS = 100
"""Drawn in however small a box: of one point alone, no two densities differ."""

_BLOCK = 1 << 20
"""Distances held at a time, 8 MB of them."""

_FAR = 1e5
"""Bandwidths from the centre up to which a squared distance keeps five digits in a product."""


def distance(first: PrototypeSet, second: PrototypeSet, *, seed: int, max_points: int = MAX_POINTS) -> float:
    """The Jensen-Shannon distance, from 0 (the same) to 1 (nowhere both).

    Args:
        first: n prototypes.
        second: m prototypes of as many features.
        seed: of the points drawn: equal arguments give equal results.
        max_points: draw no more than these, >= 1 (a fallback draws as many).

    Returns:
        The distance. An empty set is 0 from another and 1 from any that is not.
    """
    if not len(first) or not len(second):
        return float(len(first) != len(second))
    rows = coordinates(first), coordinates(second)
    random = np.random.default_rng(seed)
    low = np.minimum(rows[0].min(axis=0), rows[1].min(axis=0))
    high = np.maximum(rows[0].max(axis=0), rows[1].max(axis=0))
    num_points = _num_points(high - low, max_points)
    at = low + (high - low) * random.random((num_points, len(low)))
    p, q = densities(rows[0], at), densities(rows[1], at)
    if p.any() and q.any():
        return jensen_shannon(p, q)
    halves = [_drawn(one, (num_points + 1) // 2, random) for one in rows]
    at = np.concatenate(halves)
    return _of_mixture(densities(rows[0], at), densities(rows[1], at))


def jensen_shannon(p: Doubles, q: Doubles) -> float:
    """The distance to base 2 of two distributions [n], >= 0 and not all 0, each scaled to the sum 1."""
    p, q = p / p.sum(), q / q.sum()
    return float(np.sqrt(np.clip((_against(p, q) + _against(q, p)).sum() / 2, 0.0, 1.0)))


def densities(points: Doubles, at: Doubles) -> Doubles:
    """The kernel density estimate, in units of the kernel's constant, which depends on d alone.

    The kernel is Epanechnikov's of the Euclidean distance, and its one bandwidth is Scott's.

    Args:
        points: [n, d], n >= 1.
        at: [m, d].

    Returns:
        [m], >= 0; 0 where no point is within a bandwidth.

    References:
        Epanechnikov, Theory of Probability and its Applications 14 (1), 1969. Scott, Multivariate Density
        Estimation, 1992: n^(-1 / (d + 4)), which the authors use without the spread of the data.
    """
    num, width = points.shape
    bandwidth = _bandwidth(num, width)
    found = np.empty(len(at))
    rows = max(1, _BLOCK // num)
    for start in range(0, len(at), rows):
        part = at[start : start + rows]
        found[start : start + rows] = np.maximum(1.0 - _squares(part, points, bandwidth), 0.0).mean(axis=1)
    return found / bandwidth**width  # at most n times as large, since h^d = n^(-d / (d + 4))


def coordinates(prototypes: PrototypeSet) -> Doubles:
    """Features and the label: float64 [n, d + 1]."""
    return np.column_stack([prototypes.vectors, prototypes.labels]).astype(np.float64)


def _squares(at: Doubles, points: Doubles, bandwidth: float) -> Doubles:
    """Squared distances [m, n] in bandwidths; a product of matrices is fast and loses digits far from 0."""
    centre = points.mean(axis=0)
    left, right = (at - centre) / bandwidth, (points - centre) / bandwidth
    if max(np.abs(left).max(), np.abs(right).max()) > _FAR:
        squares = np.zeros((len(at), len(points)))
        for column in range(points.shape[1]):
            squares += ((at[:, column, None] - points[:, column]) / bandwidth) ** 2
        return squares
    squares = left @ (-2.0 * right.T)
    squares += (left**2).sum(axis=1)[:, None]
    squares += (right**2).sum(axis=1)
    return squares


def _bandwidth(num: int, width: int) -> float:
    return num ** (-1.0 / (width + 4))


def _num_points(ranges: Doubles, max_points: int) -> int:
    """The authors' number of points for a box of these sides [d], within bounds."""
    width = len(ranges)
    wanted = 1000.0 * 2.0 ** min(width / 2, 64.0) * float(ranges.sum()) / (2 * width)
    return int(min(max(wanted, _FEWEST_POINTS), max_points))


def _drawn(points: Doubles, num: int, random: np.random.Generator) -> Doubles:
    """Draws [num, d] from the estimate: r^2 is Beta(d / 2, 2) where r has the density r^(d-1) (1 - r^2)."""
    width = points.shape[1]
    steps = random.standard_normal((num, width))
    radius = np.sqrt(random.beta(width / 2, 2.0, (num, 1)))
    steps *= radius * _bandwidth(len(points), width) / np.linalg.norm(steps, axis=1, keepdims=True)
    return points[random.integers(len(points), size=num)] + steps


def _of_mixture(p: Doubles, q: Doubles) -> float:
    """The distance where the points [n] were drawn from (p + q) / 2: a mean, each point over its density."""
    # A step lost to the rounding of a huge coordinate may leave a point where neither has mass: left out.
    there = p + q > 0
    mean = (p[there] + q[there]) / 2
    parts = _against(p[there] / mean, q[there] / mean) + _against(q[there] / mean, p[there] / mean)
    return float(np.sqrt(np.clip(parts.mean() / 2, 0.0, 1.0)))


def _against(p: Doubles, q: Doubles) -> Doubles:
    """Of each point p log2(p / ((p + q) / 2)), 0 where p is."""
    ratio = np.divide(2 * p, p + q, out=np.ones_like(p), where=p > 0)
    return p * np.log2(ratio)
