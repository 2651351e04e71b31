"""A device's life in a decentralised run: it owns weights, computes gradients and exchanges with neighbours.

::

    begin ──▶ unit: the gradient of some mini-batches, from a snapshot of the weights
                │ done                                  ▲
                ▼                                       │
    barrier: apply it, however late, or give it up ──▶ exchange begins, the next unit starts, a report if due
                                                        │
    answers and settlements of neighbours come at any time and pull at once, also while a unit runs

At the pace `overlapped` a gradient is applied as soon as it is done, and the next unit starts then. Nothing
waits for a neighbour, but at the pace `synchronous`. A device without neighbours trains on; one whose
coordinator is gone goes on with the neighbours and the learning rate it has. Sub-networks train some entries
of the weights; exchanges are over all of them, so neighbours need the same network and settings; engine,
table, speed, width and data may differ.

References:
    Jeong, Zecchin, Kountouris, Asynchronous decentralized learning over unreliable wireless networks, ICC
    2022, arXiv 2202.00955: the barrier, and late gradients that are applied. Its full text was not read;
    weights, settlement and step size are ours.
"""

from __future__ import annotations

from typing import ClassVar

from device_agent.effects import CancelTimer, Effect, Listen, Note, SetTimer, StartJob, StopJob
from device_agent.orders import JobRequest, OrderInHand
from device_agent.peers.checks import has_diverged, mixing_digest
from device_agent.peers.dialogue import Dialogue
from device_agent.peers.exchange import ReciprocalExchanges
from device_agent.peers.iterate_mean import IterateMean
from device_agent.peers.lock_step import LockStep
from device_agent.peers.mixing import Weights, moved
from device_agent.peers.neighbourhood import Neighbourhood
from device_agent.peers.sketch import sketch
from device_agent.peers.window import Gradient, Window
from device_agent.training import TrainingResult
from device_agent.wire.codec import refer
from device_agent.wire.messages import Envelope, Offer, Order
from firmware_profiles.errors import PeerError
from models.bundle import Bundle
from models.weights import pack

BEGIN, ORDER, BARRIER = "session/begin", "session/order", "session/barrier"
TICK, UNIT, REPORT = "session/tick", "session/unit", "session/report"

ENDLESS_S = 1e6
"""Time of a unit that is to be done, however long it takes."""

MIN_TICK_S = 0.01
MAX_BACKOFF = 64


