"""A device's life in a gossip run: predict each sample, learn it when its label is known, and talk.

::

    sample ──▶ predict, keep until its label comes
    label  ──▶ count right or wrong, look for drift, learn, tell what is worth telling
    whisper of a neighbour, at any time ──▶ into the pool or the mailbox

No thread, clock or socket; learning a sample takes well below a millisecond and is done at once.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from device_agent.gossip.news import NewsSharing
from device_agent.gossip.sets import SetSharing, UnreadChangeError
from device_agent.gossip.telling import NEVER, Heard, Numbering, Tell
from device_agent.wire.whispers import Changed, News, Whisper, Whole, mark_of
from firmware_profiles.errors import PeerError
from models.gossip_settings import GossipSettings
from models.prototypes.ages import AgeRecord, after_arrival
from models.prototypes.drift import Drift, DriftDetector
from models.prototypes.ilvq import Ilvq
from models.prototypes.learner import PrototypeLearner
from models.prototypes.packing import UnknownUnitsError
from models.prototypes.prequential import Prequential
from models.prototypes.prototype_set import checked_class
from models.prototypes.scaling import Scales
from models.subnet import Array

MOST_WAITING, MOST_WAITING_BYTES = 100_000, 16 * 2**20
"""Samples that wait for their labels, and their features; of more the oldest are never learned."""

MOST_KNOWN = 1000
"""Devices that were neighbours and are not now, of which it is known what they told."""

MOST_LEARNER_BYTES = 64 * 2**20
"""That a learner may take: of more no board would be asked."""

MOST_DRIFTS = 1000
"""That are remembered, the latest."""


class _Waiting(NamedTuple):
    vector: Array
    predicted: int
    came_s: float | None


class Gossiper:
    """Learns from one stream, and from neighbours.

    Args:
        device: its id. boot_epoch: of this life. run: its id. settings: of the run.
        num_features: d of the stream. num_classes: C. seed: of all that is drawn.
        scales: of the fleet's features, to begin with; None: nothing is known.

    Attributes:
        learner: of the stream. prequential: what was predicted and true.
        neighbours: those that are told, and heard. ages: by neighbour, of what it told.
        drifts: the latest changes in the rate of errors. num_drifts: of all.
        num_repeats: whispers that had come before. num_unread: whispers that need one that was lost.
        num_unlabelled: samples whose labels never came, or after too many others.

    Raises:
        ValueError: the settings do not suit so many features.
    """

    def __init__(
        self,
        *,
        device: str,
        boot_epoch: int,
        run: str,
        settings: GossipSettings,
        num_features: int,
        num_classes: int,
        seed: int,
        scales: Scales | None = None,
    ) -> None:
        self.device = device
        self.neighbours: tuple[str, ...] = ()
        self.prequential = Prequential(num_classes)
        self.ages: dict[str, AgeRecord] = {}
        self.drifts: deque[Drift] = deque(maxlen=MOST_DRIFTS)
        self.num_repeats = self.num_unread = self.num_unlabelled = self.num_drifts = 0
        self._mark, self._num_classes = mark_of(run), num_classes
        self._detector = DriftDetector()
        self._most_waiting = min(MOST_WAITING, MOST_WAITING_BYTES // (4 * num_features))
        _check_size(settings, num_features, num_classes)
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._heard: dict[str, Heard] = {}
        numbering = Numbering(self._mark, boot_epoch)
        self._sharing: NewsSharing | SetSharing | None = None
        if settings.learner == "experts":
            self.learner = learner = PrototypeLearner(num_features, num_classes, settings.experts, scales)
            if settings.shares == "news":
                self._sharing = NewsSharing(
                    learner,
                    settings.news,
                    numbering,
                    num_features=num_features,
                    num_classes=num_classes,
                    pool=settings.experts.pool,
                    seed=seed,
                )
        else:
            self.learner = ilvq = Ilvq(num_features, num_classes, settings.ilvq)
            if settings.shares == "sets":
                self._sharing = SetSharing(
                    ilvq,
                    settings.sets,
                    numbering,
                    num_features=num_features,
                    num_classes=num_classes,
                    max_prototypes=settings.ilvq.max_prototypes,
                    seed=seed,
                )

    # ------------------------------------------------------------ the stream

    def on_sample(self, number: int, x: Array, now_s: float | None = None) -> int:
        """A sample came: its most likely class.

        Args:
            number: names it, for its label.
            x: float32 [d].
            now_s: seconds of the driver's clock, so that neighbours learn how old it is when its label comes;
                None: they take it for fresh.

        Raises:
            ValueError: it has other features, or one is not finite; it is as if it had not come.
        """
        predicted = int(self.learner.predict_proba(x).argmax())
        self._waiting[number] = _Waiting(np.array(x), predicted, now_s)
        if len(self._waiting) > self._most_waiting:
            self._waiting.popitem(last=False)
            self.num_unlabelled += 1
        return predicted

    @property
    def oldest_waiting(self) -> int | None:
        """The number of the oldest sample whose label has not come; None: there is none."""
        return next(iter(self._waiting), None)

    def on_label(self, number: int, y: int, now_s: float | None = None) -> list[Tell]:
        """The class of a sample is known, at once or much later; an unknown or repeated one changes nothing.

        Args:
            number: of the sample.
            y: its class.
            now_s: as of `on_sample`.

        Raises:
            ValueError: there is no such class.
        """
        checked_class(y, self._num_classes)
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return []
        self.prequential.add(y, waiting.predicted)
        drift = self._detector.observe(float(waiting.predicted != y))
        if drift is not None:
            self.drifts.append(drift)
            self.num_drifts += 1
        self.learner.learn(waiting.vector, y)
        if self._sharing is None:
            return []
        age_s = 0.0 if now_s is None or waiting.came_s is None else now_s - waiting.came_s
        return self._sharing.after(waiting.vector, y, self.neighbours, max(0.0, age_s))

    # ------------------------------------------------------------ neighbours

    def meet(self, neighbours: Sequence[str]) -> None:
        """These are the neighbours from now on; what others told stays, and they may come back."""
        self.neighbours = tuple(one for one in dict.fromkeys(neighbours) if one != self.device)
        strangers = [one for one in self._heard if one not in self.neighbours]
        if isinstance(self._sharing, SetSharing):
            for one in strangers:
                self._sharing.part(one)
        for one in strangers[: max(0, len(strangers) - MOST_KNOWN)]:
            self.ages.pop(one, None)
            self._heard.pop(one, None)
            if self._sharing is not None:
                self._sharing.forget(one)

    def lost_touch(self) -> None:
        """What was told of late may have reached nobody."""
        if isinstance(self._sharing, NewsSharing):
            self._sharing.lost_touch()

    def on_whisper(self, now_s: float, sender: str, whisper: Whisper) -> list[Tell]:
        """A neighbour said something; what came before changes nothing.

        Args:
            now_s: seconds of the driver's clock.
            sender: as the topic says.
            whisper: decoded.

        Raises:
            PeerError: it is of another run, of a stranger, or cannot be used.
        """
        if whisper.run != self._mark:
            raise PeerError(f"prototypes of {sender} belong to another run")
        if self._sharing is None:
            raise PeerError(f"{sender} tells prototypes, and this run shares nothing")
        if sender not in self.neighbours:
            raise PeerError(f"{sender} tells prototypes, and is no neighbour of this device")
        heard = self._heard.setdefault(sender, Heard())
        life = heard.boot_epoch
        if not heard.is_new(whisper):
            self.num_repeats += 1
            return []
        if NEVER < life < whisper.boot_epoch:
            self._sharing.restarted(sender)
        sharing = self._sharing
        try:
            tells = sharing.on_said(sender, whisper.said)
        except (UnknownUnitsError, UnreadChangeError):
            self.num_unread += 1
            return [sharing.ask_for_whole(sender)] if isinstance(sharing, SetSharing) else []
        if isinstance(whisper.said, (News, Whole, Changed)):
            record = self.ages.get(sender, AgeRecord())
            self.ages[sender] = after_arrival(record, now_s, whisper.age_ms / 1000)
        return tells


def _check_size(settings: GossipSettings, num_features: int, num_classes: int) -> None:
    """Refuse a learner that is too large, before anything is allocated.

    Raises:
        ValueError: it is.
    """
    if settings.learner == "experts":
        kept = settings.experts.memory + 2 * settings.experts.pool
        num_bytes = kept * (8 * num_features + 4 * num_classes)
    else:
        most = settings.ilvq.max_prototypes
        num_bytes = most * (16 * num_features + 4 * most)
    if num_bytes > MOST_LEARNER_BYTES:
        raise ValueError(
            f"a learner of these settings takes {num_bytes / 2**20:.0f} MiB for {num_features} features, "
            f"{MOST_LEARNER_BYTES >> 20} are allowed: keep fewer prototypes"
        )
