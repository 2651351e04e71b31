"""The default learner from a stream: few own samples, many experts, and what peers send kept apart.

`predict_proba` asks every expert and mixes what they say by their Hedge weights. `learn` first judges what
the experts said when they were asked, which with late labels was long ago, and then lets the sample in.
Prototypes that peers send are consulted, by experts of their own, and are neither learned from nor sent on:
useless or hostile ones lose their experts' weight, and their sender our trust, and what is known from own
samples stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.prototypes import experts, peer_table, saved, scaling
from models.prototypes.class_gaussians import ClassGaussians
from models.prototypes.experts import Experts
from models.prototypes.hedge import Hedge
from models.prototypes.memory import Memory
from models.prototypes.peer_table import PeerTable
from models.prototypes.prototype_set import PrototypeSet, check, check_sizes, checked_class
from models.prototypes.scaling import Doubles, Scales, Scaling
from models.prototypes.settings import LearnerSettings
from models.prototypes.trust import PeerTrust
from models.subnet import Indices

_UNSETTLED = 50  # samples during which each one moves the metrics
_RENEWAL = 5  # samples between two renewals of the metrics later


class _Said(NamedTuple):
    """Of each expert, float64 [H, C], and the class of each peer's nearest prototype, if there is any."""

    shares: Doubles
    nearest: Indices | None


