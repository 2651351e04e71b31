"""Fewer prototypes for the same data: those of a class that lie together become their centroid.

Two ways to say which lie together. `by_density` joins what a chain of short steps connects, by as short a
step as leaves few enough; `by_means` is k-means in each class. Distances are of features over their spreads.

References:
    Fernandez-Pineiro et al., arXiv 2411.09267: both, when a set outgrows its limit, to 80-90 % of it.
    Ester et al., "A density-based algorithm for discovering clusters", KDD 1996: DBSCAN, which with one point
    a cluster is single linkage cut at eps: the connected components of all pairs that near.
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007; the best of a few
    candidates at each step is theirs too.
    Lloyd, "Least squares quantization in PCM", IEEE Trans. Information Theory 28 (2), 1982.
"""

from __future__ import annotations

import math

import numpy as np

from models.prototypes.prototype_set import PrototypeSet
from models.prototypes.standard import Doubles, shares_of, squared_distances, standardised
from models.subnet import Array, Indices

KEPT_FRACTION = 0.85
"""The share of prototypes kept unless said otherwise: the middle of the paper's 80-90 %."""

_MOST_ROUNDS = 50
"""Of Lloyd's, which mostly ends before the tenth."""


def by_density(
    prototypes: PrototypeSet, num_kept: int | None = None, *, spreads: Array | None = None
) -> PrototypeSet:
    """At most `num_kept` centroids, by the smallest eps of DBSCAN that leaves so few.

    The one eps holds for all classes, so that a class of few far apart loses none.

    Args:
        prototypes: n.
        num_kept: None: `KEPT_FRACTION` of n. One of each class is kept in any case; fewer than this are where
            many pairs are equally near, as copies are.
        spreads: float32 [d], > 0, the unit of each feature; None: its standard deviation in the set.
    """
    num_kept = math.floor(KEPT_FRACTION * len(prototypes)) if num_kept is None else num_kept
    rows = standardised(prototypes.vectors, prototypes.weights, spreads)
    first, second, squares = _near_pairs(rows, prototypes.labels)
    num_most = max(num_kept, len(np.unique(prototypes.labels)))
    used = _fewest_pairs(len(prototypes), first, second, squares, num_most)
    return merged(prototypes, _components(len(prototypes), first[:used], second[:used]))


def by_means(
    prototypes: PrototypeSet, num_kept: int, *, seed: int, spreads: Array | None = None
) -> PrototypeSet:
    """At most `num_kept` centroids, each class by its share of the prototypes, one at least.

    Args:
        prototypes: n.
        num_kept: >= 0. With more classes than that there is still one of each.
        seed: of k-means++.
        spreads: as for `by_density`.
    """
    rows = standardised(prototypes.vectors, prototypes.weights, spreads)
    shares = shares_of(prototypes.weights)
    classes, counts = np.unique(prototypes.labels, return_counts=True)
    random = np.random.default_rng(seed)
    clusters = np.zeros(len(prototypes), np.int64)
    used = 0
    for label, num in zip(classes, proportional(counts, num_kept), strict=True):
        members = np.flatnonzero(prototypes.labels == label)
        clusters[members] = used + kmeans(rows[members], shares[members], int(num), random)
        used += int(num)
    return merged(prototypes, np.unique(clusters, return_inverse=True)[1])


def merged(prototypes: PrototypeSet, clusters: Indices) -> PrototypeSet:
    """One prototype for each cluster.

    Args:
        prototypes: n, those of a cluster of one class.
        clusters: int64 [n], the cluster of each, 0 to c - 1, none of them empty.

    Returns:
        c: the mean vector by weight (of equal ones where all are 0), the sum of the weights, which is exact
        for whole ones up to 2^24, and the lowest of the ages.
    """
    if not len(prototypes):
        return prototypes
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    weights = prototypes.weights[order].astype(np.float64)
    totals = np.add.reduceat(weights, starts)
    sizes = np.diff(starts, append=len(order))
    weighty = np.repeat(totals > 0, sizes)
    shares = np.where(weighty, weights, 1.0) / np.repeat(np.where(totals > 0, totals, sizes), sizes)
    vectors = np.add.reduceat(prototypes.vectors[order] * shares[:, None], starts)
    return PrototypeSet(
        vectors.astype(np.float32),
        prototypes.labels[order][starts],
        totals.astype(np.float32),
        np.minimum.reduceat(prototypes.ages[order], starts),
    )


# ---------------------------------------------------------------- DBSCAN


def dbscan(rows: Doubles, labels: Indices, eps: float) -> Indices:
    """The cluster of each row [n, d]: int64 [n], from 0 in order of first rows; no two classes share one.

    Two of a class are in one cluster if steps of at most `eps` between its members lead from one to the
    other.
    """
    first, second, squares = _near_pairs(rows, labels)
    used = int(np.searchsorted(squares, eps * eps, side="right"))
    return _components(len(rows), first[:used], second[:used])