class PeerSession:
    """Decides; the driver does. Made when the first order of a run is complete.

    Args:
        device: its id. boot_epoch: of this life.
        in_hand: the order. bundle: decoded; its settings have `peers`. content: the bundle as it came.
        weights: of the order, float32; the device goes on from them.

    Attributes:
        dialogue: its weights, and what it says of them to neighbours. window: since its last report.
    """

    kind: ClassVar[str] = "peers"

    def __init__(
        self,
        *,
        device: str,
        boot_epoch: int,
        in_hand: OrderInHand,
        bundle: Bundle,
        content: bytes,
        weights: Weights,
    ) -> None:
        settings, order = bundle.settings.peers, in_hand.order
        if settings is None or order.peering is None:
            raise PeerError(
                "an order to learn from neighbours has a bundle or an order without their settings"
            )
        self.settings, self.bundle, self.run = settings, bundle, in_hand.run
        self.exchanges = ReciprocalExchanges(device, boot_epoch, settings)
        self.neighbours = Neighbourhood(device, settings, order.peering, order.seed)
        self.dialogue = Dialogue(
            self.exchanges,
            self.neighbours,
            run=in_hand.run,
            bundle=bundle,
            settings=settings,
            weights=weights,
        )
        self.window = Window()
        self._mean = IterateMean(settings.averaged_barriers or 1, weights)
        self._content = content
        self._in_hand = in_hand
        self._base: Weights = weights
        self._owed: OrderInHand | None = in_hand
        self._reported_step = 0
        self._barrier_s = 0.0
        self._unit_step: int | None = None  # barrier at which the running unit began
        self._num_units = self._num_failures = 0
        self._is_held_back = False
        self._is_by_time = bundle.settings.subnets.choice != "fixed"
        self._unit_s = settings.barrier_s if self._is_by_time else ENDLESS_S
        self._ready: Gradient | None = None
        self._lock_step = LockStep(settings.max_age_s, retry_s=settings.barrier_s / 4)

    @property
    def bundle_digest(self) -> str:
        """Of the newest order's bundle."""
        return self._in_hand.order.bundle.digest

    @property
    def step(self) -> int:
        """Barriers passed."""
        return self.dialogue.step

    @property
    def weights(self) -> Weights:
        """Those of this moment."""
        return self.dialogue.own.weights

    @property
    def model(self) -> Weights:
        """What the device has learned, and reports: its weights, or their mean of late."""
        return self.weights if self.settings.averaged_barriers is None else self._mean.weights

    # ------------------------------------------------------------ orders

    def begin(self) -> list[Effect]:
        """The session is made."""
        return [Listen(self.neighbours.ids), SetTimer(BEGIN, 0.0)]

    def end(self) -> list[Effect]:
        """The run is over, or another one begins."""
        return [CancelTimer(key) for key in (BEGIN, ORDER, BARRIER, TICK, UNIT, REPORT)]

    def takes(self, run: str, order: Order) -> bool:
        """Whether an order may belong to this session, which then goes on until its bundle is here."""
        return run == self.run and order.peering is not None

    def needs(self, _order: Order) -> bool:
        """Whether what a later order names must be here first: always."""
        return True

    def fits(self, bundle: Bundle) -> bool:
        """Whether a later order's bundle is this session's, whatever its table."""
        return mixing_digest(bundle) == self.dialogue.digest

    def on_order(
        self, in_hand: OrderInHand, bundle: Bundle, content: bytes, weights: Weights
    ) -> list[Effect]:
        """A later order of the run: other neighbours or another table perhaps, and what reports refer to.

        Args:
            in_hand: the order.
            bundle: of the order, decoded; it fits.
            content: the bundle as it came.
            weights: of the order; the own ones stay.
        """
        assert in_hand.order.peering is not None
        self._in_hand = self._owed = in_hand
        self.bundle = self.dialogue.bundle = bundle
        self._content = content
        self._base = weights
        self.neighbours.assign(in_hand.order.peering)
        self._lock_step.waits_for &= set(self.neighbours.ids)
        return [Listen(self.neighbours.ids), SetTimer(ORDER, 0.0)]

    # ------------------------------------------------------------ time

    def on_timer(self, now_s: float, key: str) -> list[Effect]:
        """A timer is due."""
        if key == BEGIN:
            return self._on_begin(now_s)
        if key == BARRIER:
            return [*self._pass_barrier(now_s), *self._barrier_timer(now_s)]
        if key == UNIT:
            self._is_held_back = False
            return self._start_unit(now_s)
        if key == REPORT:
            return self._report_if_due(now_s)
        if key == ORDER:
            return [*self._go_on(now_s), *self._report_timer(now_s)]
        effects = self.dialogue.on_timer(now_s)
        if self._lock_step.asks_again(now_s):
            effects += self._offer_again(now_s)
        return [*effects, *self._go_on(now_s), *self._tick(now_s)]

    def _on_begin(self, now_s: float) -> list[Effect]:
        self.window.began_s = self._barrier_s = now_s
        effects = [*self._start_unit(now_s), *self._report_timer(now_s)]
        return [*effects, *self._barrier_timer(now_s)] if self.settings.has_timed_barriers else effects

    def _pass_barrier(self, now_s: float) -> list[Effect]:
        self.dialogue.step += 1
        effects = [*self._take_gradient(now_s), *self.dialogue.offer_to_some(now_s)]
        self.dialogue.mix_letters(now_s)
        self._mean.add(self.weights)
        return [*effects, *self._report_if_due(now_s), *self._start_unit(now_s), *self._tick(now_s)]

    def _barrier_timer(self, now_s: float) -> list[Effect]:
        period_s = self.settings.barrier_s
        num_missed = int(max(0.0, now_s - self._barrier_s) / period_s)  # of a board that slept
        self._barrier_s += period_s * max(1, num_missed)
        return [SetTimer(BARRIER, max(0.0, self._barrier_s - now_s))]

    def _tick(self, now_s: float) -> list[Effect]:
        due = [self.exchanges.next_due_s(), *self._lock_step.due_s()]
        at_s = min((one for one in due if one is not None), default=None)
        return [] if at_s is None else [SetTimer(TICK, max(MIN_TICK_S, at_s - now_s))]

    # ------------------------------------------------------------ gradients

    def on_unit_done(self, now_s: float, result: TrainingResult, busy_s: float) -> list[Effect]:
        """A unit has ended; it may have trained nothing, for want of time."""
        if self._unit_step is None:
            return []
        began, self._unit_step = self._unit_step, None
        if not result.step_vectors or not result.delta:
            self._unit_s = min(ENDLESS_S, 2 * self._unit_s)
            return self._hold_back(self.settings.barrier_s)
        self._num_failures = 0
        self._ready = Gradient(result, self.step - began, busy_s)
        return _WHEN_READY[self.settings.pace](self, now_s)

    def on_unit_failed(self, reason: str) -> list[Effect]:
        """A unit could not be trained: exchanges go on, and it is tried again after growing waits."""
        self._unit_step = None
        self._num_failures += 1
        wait_s = self.settings.barrier_s * min(MAX_BACKOFF, 2 ** min(self._num_failures, 10))
        details = {"reason": reason[:500], "failures": self._num_failures}
        return [Note("gradient failed", details=details), *self._hold_back(wait_s)]

    def _hold_back(self, wait_s: float) -> list[Effect]:
        self._is_held_back = True
        return [SetTimer(UNIT, wait_s)]

    def _start_unit(self, now_s: float) -> list[Effect]:
        if self._unit_step is not None or self._is_held_back or self._lock_step.waits:
            return []
        self._unit_step = self.step
        self._num_units += 1
        unit = self._in_hand.unit(self._num_units, self.settings.unit_batches, now_s + self._unit_s)
        return [StartJob(JobRequest(in_hand=unit, bundle=self._content, weights=self.weights))]

    def _take_gradient(self, now_s: float) -> list[Effect]:
        """Apply what is ready; what is not goes on, or is given up.

        Weights that have blown up, so that neighbours would refuse them, give way to the newest mean known.
        """
        done, self._ready = self._ready, None
        after = self.weights if done is None else moved(self.weights, done.result.delta)
        if has_diverged(after, self._base):
            self.exchanges.give_up(now_s)
            self.dialogue.own.set(self._base)
            self._mean.reset(self._base)
            details = {"version": self._in_hand.base_version}
            return [Note("weights that blew up given up", details=details)]
        if done is not None:
            self.dialogue.own.set(after)
            self.window.applied(done, self._in_hand.order.num_batches)
        elif self.settings.late == "discard" and self._unit_step is not None:
            self._unit_step = None
            self.window.discarded += 1
            return [StopJob()]
        return []

    def _apply_at_once(self, now_s: float) -> list[Effect]:
        return [*self._take_gradient(now_s), *self._start_unit(now_s)]

    # ------------------------------------------------------------ the pace `synchronous`

    def _wait_for_all(self, now_s: float) -> list[Effect]:
        """The gradient of this step is ready: apply it, and exchange with everybody."""
        self.dialogue.step += 1
        effects = self._take_gradient(now_s)
        self.dialogue.freeze()
        drawn = self.neighbours.draw()
        self._lock_step.begin(now_s, drawn)
        effects += self.dialogue.offer_to(now_s, drawn)
        for envelope, sent_s in self._lock_step.release():
            try:
                effects += self._on_offer(now_s, envelope, now_s - sent_s)
            except PeerError as error:  # noqa: PERF203 - as each would have been when it came
                details = {"neighbour": envelope.sender, "reason": str(error)[:500]}
                effects.append(Note("held offer refused", details=details))
        return [*effects, *self._go_on(now_s), *self._tick(now_s)]

    def _offer_again(self, now_s: float) -> list[Effect]:
        """What this step waits for may have been lost."""
        return self.dialogue.offer_to(now_s, sorted(self._lock_step.waits_for))

    def _go_on(self, now_s: float) -> list[Effect]:
        """Begin the next step if this one's exchanges are done, or too old."""
        waiting = self._lock_step
        if self.settings.exchange == "push":
            mailbox = self.dialogue.mailbox
            waiting.waits_for = {one for one in waiting.waits_for if mailbox.step_of(one) < self.step}
        if not waiting.ends(now_s):
            return []
        self.dialogue.thaw()
        self.dialogue.mix_letters(now_s)
        self._mean.add(self.weights)
        return [*self._report_if_due(now_s), *self._start_unit(now_s)]

    # ------------------------------------------------------------ neighbours

    def wants(self, now_s: float, envelope: Envelope) -> bool:
        """Whether a message is worth looking into, and its weights worth fetching.

        Raises:
            PeerError: it comes from a stranger, or belongs to another run, network or method.
        """
        return self.dialogue.wants(now_s, envelope)

    def content(self, digest: str) -> bytes | None:
        """A snapshot that a neighbour fetches, None: it is gone."""
        return self.dialogue.own.content(digest)

    def on_message(self, now_s: float, envelope: Envelope, age_s: float) -> list[Effect]:
        """A message of a neighbour, that is wanted; weights are inside.

        Args:
            now_s: seconds of the driver's clock.
            envelope: the message.
            age_s: seconds since it was sent.

        Raises:
            PeerError: the weights are not this network's, not finite, or far too large.
        """
        self._lock_step.heard_of(envelope.sender)
        is_offer = isinstance(envelope.body, Offer)
        said = self._on_offer(now_s, envelope, age_s) if is_offer else self._on_answer(now_s, envelope)
        if self.settings.exchange == "reciprocal":  # what was settled just now may have held it up
            said += self._offer_again(now_s)
        return [*said, *self._go_on(now_s), *self._tick(now_s)]

    def _on_offer(self, now_s: float, envelope: Envelope, age_s: float) -> list[Effect]:
        offer = envelope.body
        assert isinstance(offer, Offer)
        is_ahead = self.settings.pace == "synchronous" and offer.step > self.step
        if is_ahead and offer.wants_answer:
            self._lock_step.held[envelope.sender] = envelope, now_s - age_s  # until this device is as far
            return []
        return self.dialogue.on_offer(now_s, envelope, age_s).effects

    def _on_answer(self, now_s: float, envelope: Envelope) -> list[Effect]:
        said = self.dialogue.on_answer(now_s, envelope)
        if said.has_pulled:
            self._lock_step.waits_for.discard(envelope.sender)
        return said.effects

    # ------------------------------------------------------------ reports

    def _report_timer(self, now_s: float) -> list[Effect]:
        if self.settings.has_timed_barriers or self._owed is None:
            return []
        return [SetTimer(REPORT, max(0.0, self._owed.deadline_at_s - now_s))]

    def _report_if_due(self, now_s: float) -> list[Effect]:
        owed = self._owed
        is_early = self.step - self._reported_step < self.settings.window
        if owed is None or (is_early and now_s < owed.deadline_at_s):
            return []
        self._owed, self._reported_step = None, self.step
        content = pack({name: values - self._base[name] for name, values in self.model.items()})
        update = self.window.update(
            owed.order,
            refer(content),
            step=self.step,
            exchanges=self.exchanges.take_counts(),
            sketch=sketch(self.weights, f"{self.run}/{self.dialogue.digest}"),
            now_s=now_s,
        )
        self.window = Window(began_s=now_s)
        details = {"order": update.order, "round": update.round, "step": self.step}
        return [owed.report(update, content), Note("window reported", details=details)]


_WHEN_READY = {
    "barrier": lambda _session, _now_s: [],  # it waits for the barrier
    "overlapped": PeerSession._apply_at_once,  # noqa: SLF001 - of this class
    "wait-free": PeerSession._pass_barrier,  # noqa: SLF001
    "synchronous": PeerSession._wait_for_all,  # noqa: SLF001
}
