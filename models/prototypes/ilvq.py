"""Incremental learning vector quantisation: prototypes that are added, moved and removed as samples come.

A sample becomes a prototype where its class is new, or where one of its two nearest prototypes is further
than that one's threshold. Else the two are joined by an edge and the nearest (the winner) moves: towards a
sample of its class, and its neighbours of other classes away from it; else the winner moves away, and its
neighbours of the sample's class closer. Edges that are not used again age and go; prototypes that stay alone,
and seldom win, go.

The threshold of a prototype follows from the lengths of its edges, to its own class (w) and to others (b):
none: infinite; w only: max w; b only: min b; both: the least b above mean w, else the largest b.

References:
    Xu, Shen, Zhao, An online incremental learning vector quantization, PAKDD 2009, LNCS 5476 (algorithm).
    Gonzalez-Soto et al., Decentralised and collaborative machine learning framework for IoT, arXiv 2312.12190
    (prediction by five neighbours, and numbers). Other than in their code, few wins are fewer than half the
    mean, each winner has learning rates of its own, and distances are in standard deviations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.prototypes import saved, scaling
from models.prototypes.prototype_set import PrototypeSet, check, check_sizes, checked_class
from models.prototypes.scaling import LARGEST, Doubles, Scaling
from models.prototypes.settings import IlvqSettings
from models.prototypes.standard import squared_distances

_FIRST = 2  # samples that become prototypes whatever they are
_SELDOM = 0.5  # of the mean wins


class Ilvq:
    """A graph of prototypes.

    Args:
        num_features: d, 1 or more. num_classes: C, 2 or more.
        settings: bounds.
    """

    def __init__(self, num_features: int, num_classes: int, settings: IlvqSettings | None = None) -> None:
        check_sizes(num_features, num_classes)
        self._settings = settings or IlvqSettings()
        most = self._settings.max_prototypes
        self._vectors = np.zeros((most, num_features))
        self._labels = np.zeros(most, np.int64)
        self._wins = np.zeros(most, np.int64)
        self._won = np.zeros(most, np.int64)  # the sample that it last won, or began with
        self._edges = np.full((most, most), -1, np.int32)  # age of an edge, -1 for none
        self._counts = np.zeros(2, np.int64)  # prototypes, samples
        self._seen = np.zeros(num_classes, np.bool_)
        self._difference = np.empty_like(self._vectors)
        self._scaling = Scaling(scaling.unknown(num_features), self._settings.scale_memory or 1.0)
        self._per_unit = np.ones(num_features)

    def __len__(self) -> int:
        return int(self._counts[0])

    def learn(self, x: NDArray[np.generic], y: int) -> None:
        """Learn a sample.

        Args:
            x: [d], in units of the data.
            y: its class, below C.

        Raises:
            ValueError: the shape is another, a feature is not finite, or there is no such class.
        """
        sample = scaling.checked(x, self._vectors.shape[1])
        checked_class(y, len(self._seen))
        self._counts[1] += 1
        if self._settings.scale_memory is not None:
            self._scaling.learn(sample)
            self._per_unit[:] = np.sqrt(self._scaling.live.inverse_variance())
        if len(self) < _FIRST or not self._seen[y]:
            self._add(sample, y)
        else:
            self._fit(sample, y)
        every = self._settings.denoise_every
        if every and self._counts[1] % every == 0:
            self._denoise()

    def predict_proba(self, x: NDArray[np.generic]) -> Doubles:
        """Probability of each class by the k nearest, each of which counts by the inverse of its distance.

        Args:
            x: [d].

        Returns:
            float64 [C]; equal shares before the first sample; certain at a prototype.

        Raises:
            ValueError: the shape is another, or a feature is not finite.
        """
        sample = scaling.checked(x, self._vectors.shape[1])
        num, num_classes = len(self), len(self._seen)
        if not num:
            return np.full(num_classes, 1.0 / num_classes)
        distance = np.sqrt(self._squared_distances(sample))
        near = np.argsort(distance, kind="stable")[: self._settings.neighbours]
        closest = distance[near[0]]
        # Relative to the nearest: 1 / distance may be infinite, and what is infinitely closer decides alone.
        ratio = np.divide(closest, distance[near], out=np.ones(len(near)), where=distance[near] > 0.0)
        shares = np.bincount(self._labels[near], ratio, num_classes)
        return shares / shares.sum()

    def prototypes(self) -> PrototypeSet:
        """All of them; a weight is 1 and the wins, an age the samples since the last win.

        One that moved away from samples beyond LARGEST is told to be there.
        """
        num = len(self)
        return PrototypeSet(
            np.clip(self._vectors[:num], -LARGEST, LARGEST).astype(np.float32),
            self._labels[:num].copy(),
            self._wins[:num].astype(np.float32),
            (self._counts[1] - self._won[:num]).astype(np.float32),
        )

    def replace(self, prototypes: PrototypeSet) -> None:
        """Go on with these in place of the present ones, such as with their clusters.

        Each is joined to its nearest, and has as many wins as its weight.

        Args:
            prototypes: of the same features and classes, at most `max_prototypes`.

        Raises:
            ValueError: they are more, or of others.
        """
        check(prototypes, self._vectors.shape[1], len(self._seen))
        num = len(prototypes)
        if num > len(self._labels):
            raise ValueError(f"{num} prototypes are more than the {len(self._labels)} that are kept")
        self._vectors[:num], self._labels[:num] = prototypes.vectors, prototypes.labels
        self._wins[:num] = np.maximum(1, np.rint(prototypes.weights)).astype(np.int64)
        self._won[:num] = self._counts[1] - np.rint(prototypes.ages).astype(np.int64)
        self._edges[...] = -1
        self._counts[0] = num
        self._seen[:] = np.bincount(self._labels[:num], minlength=len(self._seen)) > 0
        if num > 1:
            rows = self._vectors[:num] * self._per_unit
            squared = squared_distances(rows, rows)
            np.fill_diagonal(squared, np.inf)
            places, nearest = np.arange(num), squared.argmin(axis=1)
            self._edges[places, nearest] = self._edges[nearest, places] = 0

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that was learned, as arrays."""
        return saved.copied(self._arrays())

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it is of other features, classes or settings, or is damaged; nothing has changed then.
        """
        saved.check(self._arrays(), state)
        saved.check_range(state, "labels", 0, len(self._seen) - 1)
        if not 0 <= int(state["counts"][0]) <= len(self._labels):
            raise ValueError(f"a saved state has {state['counts'][0]} of {len(self._labels)} prototypes")
        saved.copy_back(self._arrays(), state)

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {
            "vectors": self._vectors,
            "labels": self._labels,
            "wins": self._wins,
            "won": self._won,
            "edges": self._edges,
            "counts": self._counts,
            "seen": self._seen,
            "per_unit": self._per_unit,
            **saved.joined({"scaling": self._scaling.arrays()}),
        }

    # ------------------------------------------------------------ the algorithm

    def _fit(self, x: Doubles, y: int) -> None:
        """A sample of a known class: a new prototype, or a step of those that are there."""
        squared = self._squared_distances(x)
        first, second = _two_least(squared)
        if squared[first] > self._threshold(first) or squared[second] > self._threshold(second):
            self._add(x, y)
            return
        num = len(self)
        self._edges[first, second] = self._edges[second, first] = 0
        joined = self._edges[first, :num] >= 0
        self._edges[first, :num] += joined
        self._edges[:num, first] = self._edges[first, :num]
        self._wins[first] += 1
        self._won[first] = self._counts[1]
        self._move(x, y, first, joined)
        old = self._edges[first, :num] > self._settings.max_age
        if old.any():
            self._edges[first, :num][old] = self._edges[:num, first][old] = -1

    def _move(self, x: Doubles, y: int, winner: int, joined: NDArray[np.bool_]) -> None:
        num = len(self)
        rate = 1.0 / self._wins[winner]
        right = self._labels[winner] == y
        towards = rate if right else -rate
        others = joined & ((self._labels[:num] != y) if right else (self._labels[:num] == y))
        neighbours = -towards * self._settings.neighbour_rate
        vectors = self._vectors[:num]
        vectors[winner] += towards * (x - vectors[winner])
        if others.any():
            vectors[others] += neighbours * (x - vectors[others])

    def _threshold(self, prototype: int) -> float:
        """How far a sample may be from a prototype without becoming one, squared."""
        joined = (self._edges[prototype, : len(self)] >= 0).nonzero()[0]
        if not len(joined):
            return float("inf")
        difference = self._vectors[joined]
        difference -= self._vectors[prototype]
        difference *= self._per_unit
        squared = np.einsum("ij,ij->i", difference, difference)
        same = self._labels[joined] == self._labels[prototype]
        num_within = np.count_nonzero(same)
        if num_within == len(joined):
            return float(squared.max())
        if not num_within:
            return float(squared.min())
        mean = float(np.sqrt(squared[same]).sum()) / num_within
        between = squared[~same]
        beyond = between[between > mean * mean]
        return float(beyond.min() if len(beyond) else between.max())

    def _squared_distances(self, x: Doubles) -> Doubles:
        difference = self._difference[: len(self)]
        np.subtract(self._vectors[: len(self)], x, out=difference)
        difference *= self._per_unit
        return np.einsum("ij,ij->i", difference, difference)

    def _add(self, x: Doubles, y: int) -> None:
        if len(self) == len(self._labels):
            self._keep(self._least_useful())
        place = len(self)
        self._vectors[place], self._labels[place] = x, y
        self._wins[place], self._won[place] = 1, self._counts[1]
        self._edges[place] = self._edges[:, place] = -1
        self._counts[0] += 1
        self._seen[y] = True

    def _least_useful(self) -> NDArray[np.bool_]:
        """All but the one that goes."""
        alone = np.bincount(self._labels, minlength=len(self._seen))[self._labels] == 1
        order = np.lexsort((self._won, self._wins, alone & ~alone.all()))
        return np.arange(len(self)) != order[0]

    def _denoise(self) -> None:
        """Remove prototypes without edges, and those with one edge that seldom won."""
        num = len(self)
        edges = (self._edges[:num, :num] >= 0).sum(axis=1)
        seldom = self._wins[:num] < _SELDOM * self._wins[:num].mean()
        self._keep((edges > 1) | ((edges == 1) & ~seldom))

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        """Let only these stay, in their order."""
        rows = np.flatnonzero(kept)
        num = len(rows)
        for array in (self._vectors, self._labels, self._wins, self._won):
            array[:num] = array[rows]
        self._edges[:num, :num] = self._edges[np.ix_(rows, rows)]
        self._counts[0] = num
        self._seen[:] = np.bincount(self._labels[:num], minlength=len(self._seen)) > 0


def _two_least(values: Doubles) -> tuple[int, int]:
    """Places of the least value and of the next; the first of equals."""
    first = int(values.argmin())
    kept, values[first] = values[first], np.inf
    second = int(values.argmin())
    values[first] = kept
    return first, second
