"""Sharing of whole sets, as in the paper: now and then they go to neighbours that a gate lets through.

What comes is kept in a mailbox of one set a neighbour, newest wins, and learned prototype by prototype as if
they were samples, some after each own sample, one of each neighbour in turn. With `skips_known` those that
are own ones nearly to the bit, because they were told first, are not learned again.

With `tells_changes` whoever hears a set says which version it now has, and is told what changed since::

    Whole 1 ──▶          ◀── Held 1
    Changed 1 to 2 ──▶   (that, or its Held 2, is lost)
    Changed 1 to 3 ──▶   ◀── Held 3
    Changed 3 to 4 ──▶   ◀── Held 0, should 3 be gone: whole again next time

Both keep some versions (`device_agent.gossip.versions`), since a Held comes after the next sets were told.

References:
    Fernandez-Pineiro et al., arXiv 2411.09267, as its authors coded it (nodes 1, 2 and 4).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from device_agent.gossip.reading import read_change, read_told
from device_agent.gossip.telling import Numbering, Tell
from device_agent.gossip.versions import Versions
from device_agent.wire.whispers import MAX_BYTES, Changed, Held, Said, Whole
from firmware_profiles.errors import PeerError
from models.gossip_settings import SetSettings
from models.prototypes import gates
from models.prototypes.changes import pack_change
from models.prototypes.clustering import KEPT_FRACTION, by_density, by_means
from models.prototypes.ilvq import Ilvq
from models.prototypes.packing import MAX_PROTOTYPES, pack
from models.prototypes.prototype_set import PrototypeSet
from models.prototypes.units import units_for
from models.subnet import Array

GATE_POINTS = 300
"""At which the gate of the paper estimates a distance: 1 % of it is chance, and a call takes 1 ms."""

SAME = 1e-3
"""Prototypes of one class nearer than this, in ranges of the features, are the same one."""


def check_size(settings: SetSettings, max_prototypes: int, num_features: int) -> None:
    """Refuse sets that may grow larger than a message.

    Raises:
        ValueError: they may.
    """
    # Sets are clustered before they are told.
    told = max_prototypes if settings.clustering == "none" else min(max_prototypes, settings.most)
    most_bytes = told * (2 * num_features + 5) + 8 * num_features + 3
    if told > MAX_PROTOTYPES or most_bytes > MAX_BYTES:
        limit = "ilvq.max_prototypes" if settings.clustering == "none" else "sets.most"
        raise ValueError(
            f"{told} prototypes of {num_features} features take {most_bytes} bytes, a message holds "
            f"{MAX_PROTOTYPES} in {MAX_BYTES} bytes: lower {limit}, or take data of fewer features"
        )


class UnreadChangeError(PeerError):
    """A change of a set that is not here, or not the same here: the whole must be asked for."""


class _Told(NamedTuple):
    """A version of the own set.

    Attributes:
        said: how it was told. own: as it was. read: as it is read, which changes are made for.
    """

    said: Whole | Changed
    own: PrototypeSet
    read: PrototypeSet


class SetSharing:
    """Decides what is told, and feeds what was told to the learner.

    Args:
        learner: of the own samples, and of what comes.
        settings: when and how. numbering: of the own whispers.
        num_features: d. num_classes: C. max_prototypes: that any neighbour's learner keeps, as the own one.
        seed: of all that is drawn.

    Raises:
        ValueError: sets can grow larger than a message may be.
    """

    def __init__(
        self,
        learner: Ilvq,
        settings: SetSettings,
        numbering: Numbering,
        *,
        num_features: int,
        num_classes: int,
        max_prototypes: int,
        seed: int,
    ) -> None:
        check_size(settings, max_prototypes, num_features)
        self._max_prototypes = max_prototypes
        self._learner, self._settings, self._numbering = learner, settings, numbering
        self._num_features, self._num_classes, self._seed = num_features, num_classes, seed
        self._rng = random.Random(f"{seed}/sets")
        self._received: dict[str, PrototypeSet] = {}
        self._mail: dict[str, list[int]] = {}  # rows of the newest set that are still to be learned
        self._newest: dict[str, int] = {}
        self._told: dict[str, Versions[_Told]] = {}  # the base is what it is known to hold
        self._held: dict[str, Versions[PrototypeSet]] = {}
        self._version = 0

    def after(self, x: Array, y: int, neighbours: Sequence[str], age_s: float = 0.0) -> list[Tell]:
        """A sample of this age was learned: learn some of what came, then tell, perhaps."""
        del x, y
        self._learn_mail()
        settings = self._settings
        if not neighbours or self._rng.random() >= settings.probability:
            return []
        self._cluster()
        own = self._learner.prototypes()
        if not len(own):
            return []
        chosen = self._rng.sample(list(neighbours), min(settings.partners, len(neighbours)))
        open_to = [one for one in chosen if self._is_open(one, own)]
        if not open_to:
            return []
        return [self._numbering.tell(one, said, age_s) for one, said in self._say(open_to, own)]

    def on_said(self, sender: str, said: Said) -> list[Tell]:
        """A neighbour told its set, or that it has this device's.

        Raises:
            UnreadChangeError: it told a change of a set that is not here; `ask_for_whole` is the answer.
            PeerError: it cannot be read.
        """
        if isinstance(said, Held):
            self._on_held(sender, said.version)
            return []
        if not isinstance(said, (Whole, Changed)):
            raise PeerError(f"{sender} tells {type(said).__name__}, and this run shares sets")
        if said.version < self._newest.get(sender, 0):
            return []
        found = self._read(sender, said)
        if not 0 < len(found) <= self._max_prototypes:
            raise PeerError(
                f"{sender} tells a set of {len(found)} prototypes, 1 to {self._max_prototypes} can be"
            )
        self._received[sender], self._newest[sender] = found, said.version
        if self._settings.tells_changes:
            self._held.setdefault(sender, Versions(_num_bytes)).add(said.version, found)
        rows = self._unknown(found) if self._settings.skips_known else list(range(len(found)))
        self._mail[sender] = rows
        return [self._numbering.tell(sender, Held(said.version))] if self._wants_held else []

    def ask_for_whole(self, sender: str) -> Tell:
        """What it told last could not be read."""
        return self._numbering.tell(sender, Held(0))

    def forget(self, neighbour: str) -> None:
        """It is none any more."""
        for kept in (self._received, self._mail, self._newest):
            kept.pop(neighbour, None)
        self.part(neighbour)

    def restarted(self, neighbour: str) -> None:
        """It began anew: it holds nothing of this device, and names its sets afresh."""
        self._newest.pop(neighbour, None)
        self.part(neighbour)

    def part(self, neighbour: str) -> None:
        """It is no neighbour for now: changes are of no use, and sets will be whole should it come back."""
        for kept in (self._told, self._held):
            kept.pop(neighbour, None)

    @property
    def _wants_held(self) -> bool:
        return self._settings.tells_changes or self._settings.gate == "calibrated"

    def _say(self, neighbours: Sequence[str], own: PrototypeSet) -> list[tuple[str, Whole | Changed]]:
        """A new version of the own set, to each in the fewest bytes that it can read."""
        self._version += 1
        packed = pack(own, self._num_classes, units=units_for(own), with_weights=True, with_ages=False)
        read = (
            read_told(packed, self._num_features, self._num_classes) if self._settings.tells_changes else own
        )
        whole = _Told(Whole(self._version, packed), own, read)
        # By the base, which neighbours mostly share. One version may have been told to them in two ways, and
        # then is not read the same.
        changed: dict[int, _Told] = {}
        said = []
        for one in neighbours:
            base, told = self._known(one), whole
            if base is not None and self._settings.tells_changes:
                if id(base) not in changed:
                    changed[id(base)] = self._changed(base, own, len(packed)) or whole
                told = changed[id(base)]
            if self._wants_held:
                self._told.setdefault(one, Versions(_num_told_bytes)).add(self._version, told)
            said.append((one, told.said))
        return said

    def _changed(self, base: _Told, own: PrototypeSet, most_bytes: int) -> _Told | None:
        """The set as a change of one that a neighbour has, if that takes fewer bytes."""
        packed = pack_change(base.read, own, self._num_classes)
        if packed is None or len(packed) >= most_bytes:
            return None
        read = read_change(packed, base.read, self._num_classes)
        return _Told(Changed(base.said.version, self._version, packed), own, read)

    def _known(self, neighbour: str) -> _Told | None:
        """The version of the own set that it is known to hold."""
        told = self._told.get(neighbour)
        return None if told is None else told.base

    def _on_held(self, sender: str, version: int) -> None:
        """It has this version, or 0: none that changes could be told of."""
        told = self._told.get(sender)
        if told is not None and version:
            told.rely_on(version)
        elif told is not None:
            told.forget_base()

    def _read(self, sender: str, said: Whole | Changed) -> PrototypeSet:
        if isinstance(said, Whole):
            return read_told(said.packed, self._num_features, self._num_classes)
        held = self._held.get(sender)
        base = None if held is None else held.get(said.base)
        if held is None or base is None:
            raise UnreadChangeError(
                f"{sender} tells a change of version {said.base} of its set, which is not here: "
                "the whole set is asked for"
            )
        try:
            found = read_change(said.packed, base, self._num_classes)
        except PeerError as error:
            raise UnreadChangeError(f"{error}; the whole set is asked for") from error
        held.rely_on(said.base)
        return found

    def _learn_mail(self) -> None:
        """One prototype of each neighbour in turn, up to as many as are allowed."""
        left = self._settings.learned
        while left and self._mail:
            sender = next(iter(self._mail))
            rows = self._mail.pop(sender)
            if rows:
                place = self._rng.randrange(len(rows))
                rows[place], rows[-1] = rows[-1], rows[place]
                row, left = rows.pop(), left - 1
                found = self._received[sender]
                self._learner.learn(found.vectors[row], int(found.labels[row]))
                self._mail[sender] = rows  # behind all others

    def _is_open(self, neighbour: str, own: PrototypeSet) -> bool:
        if self._settings.gate == "paper":
            received, seed = self._received.get(neighbour), self._rng.getrandbits(32)
            return gates.paper(own, received, seed=seed, max_points=GATE_POINTS).is_open
        if self._settings.gate == "calibrated":
            held = self._known(neighbour)
            return gates.calibrated(own, held.own if held else None).is_open
        return True

    def _cluster(self) -> None:
        """Have the learner keep fewer prototypes, where they have become too many."""
        settings = self._settings
        if settings.clustering == "none" or len(self._learner) <= settings.most:
            return
        own, num_kept = self._learner.prototypes(), int(KEPT_FRACTION * settings.most)
        if settings.clustering == "dbscan":
            fewer = by_density(own, num_kept)
        else:
            fewer = by_means(own, num_kept, seed=self._seed)
        self._learner.replace(fewer)

    def _unknown(self, found: PrototypeSet) -> list[int]:
        own = self._learner.prototypes()
        if not len(own) or not len(found):
            return list(range(len(found)))
        ranges = np.ptp(own.vectors, axis=0)
        ranges[ranges == 0] = 1.0
        is_same = found.labels[:, None] == own.labels
        for feature, limit in enumerate(SAME * ranges):  # one at a time: all gaps together may take gigabytes
            is_same &= np.abs(found.vectors[:, feature, None] - own.vectors[:, feature]) < limit
        return [int(row) for row in np.flatnonzero(~is_same.any(axis=1))]


def _num_bytes(prototypes: PrototypeSet) -> int:
    arrays = (prototypes.vectors, prototypes.labels, prototypes.weights, prototypes.ages)
    return sum(array.nbytes for array in arrays)


def _num_told_bytes(told: _Told) -> int:
    return _num_bytes(told.read)
