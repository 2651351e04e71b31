"""The vectors that a learner compares with: its own latest samples, and prototypes of its peers.

Both lie in one array, so that one matrix product gives all distances: the peers' prototypes fill its left
part from the right, own samples its right part from the left, and what is there is always one block.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.prototypes import saved
from models.prototypes.prototype_set import PrototypeSet
from models.prototypes.scaling import Doubles
from models.prototypes.trust import UNKNOWN
from models.subnet import Array, Indices

_MOST_SAMPLES = 2**62  # ever: a counter that is beyond it was damaged


class Memory:
    """Own samples in a ring, where the latest replaces the oldest, and a pool, where new ones do.

    Args:
        num_features: d. num_classes: C.
        own, pool: vectors of either kind that are kept.
    """

    def __init__(self, num_features: int, num_classes: int, own: int, pool: int) -> None:
        self._own, self._pool = own, pool
        self._vectors = np.zeros((pool + own, num_features), np.float32)
        self._votes = np.zeros((pool + own, num_classes), np.float32)
        self._labels = np.zeros(pool, np.int64)
        self._born = np.zeros(pool)
        self._peers = np.zeros(pool, np.int64)
        self._clock = array("q", (0, 0))  # own samples ever, prototypes kept
        # Ages by place, twice round: where the ring's next place is h, they are the part from own - h on.
        self.ages_round = (own - 1.0 - np.arange(2 * own)) % own
        self._difference = np.empty_like(self._vectors)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What is kept, live."""
        return {
            "vectors": self._vectors,
            "votes": self._votes,
            "labels": self._labels,
            "born": self._born,
            "peers": self._peers,
            "clock": np.frombuffer(self._clock, np.int64),
        }

    def check(self, state: Mapping[str, NDArray[np.generic]], prefix: str, num_peers: int) -> None:
        """Refuse numbers of a saved state that would point out of the arrays; shapes are right already.

        Raises:
            ValueError: there are such.
        """
        now, num_pool = np.asarray(state[prefix + "clock"], np.int64).tolist()
        if not 0 <= now <= _MOST_SAMPLES or not 0 <= num_pool <= self._pool:
            raise ValueError(f"a saved state has {num_pool} prototypes after {now} samples")
        saved.check_range(state, prefix + "labels", 0, self._votes.shape[1] - 1)
        saved.check_range(state, prefix + "peers", 0, num_peers - 1)

    @property
    def now(self) -> int:
        """Own samples ever learned: the clock of ages."""
        return self._clock[0]

    @property
    def num_own(self) -> int:
        """Own samples that are kept."""
        return min(self._clock[0], self._own)

    @property
    def num_pool(self) -> int:
        """Prototypes of peers that are kept."""
        return self._clock[1]

    @property
    def places(self) -> slice:
        """The part of `ages_round`, along its last axis, that belongs to the own samples kept."""
        start = self._own - (self.now if self.now < self._own else self.now % self._own)
        return slice(start, start + self.num_own)

    @property
    def votes(self) -> Array:
        """Prototypes', then own samples' votes for their classes: float32 [num_pool + num_own, C]."""
        return self._votes[self._pool - self.num_pool : self._pool + self.num_own]

    @property
    def pool_peers(self) -> Indices:
        """Index of the peer of each prototype: int64 [num_pool]."""
        return self._peers[self._pool - self.num_pool :]

    @property
    def pool_ages(self) -> Doubles:
        """Own samples since each prototype was young: float64 [num_pool]."""
        return self.now - self._born[self._pool - self.num_pool :]

    def own(self) -> PrototypeSet:
        """The own samples kept, in no order."""
        rows = slice(self._pool, self._pool + self.num_own)
        labels = self._votes[rows].argmax(axis=1).astype(np.int64)
        ages = self.ages_round[self.places].astype(np.float32)
        return PrototypeSet(self._vectors[rows].copy(), labels, np.ones(self.num_own, np.float32), ages)

    def distances(self, x: Array, metrics: Array) -> Array:
        """Squared distances from prototypes, then own samples.

        Args:
            x: float32 [d].
            metrics: float32 [d, M], the weight of each feature in each of M metrics.

        Returns:
            float32 [M, num_pool + num_own].
        """
        block = slice(self._pool - self.num_pool, self._pool + self.num_own)
        difference = self._difference[block]
        np.subtract(self._vectors[block], x, out=difference)
        np.multiply(difference, difference, out=difference)
        return metrics.T @ difference.T

    def add(self, x: Array, y: int) -> None:
        """Keep an own sample: float32 [d] of class y."""
        place = self._pool + self.now % self._own
        self._vectors[place] = x
        self._votes[place] = 0.0
        self._votes[place, y] = 1.0
        self._clock[0] += 1

    def receive(self, peer: int, prototypes: PrototypeSet) -> None:
        """Keep prototypes of a peer; in a full pool each takes the place of the oldest."""
        for vector, label, age in zip(prototypes.vectors, prototypes.labels, prototypes.ages, strict=True):
            born = self.now - float(age)
            if self.num_pool < self._pool:
                self._clock[1] += 1
                place = self._pool - self.num_pool
            else:
                place = int(self._born.argmin())
                if born < self._born[place]:
                    continue
            self._vectors[place] = vector
            self._votes[place] = 0.0
            self._votes[place, label] = 1.0
            self._labels[place], self._born[place], self._peers[place] = label, born, peer

    def forget(self, peer: int) -> None:
        """Drop the prototypes of a peer."""
        kept = np.flatnonzero(self.pool_peers != peer) + self._pool - self.num_pool
        into = slice(self._pool - len(kept), self._pool)
        for values in (self._vectors, self._votes, self._labels, self._born, self._peers):
            values[into] = values[kept]
        self._clock[1] = len(kept)

    def nearest_labels(self, distances: Array, num_peers: int) -> Indices:
        """The class of each peer's nearest prototype.

        Args:
            distances: float32 [num_pool].
            num_peers: P.

        Returns:
            int64 [P], UNKNOWN for peers without a prototype.
        """
        found = np.full(num_peers, UNKNOWN)
        order = np.argsort(-distances, kind="stable")  # the nearest is written last
        found[self.pool_peers[order]] = self._labels[self._pool - self.num_pool :][order]
        return found