def _near_pairs(rows: Doubles, labels: Indices) -> tuple[Indices, Indices, Doubles]:
    """All pairs of a class: first and second row, and the squared distance, nearest pairs first."""
    first, second = np.nonzero(np.triu(labels[:, None] == labels, 1))
    squares = np.zeros(len(first))
    for column in rows.T:  # differences, not products: copies are 0 apart
        squares += (column[first] - column[second]) ** 2
    order = np.argsort(squares, kind="stable")
    return first[order], second[order], squares[order]


def _fewest_pairs(num: int, first: Indices, second: Indices, squares: Doubles, num_most: int) -> int:
    """How many of the nearest pairs leave at most `num_most` clusters; with one pair, all as near as it."""

    def enough(pairs: int) -> bool:
        return int(_components(num, first[:pairs], second[:pairs]).max(initial=-1)) + 1 <= num_most

    low, high = -1, max(0, num - num_most)  # a pair joins two clusters at most
    while high < len(squares) and not enough(high):
        low, high = high, 2 * high + 1
    high = min(high, len(squares))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return int(np.searchsorted(squares, squares[high - 1], side="right")) if high else 0


def _components(num: int, first: Indices, second: Indices) -> Indices:
    """Connected components of `num` nodes and these edges: int64 [num], from 0 in order of first nodes."""
    root = np.arange(num)
    while True:
        low = np.minimum(root[first], root[second])
        hooked = root.copy()
        np.minimum.at(hooked, root[first], low)
        np.minimum.at(hooked, root[second], low)
        while True:  # each to the root of its root, until all are at one
            jumped = hooked[hooked]
            if np.array_equal(jumped, hooked):
                break
            hooked = jumped
        if np.array_equal(hooked, root):
            return np.unique(root, return_inverse=True)[1].astype(np.int64)
        root = hooked


# ---------------------------------------------------------------- k-means


def proportional(counts: Indices, total: int) -> Indices:
    """Share `total` out by counts [c] >= 1: at least 1 each, at most the count, largest remainders first."""
    total = min(max(total, len(counts)), int(counts.sum()))
    exact = counts * (total / max(1, int(counts.sum())))
    shares = np.clip(np.floor(exact).astype(np.int64), 1, counts)
    while shares.sum() < total:
        lacking = np.where(shares < counts, exact - shares, -np.inf)
        shares[np.argmax(lacking)] += 1
    while shares.sum() > total:
        surplus = np.where(shares > 1, shares - exact, -np.inf)
        shares[np.argmax(surplus)] -= 1
    return shares


def kmeans(rows: Doubles, weights: Doubles, num_clusters: int, random: np.random.Generator) -> Indices:
    """Lloyd's rounds from k-means++ seeds, until no row changes its cluster.

    Args:
        rows: [n, d].
        weights: [n], >= 0; rows of weight 0 follow the others.
        num_clusters: 1 to n.
        random: of the seeds.

    Returns:
        int64 [n], the cluster of each; fewer are used where rows coincide.
    """
    if num_clusters >= len(rows):
        return np.arange(len(rows))
    centres = rows[_seeds(rows, weights, num_clusters, random)]
    clusters = np.full(len(rows), -1)
    for _ in range(_MOST_ROUNDS):
        nearest = squared_distances(rows, centres).argmin(axis=1)
        if np.array_equal(nearest, clusters):
            break
        clusters = nearest
        masses = np.bincount(clusters, weights, num_clusters)
        of_rows = np.zeros((num_clusters, len(rows)))
        of_rows[clusters, np.arange(len(rows))] = weights
        moved = masses > 0
        centres[moved] = (of_rows[moved] @ rows) / masses[moved, None]
    return clusters


def _seeds(rows: Doubles, weights: Doubles, num: int, random: np.random.Generator) -> Indices:
    """Rows to start from: each the best of a few, drawn by weight times squared distance to those before."""
    num_tries = 2 + int(math.log(num))
    seeds = np.empty(num, np.int64)
    chances = shares_of(weights)
    nearest = np.full(len(rows), np.inf)
    for index in range(num):
        sums = np.cumsum(chances)
        tries = np.searchsorted(sums, random.random(num_tries) * sums[-1], side="right")
        tries = np.minimum(tries, len(rows) - 1)
        distances = np.minimum(nearest[:, None], squared_distances(rows, rows[tries]))
        best = np.argmin(weights @ distances)
        seeds[index], nearest = tries[best], distances[:, best]
        chances = nearest * weights
    return seeds
