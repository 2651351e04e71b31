"""A device's part of a gossip run: it feeds a gossiper with its stream, and reports window by window.

::

    begin ──▶ the stream is opened where an earlier life of the agent left it
    samples and labels ──▶ the gossiper learns and tells
    enough of them for the window, or its time is over ──▶ what was learned is kept, then reported

Without a coordinator it goes on. Reports tell of all since the run began, so that one which is lost, late or
doubled spoils nothing. A restart goes on from the last report, at the oldest sample without a label then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from device_agent.effects import (
    CancelTimer,
    CloseStream,
    Effect,
    KeepLearned,
    Note,
    OpenStream,
    Overhear,
    SetTimer,
)
from device_agent.gossip.gossiper import Gossiper
from device_agent.gossip.tally import Tally, pair_ages
from device_agent.gossip.telling import Tell
from device_agent.orders import OrderInHand
from device_agent.streams.stream import Sample
from device_agent.telemetry import Learned
from device_agent.wire.codec import refer
from device_agent.wire.messages import Hello, Order, Update
from device_agent.wire.stream_report import MAX_SAMPLES
from device_agent.wire.whispers import Whisper
from firmware_profiles.errors import PeerError
from models.bundle import Bundle
from models.prototypes import saved
from models.prototypes.classifier import NUM_PLACES, prototype_graph, scales_of
from models.prototypes.clustering import by_means
from models.prototypes.packing import pack
from models.prototypes.scaling import Scales
from models.prototypes.units import units_for
from models.subnet import Array

REPORT = "session/report"

POSITION, TALLY, COUNTS = "position", "tally", "counts"
"""Of the arrays kept. The position is where a stored stream goes on, and the first number not used."""


class GossipSession:
    """Decides; the driver does. Made when the first order of a run is complete.

    Args:
        device: its id. boot_epoch: of this life.
        in_hand: the order. bundle: decoded; its settings have `gossip`.
        scales: of the fleet's features so far; None: nobody has seen any.
        learned: the arrays of `KeepLearned` of an earlier life in this run; None: there was none.

    Attributes:
        gossiper: predicts, learns and tells. tally: of the run.
        bundle: of the newest order. seen: samples of the stream in this run.

    Raises:
        PeerError: order and bundle are not of a gossip run, or the settings do not suit the samples.
    """

    kind: ClassVar[str] = "gossip"

    def __init__(
        self,
        *,
        device: str,
        boot_epoch: int,
        in_hand: OrderInHand,
        bundle: Bundle,
        scales: Scales | None = None,
        learned: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        settings, order = bundle.settings.gossip, in_hand.order
        if settings is None or order.peering is None:
            raise PeerError("an order to learn from a stream has a bundle or an order without its settings")
        self.settings, self.bundle, self.run = settings, bundle, in_hand.run
        self._shape, self._num_classes = bundle.graph.input_shape, bundle.graph.num_classes
        try:
            self.gossiper = Gossiper(
                device=device,
                boot_epoch=boot_epoch,
                run=in_hand.run,
                settings=settings,
                num_features=int(np.prod(self._shape)),
                num_classes=self._num_classes,
                seed=order.seed,
                scales=scales,
            )
        except (ValueError, MemoryError) as error:
            raise PeerError(f"a gossip run cannot begin: {error}") from error
        self.tally = Tally()
        self.seen, self.num_left = 0, None
        self._next_number = 0
        self._is_over = False
        self._restored = "" if learned is None else self._restore(learned)
        self._in_hand = in_hand
        self._owed: OrderInHand | None = in_hand
        self._meet(in_hand)

    @property
    def bundle_digest(self) -> str:
        """Of the newest order's bundle."""
        return self._in_hand.order.bundle.digest

    def learned(self) -> Learned:
        """How far it is."""
        num_all = 0 if self.num_left is None else self.seen + self.num_left
        return Learned(self.seen, num_all, self.gossiper.prequential.recent_accuracy)

    # ------------------------------------------------------------ orders

    def begin(self) -> list[Effect]:
        """The session is made."""
        settings = self.settings
        effects: list[Effect] = [
            Overhear(self.gossiper.neighbours),
            OpenStream(self.seen, self._next_number, settings.passes, settings.sample_s),
            SetTimer(REPORT, 0.0),
        ]
        if self._restored:
            effects.append(Note("learned before", details={"samples": self.seen, "reason": self._restored}))
        return effects

    def end(self) -> list[Effect]:
        """The run is over, or another one begins."""
        return [CancelTimer(REPORT), CloseStream()]

    def takes(self, run: str, order: Order) -> bool:
        """Whether an order may belong to this session, which then goes on until its bundle is here."""
        return run == self.run and order.peering is not None

    def needs(self, order: Order) -> bool:
        """Whether what a later order names must be here before it is taken: another bundle, never weights."""
        return order.bundle.digest != self.bundle_digest

    def fits(self, bundle: Bundle) -> bool:
        """Whether a later order's bundle is this session's."""
        return bundle.settings.gossip == self.settings and bundle.graph == self.bundle.graph

    def on_order(
        self, in_hand: OrderInHand, bundle: Bundle, content: bytes, weights: Mapping[str, Array]
    ) -> list[Effect]:
        """A later order of the run: other neighbours perhaps, and the next report."""
        del content, weights
        self._in_hand = self._owed = in_hand
        self.bundle = bundle
        self._meet(in_hand)
        return [Overhear(self.gossiper.neighbours), SetTimer(REPORT, 0.0)]

    def on_timer(self, now_s: float, key: str) -> list[Effect]:
        """A timer is due: it may be time to report."""
        del key
        effects = self._report_if_due(now_s)
        if self._owed is not None:
            effects.append(SetTimer(REPORT, max(0.0, self._owed.deadline_at_s - now_s)))
        return effects

    # ------------------------------------------------------------ the stream

    def on_samples(self, now_s: float, samples: Sequence[Sample], num_left: int | None) -> list[Effect]:
        """Samples and labels came, in this order.

        Args:
            now_s: seconds of the driver's clock.
            samples: of the device's stream.
            num_left: to come after them; None: nobody knows.
        """
        self.num_left = num_left
        effects: list[Effect] = []
        for sample in samples:
            effects += self._on_sample(now_s, sample)
        return [*effects, *self._report_if_due(now_s)]

    def on_missed(self, num: int) -> None:
        """So many samples came that could not be learned."""
        self.tally.missed += num

    def on_told(self, num_bytes: int) -> None:
        """A whisper was sent."""
        self.tally.told += 1
        self.tally.bytes_sent += num_bytes

    def on_ended(self, now_s: float) -> list[Effect]:
        """No more will come."""
        self._is_over, self.num_left = True, 0
        note = Note("stream is over", details={"samples": self.seen})
        return [note, *self._report_if_due(now_s)]

    def _on_sample(self, now_s: float, sample: Sample) -> list[Tell]:
        try:
            if sample.vector is not None:
                self.seen += 1
                self._next_number = max(self._next_number, sample.number + 1)
                self.gossiper.on_sample(sample.number, sample.vector.reshape(-1), now_s)
            if sample.label is None:
                return []
            num_drifts = self.gossiper.num_drifts
            tells = self.gossiper.on_label(sample.number, sample.label, now_s)
        except ValueError:
            self.tally.missed += 1
            return []
        if self.gossiper.num_drifts > num_drifts:
            self.tally.drifted(self.seen, self.gossiper.drifts[-1])
        return tells

    # ------------------------------------------------------------ neighbours

    def _meet(self, in_hand: OrderInHand) -> None:
        assert in_hand.order.peering is not None
        self.gossiper.meet([one.device for one in in_hand.order.peering.neighbours])

    def on_whisper(self, now_s: float, sender: str, whisper: Whisper, num_bytes: int) -> list[Tell]:
        """A device told something, in so many bytes; one that is no neighbour any more is not listened to.

        Raises:
            PeerError: it is of another run, or cannot be used.
        """
        gossiper, tally = self.gossiper, self.tally
        if sender not in gossiper.neighbours:
            return []
        tally.heard += 1
        tally.bytes_received += num_bytes
        num_repeats, num_unread = gossiper.num_repeats, gossiper.num_unread
        tells = gossiper.on_whisper(now_s, sender, whisper)
        tally.repeats += gossiper.num_repeats - num_repeats
        tally.unread += gossiper.num_unread - num_unread
        return tells

    def on_connected(self) -> None:
        """The broker is there (again): what was told in the meantime reached nobody."""
        self.gossiper.lost_touch()

    # ------------------------------------------------------------ reports

    def _report_if_due(self, now_s: float) -> list[Effect]:
        owed = self._owed
        if owed is None or not (self._is_over or now_s >= owed.deadline_at_s or self._is_far_enough(owed)):
            return []
        self._owed = None
        content, counts = self._prototypes(), self.gossiper.prequential.counts
        num_samples = int(counts.sum())
        report = self.tally.report(
            counts,
            pair_ages(self.gossiper.ages, now_s),
            seen=self.seen,
            num_left=self.num_left,
            is_over=self._is_over,
        )
        update = Update(
            order=owed.order.order,
            round=owed.order.round,
            num_samples=num_samples,
            vectors=(),
            step_vectors=(),
            seed=owed.order.seed,
            delta=refer(content),
            macs=0,
            loss_sum=float(num_samples - np.trace(counts)),
            busy_s=0.0,
            wall_s=0.0,
            stream=report,
        )
        details = {"order": update.order, "round": update.round, "samples": self.seen}
        return [
            self.keep(),
            owed.report(update, content),
            Note("window reported", details=details),
        ]

    def _is_far_enough(self, owed: OrderInHand) -> bool:
        """Whether the samples of the order's window are learned; the last one ends with all labels."""
        num_windows = self.settings.windows * self.settings.passes
        if self.num_left is None or owed.order.round >= num_windows:
            return False
        return self.seen * num_windows >= (self.seen + self.num_left) * owed.order.round

    def _prototypes(self) -> bytes:
        """The own ones, for a model of the whole fleet; of many their clusters."""
        own = self.gossiper.learner.prototypes()
        if len(own) > NUM_PLACES:
            own = by_means(own, NUM_PLACES, seed=0)
        return pack(own, self._num_classes, units=units_for(own) if len(own) else None, with_ages=False)

    def keep(self) -> KeepLearned:
        """What is learned so far, for another life of the agent."""
        oldest = self.gossiper.oldest_waiting
        is_live = (
            self.num_left is None
        )  # what waits of it cannot be had again; else numbers count the samples
        at = self.seen if oldest is None or is_live else min(self.seen, oldest)
        arrays = {
            **self.gossiper.learner.state(),
            POSITION: np.array([at, self._next_number], np.int64),
            TALLY: self.tally.saved(),
            COUNTS: self.gossiper.prequential.counts.copy(),
        }
        return KeepLearned(self.run, arrays)

    def _restore(self, learned: Mapping[str, NDArray[np.generic]]) -> str:
        """Go on from what was kept; what became of it."""
        counts = self.gossiper.prequential.counts
        own = {POSITION: np.zeros(2, np.int64), TALLY: self.tally.saved(), COUNTS: counts}
        try:
            saved.check(own, learned)
            for name in own:
                saved.check_range(learned, name, 0, MAX_SAMPLES)
            self.gossiper.learner.restore({name: one for name, one in learned.items() if name not in own})
        except ValueError as error:
            return f"cannot be used: {error}"
        self.seen, self._next_number = (int(value) for value in learned[POSITION])
        self.tally.restore(learned[TALLY])
        counts[...] = learned[COUNTS]
        return "restored"


def begin_session(
    hello: Hello,
    in_hand: OrderInHand,
    bundle: Bundle,
    weights: Mapping[str, Array],
    learned: Mapping[str, NDArray[np.generic]] | None,
) -> GossipSession:
    """The run that an order begins.

    Args:
        hello: who the device is.
        in_hand: the order.
        bundle: decoded.
        weights: of the fleet's prototypes so far.
        learned: see GossipSession.

    Raises:
        PeerError: order, bundle and weights do not fit together.
    """
    graph = bundle.graph
    if graph.parameters != prototype_graph(graph.input_shape, graph.num_classes, NUM_PLACES).parameters:
        raise PeerError(f"an order to learn prototypes has the network {graph.name!r}, which has none")
    return GossipSession(
        device=hello.device,
        boot_epoch=hello.boot_epoch,
        in_hand=in_hand,
        bundle=bundle,
        scales=scales_of(weights),
        learned=learned,
    )