class PrototypeLearner:
    """Classifies samples of a stream and learns from their labels.

    Args:
        num_features: d, 1 or more. num_classes: C, 2 or more.
        settings: bounds and forgetting.
        start: what is known of the features' scales, such as from peers; None: nothing.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        settings: LearnerSettings | None = None,
        start: Scales | None = None,
    ) -> None:
        check_sizes(num_features, num_classes)
        self._settings = settings = settings or LearnerSettings()
        self._num_features, self._num_classes = num_features, num_classes
        self._memory = Memory(num_features, num_classes, settings.memory, settings.pool)
        self._experts = Experts(settings, num_classes, self._memory)
        self._gaussians = ClassGaussians(num_features, num_classes, settings.class_memories)
        self._scaling = Scaling(start or scaling.unknown(num_features), settings.scale_memory)
        self._hedge = Hedge(
            self._experts.num_all, self._experts.num_own, settings.hedge_decay, settings.hedge_share
        )
        self._trust = PeerTrust(
            settings.peers, settings.hedge_decay, settings.trust_slope, settings.trust_margin
        )
        self._peers = PeerTable(settings.peers)
        self._pending: OrderedDict[bytes, _Said] = OrderedDict()
        self._metrics = np.zeros((num_features, experts.NUM_METRICS), np.float32)
        self._renew_metrics()

    # ------------------------------------------------------------ the stream

    def predict_proba(self, x: NDArray[np.generic]) -> Doubles:
        """The probability of each class.

        Args:
            x: [d], in units of the data.

        Returns:
            float64 [C] of sum 1.

        Raises:
            ValueError: the shape is another, or a feature is not finite.
        """
        values = scaling.checked(x, self._num_features)
        said = self._say(values)
        self._pending[values.tobytes()] = said
        if len(self._pending) > self._settings.pending:
            self._pending.popitem(last=False)
        weights = self._hedge.weights[: len(said.shares)]
        mixed = weights @ said.shares
        mixed /= np.add.reduce(weights)
        return mixed

    def learn(self, x: NDArray[np.generic], y: int) -> None:
        """Learn a sample and its label, whether or not, and whenever, it was predicted.

        Args:
            x: [d], in units of the data.
            y: its class, below C.

        Raises:
            ValueError: the shape is another, a feature is not finite, or there is no such class.
        """
        values = scaling.checked(x, self._num_features)
        label = checked_class(y, self._num_classes)
        said = self._pending.pop(values.tobytes(), None) or self._say(values)
        if said.nearest is not None:
            self._trust.learn(said.nearest, label)
        self._hedge.learn(said.shares, label)
        self._scaling.learn(values)
        self._gaussians.learn(values, label)
        self._memory.add(values.astype(np.float32), label)
        if self._memory.now < _UNSETTLED or self._memory.now % _RENEWAL == 0:
            self._renew_metrics()

    def prototypes(self) -> PrototypeSet:
        """The own samples that are kept; none of what peers sent."""
        return self._memory.own()

    # ------------------------------------------------------------ peers

    def receive(self, peer: str, prototypes: PrototypeSet) -> None:
        """Keep a peer's prototypes in the pool.

        Raises:
            ValueError: they have other features, classes that do not exist, or values that are not finite.
        """
        check(prototypes, self._num_features, self._num_classes)
        if self._settings.pool:
            self._memory.receive(self._place(peer), prototypes)

    def forget(self, peer: str) -> None:
        """Drop what a peer sent, such as when it has left; unknown peers are nothing to forget."""
        place = self._peers.drop(peer)
        if place is not None:
            self._memory.forget(place)

    @property
    def pool_size(self) -> int:
        """Prototypes of peers that are kept."""
        return self._memory.num_pool

    @property
    def pool_weight(self) -> float:
        """Hedge weight of the pool's experts together, between 0 and 1."""
        return float(self._hedge.weights[self._experts.num_own :].sum())

    def peer_trust(self) -> dict[str, float]:
        """Trust in each peer known, between 0 and 1."""
        trust = self._trust.of_peers(self._best_own)
        return {peer: float(trust[place]) for peer, place in self._peers.places().items()}

    def pool_probability(self, pool: PrototypeSet, x: NDArray[np.generic], y: int) -> float:
        """The probability that these prototypes alone give to the true label, in the metrics of this learner.

        A sender asks it of what its peers are known to have: where it is low, the sample is news.

        Args:
            pool: prototypes and their ages.
            x: [d].
            y: its class.

        Returns:
            Between 0 and 1; 0.0 of an empty pool.

        Raises:
            ValueError: the shape is another, a feature is not finite, or there is no such class.
        """
        values = scaling.checked(x, self._num_features).astype(np.float32)
        return experts.pool_share(
            pool,
            values,
            checked_class(y, self._num_classes),
            self._metrics,
            self._settings,
            self._num_classes,
        )

    def scales(self) -> Scales:
        """Of the features, as seen so far."""
        return self._scaling.scales()

    # ------------------------------------------------------------ saving

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that was learned, as arrays; predictions whose labels are still to come are left out."""
        return {**saved.copied(self._arrays()), "peers": self._peers.saved()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it is of a learner with other features, classes or settings, or is damaged; nothing
                has changed then.
        """
        arrays = self._arrays()
        saved.check(arrays, state)
        self._memory.check(state, "memory.", self._settings.peers)
        peers = peer_table.of_saved(state.get("peers", np.zeros(0, np.uint8)), self._settings.peers)
        saved.copy_back(arrays, state)
        self._peers = peers
        self._pending.clear()

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return saved.joined(
            {
                "memory": self._memory.arrays(),
                "gaussians": self._gaussians.arrays(),
                "scaling": self._scaling.arrays(),
                "hedge": self._hedge.arrays(),
                "trust": self._trust.arrays(),
                "metrics": {"weights": self._metrics},
            }
        )

    # ------------------------------------------------------------ inside

    def _say(self, x: Doubles) -> _Said:
        memory = self._memory
        distances = memory.distances(x.astype(np.float32), self._metrics)
        shares = self._experts.say(
            distances,
            x,
            self._gaussians,
            self._scaling.variance,
            self._trust.distrust(self._best_own),
        )
        if not memory.num_pool:
            return _Said(shares, None)
        nearest = memory.nearest_labels(distances[0, : memory.num_pool], self._settings.peers)
        return _Said(shares, nearest)

    def _renew_metrics(self) -> None:
        self._metrics[...] = experts.metrics(self._scaling.live, self._gaussians.separation())

    @property
    def _best_own(self) -> float:
        return self._hedge.best(self._experts.num_own)

    def _place(self, peer: str) -> int:
        """Of a peer; a new one takes the place of the longest silent where there is no other."""
        if peer in self._peers:
            return self._peers.heard(peer)
        silent = self._peers.longest_silent()
        if silent is not None:
            self.forget(silent)
        place = self._peers.heard(peer)
        self._trust.begin(place, self._best_own)
        return place
