"""Sharing by news: an own sample is told to all at once, if what they have does not explain it already.

A device keeps a shadow of what its neighbours are likely to have: what it told them and what it was told.
Where that alone gives a sample's class little probability, the sample is news. What comes goes into the
learner's pool, which is consulted and never told on, so nothing comes back to where it was told first.

Ours; that such a gate is worth its bytes, and the demand flag, were measured (see docs/gossip.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from device_agent.gossip.reading import read_told
from device_agent.gossip.telling import ALL, Numbering, Tell
from device_agent.wire.whispers import Demand, News, Said
from firmware_profiles.errors import PeerError
from models.gossip_settings import NewsSettings
from models.prototypes.learner import PrototypeLearner
from models.prototypes.packing import pack, units_in
from models.prototypes.prototype_set import PrototypeSet, of_samples
from models.prototypes.scaling import Scales
from models.prototypes.units import Units
from models.subnet import Array

TIMES_UNITS = 3
"""So many messages in a row bring new units of the features, in case the first of them is lost."""

DEMAND_EVERY = 200
"""Samples after which a demand is said again: the last one may have been lost."""

FAR = 64.0
"""A sample so many units from the offsets brings new ones: float16 has steps of 1/16 of a unit there, and it
saturates further out."""

HYSTERESIS = 1.5
"""A device that wanted no more wants more again once the pool is worth so many times `demand_below`."""


class Shadow:
    """What neighbours are likely to have.

    Args:
        size: prototypes, the newest, 1 or more. num_features: d.
    """

    def __init__(self, size: int, num_features: int) -> None:
        self._vectors = np.zeros((size, num_features), np.float32)
        self._labels = np.zeros(size, np.int64)
        self._since = np.zeros(size, np.int64)
        self._num = self._next = 0

    def __len__(self) -> int:
        return self._num

    def add(self, prototypes: PrototypeSet, num_seen: int) -> None:
        """Told or heard, after so many own samples."""
        size = len(self._labels)
        newest = prototypes[max(0, len(prototypes) - size) :]
        rows = (self._next + np.arange(len(newest))) % size
        self._vectors[rows], self._labels[rows] = newest.vectors, newest.labels
        self._since[rows] = num_seen
        self._next = int(self._next + len(newest)) % size
        self._num = min(size, self._num + len(newest))

    def prototypes(self, num_seen: int) -> PrototypeSet:
        """All, after so many own samples."""
        rows = slice(0, self._num)
        ages = (num_seen - self._since[rows]).astype(np.float32)
        weights = np.ones(self._num, np.float32)
        return PrototypeSet(self._vectors[rows], self._labels[rows], weights, ages)


class NewsSharing:
    """Decides what is told.

    Args:
        learner: whose pool takes what comes. settings: when to tell. numbering: of the own whispers.
        num_features: d. num_classes: C. seed: of the probes.
        pool: prototypes that a neighbour keeps of what it is told, 1 or more.
    """

    def __init__(
        self,
        learner: PrototypeLearner,
        settings: NewsSettings,
        numbering: Numbering,
        *,
        num_features: int,
        num_classes: int,
        pool: int,
        seed: int,
    ) -> None:
        self._learner, self._settings, self._numbering = learner, settings, numbering
        self._num_features, self._num_classes = num_features, num_classes
        self._pool, self._shadow = pool, Shadow(pool, num_features)
        self._rng = random.Random(f"{seed}/probes")
        self._units: Units | None = None
        self._num_with_units = 0  # of the next messages
        self._told_units: set[str] = set()
        self._units_of: dict[str, Units] = {}
        self._satisfied: set[str] = set()
        self._is_satisfied = self._has_demanded = False
        self._num_seen = self._num_told = 0

    def after(self, x: Array, y: int, neighbours: Sequence[str], age_s: float = 0.0) -> list[Tell]:
        """A sample was learned.

        Args:
            x: float32 [d].
            y: its class.
            neighbours: of this moment.
            age_s: of the sample.
        """
        self._num_seen += 1
        tells = self._demands()
        if not neighbours:
            return []
        wanting = [one for one in neighbours if one not in self._satisfied]
        is_probe = len(wanting) < len(neighbours) and self._rng.random() < self._settings.probes
        if not (wanting or is_probe) or not self._is_news(x, y):
            return tells
        sample = of_samples(x[None], [y])
        self._shadow.add(sample, self._num_seen)
        if self._needs_units(sample, neighbours):
            self._units = _units_of(self._learner.scales())
            self._num_with_units = TIMES_UNITS - self._num_told % TIMES_UNITS * (self._num_told < TIMES_UNITS)
        with_units = self._num_with_units > 0
        self._num_with_units -= with_units
        news = News(self._packed(sample, with_units=with_units))
        self._num_told += 1
        # To all is one message to send, whoever hears it; to a few is less for the others to hear.
        is_for_few = 2 * len(wanting) < len(neighbours) and not with_units and not is_probe
        to = wanting if is_for_few else [ALL]
        if with_units:
            self._told_units = set(neighbours)
        return [*tells, *(self._numbering.tell(one, news, age_s) for one in to)]

    def on_said(self, sender: str, said: Said) -> list[Tell]:
        """A neighbour told something.

        Raises:
            UnknownUnitsError: it is in units that were lost on the way.
            PeerError: it cannot be read; as above, nothing has changed then.
        """
        if isinstance(said, Demand):
            (self._satisfied.discard if said.wants else self._satisfied.add)(sender)
            return []
        if not isinstance(said, News):
            raise PeerError(f"{sender} tells {type(said).__name__}, and this run shares news")
        brought = units_in(said.packed, self._num_features)
        told = read_told(said.packed, self._num_features, self._num_classes, self._units_of.get(sender))
        if brought is not None:
            self._units_of[sender] = brought
        told = told[max(0, len(told) - self._pool) :]  # of more, each would take the place of one before
        self._learner.receive(sender, told)
        self._shadow.add(told, self._num_seen)
        return []

    def forget(self, neighbour: str) -> None:
        """It is none any more."""
        self.restarted(neighbour)
        self._learner.forget(neighbour)

    def lost_touch(self) -> None:
        """What was told of late may have reached nobody, the units of the features too."""
        self._told_units.clear()

    def restarted(self, neighbour: str) -> None:
        """It began anew: it wants to be told, and needs units; what it told before stays true."""
        self._satisfied.discard(neighbour)
        self._told_units.discard(neighbour)
        self._units_of.pop(neighbour, None)

    def _is_news(self, x: Array, y: int) -> bool:
        settings = self._settings
        if self._num_told < settings.at_first or settings.below >= 1.0:
            return True
        shadow = self._shadow.prototypes(self._num_seen)
        return self._learner.pool_probability(shadow, x, y) < settings.below

    def _needs_units(self, sample: PrototypeSet, neighbours: Sequence[str]) -> bool:
        """Whether it is time for new ones, a neighbour never had them, or they do not suit the sample."""
        told, units = self._num_told, self._units
        if units is None or told < TIMES_UNITS or told % self._settings.units_every == 0:
            return True
        scaled = (sample.vectors.astype(np.float64) - units.offsets) / units.factors
        return not self._told_units.issuperset(neighbours) or bool(np.abs(scaled).max() > FAR)

    def _packed(self, sample: PrototypeSet, *, with_units: bool) -> bytes:
        return pack(
            sample,
            self._num_classes,
            units=self._units,
            with_units=with_units,
            with_weights=False,
            with_ages=False,
        )

    def _demands(self) -> list[Tell]:
        """Say whether more is wanted, where that has changed, and now and then anyway."""
        low, before = self._settings.demand_below, self._is_satisfied
        is_judged = self._learner.pool_size >= max(1, self._settings.at_first)
        limit = HYSTERESIS * low if before else low
        self._is_satisfied = is_judged and self._learner.pool_weight < limit
        has_changed = self._is_satisfied != before
        self._has_demanded |= has_changed
        if not has_changed and not (self._has_demanded and self._num_seen % DEMAND_EVERY == 0):
            return []
        return [self._numbering.tell(ALL, Demand(wants=not self._is_satisfied))]


def _units_of(scales: Scales) -> Units:
    """Means and standard deviations; no unit is finer than float32 tells values near the mean apart."""
    spread = np.sqrt(scales.variance)
    least = np.maximum(np.abs(scales.mean) * 2.0**-20, 1e-30)
    factors = np.where(spread > 0.0, np.maximum(spread, least), 1.0)
    return Units(scales.mean.astype(np.float32), factors.astype(np.float32))
