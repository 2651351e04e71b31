"""The reciprocal exchange: two devices pull towards each other by the same amount, or neither does.

::

    i  begins            ──Offer(n, θi)──▶   j  answers, keeps the pair, pulls nothing yet
    i  pulls w (θj - θi) ◀──Answer(n, θj)──
                         ──Settle(n)─────▶   j  pulls w (θi - θj)
    i  is done           ◀──Settled(n)────

Any message may be lost, repeated, late or overtaken. i sends Settle again until it hears of it. If j has
given the pair up meanwhile, it says so, and i takes its pull back; once j has said so, it never pulls. Of
what i never hears, only one side may have pulled, and i counts it. So the sum of all weights drifts by
counted pulls alone.

A pair of devices has one exchange at a time: one begun before the last one's pulls are made would pull twice
for the same difference, and swap the weights of two neighbours instead of averaging them.

Nothing here has a clock, a socket or a device's weights. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from device_agent.peers.mixing import Weights, pair_weight, pull
from device_agent.peers.snapshots import WeightsSnapshot
from device_agent.wire.messages import Answer, Exchanges, Offer, Settle, Settled
from models.peer_settings import PeerSettings

GIVE_UP_AGES = 4
"""Settle is sent for so many `max_age_s`: longer than the other side waits for it, so that the two agree."""

FORGET_AGES = 6
"""How an exchange ended is known for so many `max_age_s`: longer than anybody may ask."""

MAX_ENDED = 10_000
"""Exchanges of one neighbour whose ends are known at a time; what it asks of older ones is not answered."""

SETTLE_GROWTH = 1.2
MIN_SETTLE_S = 0.02
ROUND_TRIPS = 3.0
"""An answer is waited for so many times as long as answers took lately, and at least `barrier_s`."""

SILENT_OFFERS = 10
"""After so many unanswered offers in a row each next one waits longer, up to MAX_SLOWDOWN times."""

MAX_SLOWDOWN = 8

ANSWERED_OVER = 50
"""Offers that the share of answered ones is a fading mean of."""


@dataclass(frozen=True)
class Deed:
    """What a message or a moment calls for.

    Attributes:
        send: to the neighbour concerned, None: nothing.
        pull: to add to the own weights. taken_back: one to take away from them again.
    """

    send: Answer | Settle | Settled | None = None
    pull: Weights | None = None
    taken_back: Weights | None = None


NOTHING = Deed()


@dataclass(frozen=True)
class _Open:
    """An own offer that has no answer yet."""

    nonce: int
    degree: int
    own: WeightsSnapshot
    sent_s: float


@dataclass
class _Settling:
    """An own pull that the other side is yet to follow."""

    nonce: int
    pull: Weights
    began_s: float
    wait_s: float
    retry_at_s: float


@dataclass(frozen=True)
class _Pending:
    """A neighbour's offer that was answered."""

    nonce: int
    pull: Weights
    answered_s: float


@dataclass
class _Sender:
    """What is known of the exchanges that a neighbour began in its present life.

    Attributes:
        highest: nonce dealt with; a lower one that is not known any more has ended long ago.
        ended: nonce -> whether it was applied, and when that was known.
    """

    boot_epoch: int
    highest: int = -1
    pending: _Pending | None = None
    ended: dict[int, tuple[bool, float]] = field(default_factory=dict)


def first_nonce(device: str, boot_epoch: int) -> int:
    """Where a life of a device begins to count, so that answers to an earlier life fit nothing."""
    return int.from_bytes(hashlib.sha256(f"{device}/{boot_epoch}".encode()).digest()[:6], "big")


class ReciprocalExchanges:
    """All exchanges of one device.

    Args:
        device: its id. boot_epoch: of this life. settings: of the run.

    Attributes:
        counts: by neighbour, what became of the exchanges begun, since `take_counts`.
        num_unanswered: own offers replaced by newer ones. num_crossed: offers that gave way to an own one.
        answered: share of the own offers that were answered lately, 1 before there were any.
    """

    def __init__(self, device: str, boot_epoch: int, settings: PeerSettings) -> None:
        self.counts: dict[str, Exchanges] = {}
        self.num_unanswered = self.num_crossed = 0
        self.answered = 1.0
        self._settings = settings
        self._next_nonce = first_nonce(device, boot_epoch)
        self._open: dict[str, _Open] = {}
        self._missed: dict[str, _Open] = {}  # replaced, but an answer still tells how long answers take
        self._settling: dict[str, _Settling] = {}
        self._senders: dict[str, _Sender] = {}
        self._answer_s: dict[str, float] = {}
        self._num_silent: dict[str, int] = {}

    # ------------------------------------------------------------ own exchanges

    def can_begin(self, now_s: float, neighbour: str) -> bool:
        """Whether no exchange with this neighbour is under way."""
        found = self._senders.get(neighbour)
        return not (
            neighbour in self._settling
            or self._awaits_answer(now_s, neighbour)
            or (found is not None and self._is_young(now_s, neighbour, found.pending))
            or (self._settings.weight == "half" and self._is_busy(now_s))
        )

    def begin(
        self, now_s: float, neighbour: str, degree: int, tell: Callable[[int], WeightsSnapshot]
    ) -> Offer:
        """Offer what `tell` makes of the nonce; `degree`: see `Offer`."""
        missed = self._open.pop(neighbour, None)
        if missed is not None:
            self._missed[neighbour] = missed
            self.num_unanswered += 1
            self._num_silent[neighbour] = self._num_silent.get(neighbour, 0) + 1
        nonce = self._next_nonce
        self._next_nonce += 1
        own = tell(nonce)
        self._open[neighbour] = _Open(nonce, degree, own, now_s)
        self.answered *= 1 - 1 / ANSWERED_OVER
        self._count(neighbour, "begun")
        return Offer(nonce=nonce, degree=degree, step=own.step, weights=own.ref)

    def wants_answer(self, now_s: float, sender: str, answer: Answer) -> bool:
        """Whether it answers an offer that still stands; learns from a late one how long answers take."""
        self._num_silent[sender] = 0
        for offers in (self._open, self._missed):
            offered = offers.get(sender)
            if offered is not None and offered.nonce == answer.nonce:
                # One that waits for its own gradient answers late: what it took without that is what counts.
                known_s = self._answer_s.get(sender, now_s - offered.sent_s)
                self._answer_s[sender] = min(now_s - offered.sent_s, max(2.0 * known_s, MIN_SETTLE_S))
                return offers is self._open and now_s - offered.sent_s <= self._settings.max_age_s
        return False

    def on_answer(self, now_s: float, sender: str, answer: Answer, theirs: Weights) -> Deed:
        """The neighbour answered: pull, and have it pull too."""
        if not self.wants_answer(now_s, sender, answer):
            return NOTHING
        offered = self._open.pop(sender)
        self.answered = min(1.0, self.answered + 1 / ANSWERED_OVER)
        weight = pair_weight(self._settings, offered.degree, answer.degree)
        own_pull = pull(offered.own.weights, theirs, weight)
        most_s = min(self._longest_wait_s, self._settings.barrier_s / 4)
        wait_s = min(max(MIN_SETTLE_S, 2.0 * self._answer_s[sender]), most_s)
        self._settling[sender] = _Settling(offered.nonce, own_pull, now_s, wait_s, now_s + wait_s)
        return Deed(send=Settle(nonce=offered.nonce), pull=own_pull)

    def on_settled(self, sender: str, settled: Settled) -> Deed:
        """The neighbour has pulled too, or never will."""
        self._num_silent[sender] = 0
        settling = self._settling.get(sender)
        if settling is None or settling.nonce != settled.nonce:
            return NOTHING
        del self._settling[sender]
        self._count(sender, "completed" if settled.applied else "taken_back")
        return NOTHING if settled.applied else Deed(taken_back=settling.pull)

    # ------------------------------------------------------------ neighbours' exchanges

    def wants_offer(self, now_s: float, sender: str, boot_epoch: int, offer: Offer) -> bool:
        """Whether to answer: it is new, and no exchange of the own stands against it."""
        found = self._sender(sender, boot_epoch)
        if found is None or offer.nonce <= found.highest:
            return False
        self._num_silent[sender] = 0
        rivals = [sender] if self._settings.weight != "half" else list(self._open)
        standing = [self._open[rival] for rival in rivals if self._awaits_answer(now_s, rival)]
        if any(_rank(own.nonce) <= _rank(offer.nonce) for own in standing):
            self.num_crossed += 1
            return False
        return self._settings.weight != "half" or not self._is_busy(now_s, but_offers=True)

    def on_offer(
        self,
        now_s: float,
        sender: str,
        boot_epoch: int,
        offer: Offer,
        theirs: Weights,
        own: WeightsSnapshot,
        degree: int,
    ) -> Deed:
        """Answer with an own snapshot, and keep the pair until the neighbour has pulled."""
        if not self.wants_offer(now_s, sender, boot_epoch, offer):
            return NOTHING
        given_way = [sender] if self._settings.weight != "half" else list(self._open)
        for rival in given_way:
            self._open.pop(rival, None)
        found = self._senders[sender]
        if found.pending is not None:  # given up by its sender, who else would not offer anew
            found.ended[found.pending.nonce] = False, now_s
        weight = pair_weight(self._settings, degree, offer.degree)
        found.highest = offer.nonce
        found.pending = _Pending(offer.nonce, pull(own.weights, theirs, weight), now_s)
        return Deed(send=Answer(nonce=offer.nonce, degree=degree, step=own.step, weights=own.ref))

    def on_settle(self, now_s: float, sender: str, boot_epoch: int, settle: Settle) -> Deed:
        """The neighbour has pulled: pull too, once, and say so each time it asks."""
        found = self._sender(sender, boot_epoch)
        if found is None:
            return NOTHING
        self._num_silent[sender] = 0
        self._expire(now_s, found)
        pending = found.pending
        if pending is not None and pending.nonce == settle.nonce:
            found.pending, found.ended[pending.nonce] = None, (True, now_s)
            return Deed(send=Settled(nonce=settle.nonce, applied=True), pull=pending.pull)
        if settle.nonce in found.ended:
            return Deed(send=Settled(nonce=settle.nonce, applied=found.ended[settle.nonce][0]))
        if settle.nonce <= found.highest:
            return NOTHING  # it ended so long ago that nobody knows how; its sender has counted it
        found.highest, found.ended[settle.nonce] = settle.nonce, (False, now_s)  # answered in an earlier life
        return Deed(send=Settled(nonce=settle.nonce, applied=False))

    def give_up(self, now_s: float) -> None:
        """The own weights are put in place of others: nothing that is open pulls them any more."""
        self._open.clear()
        for neighbour in self._settling:
            self._count(neighbour, "one_sided")
        self._settling.clear()
        for found in self._senders.values():
            if (pending := found.pending) is not None:
                found.pending, found.ended[pending.nonce] = None, (False, now_s)

    # ------------------------------------------------------------ time

    def on_timer(self, now_s: float) -> list[tuple[str, Settle]]:
        """Send Settle again where it is due; give up what is too old."""
        due = []
        for neighbour, settling in list(self._settling.items()):
            if now_s >= settling.began_s + GIVE_UP_AGES * self._settings.max_age_s:
                del self._settling[neighbour]
                self._count(neighbour, "one_sided")
            elif now_s >= settling.retry_at_s:
                settling.wait_s = min(settling.wait_s * SETTLE_GROWTH, self._longest_wait_s)
                settling.retry_at_s = now_s + settling.wait_s
                due.append((neighbour, Settle(nonce=settling.nonce)))
        for found in self._senders.values():
            self._expire(now_s, found)
        for neighbour, offered in list(self._open.items()):
            if now_s - offered.sent_s > self._settings.max_age_s:
                del self._open[neighbour]
        return due

    def next_due_s(self) -> float | None:
        """When `on_timer` is due, None: never."""
        return min((one.retry_at_s for one in self._settling.values()), default=None)

    def is_settling(self, neighbour: str) -> bool:
        """Whether an own pull waits for the neighbour's."""
        return neighbour in self._settling

    def patience_s(self, neighbour: str) -> float:
        """How long an answer of this neighbour is waited for before another offer is made."""
        if self._settings.pace == "synchronous":
            return min(self._settings.max_age_s, self._soon_s(neighbour))
        slowdown = 2 ** min(10, max(0, self._num_silent.get(neighbour, 0) - SILENT_OFFERS))
        expected_s = max(self._settings.barrier_s, ROUND_TRIPS * self._answer_s.get(neighbour, 0.0))
        return min(self._settings.max_age_s, expected_s * min(slowdown, MAX_SLOWDOWN))

    def take_counts(self) -> dict[str, Exchanges]:
        """What happened since the last call."""
        counts, self.counts = self.counts, {}
        return counts

    # ------------------------------------------------------------ how it is known

    def _soon_s(self, neighbour: str) -> float:
        """About the time an answer takes: a step waits for it, so what was lost is offered again at once."""
        return max(self._settings.barrier_s / 4, 2.0 * self._answer_s.get(neighbour, 0.0))

    @property
    def _longest_wait_s(self) -> float:
        return self._settings.max_age_s / 8

    def _awaits_answer(self, now_s: float, neighbour: str) -> bool:
        offered = self._open.get(neighbour)
        return offered is not None and now_s - offered.sent_s < self.patience_s(neighbour)

    def _is_young(self, now_s: float, neighbour: str, pending: _Pending | None) -> bool:
        return pending is not None and now_s - pending.answered_s < self.patience_s(neighbour)

    def _is_busy(self, now_s: float, *, but_offers: bool = False) -> bool:
        """Whether an exchange with anybody is under way that may still come to a good end soon."""
        return (
            (not but_offers and any(self._awaits_answer(now_s, neighbour) for neighbour in self._open))
            or any(now_s - one.began_s < self.patience_s(name) for name, one in self._settling.items())
            or any(self._is_young(now_s, name, one.pending) for name, one in self._senders.items())
        )

    def _sender(self, sender: str, boot_epoch: int) -> _Sender | None:
        """What is known of its present life; None for a message from an earlier one."""
        found = self._senders.get(sender)
        if found is None or found.boot_epoch < boot_epoch:
            found = self._senders[sender] = _Sender(boot_epoch)
        return found if found.boot_epoch == boot_epoch else None

    def _expire(self, now_s: float, found: _Sender) -> None:
        pending, max_age_s = found.pending, self._settings.max_age_s
        if pending is not None and now_s - pending.answered_s > max_age_s:
            found.pending, found.ended[pending.nonce] = None, (False, now_s)
        while found.ended:
            oldest = next(iter(found.ended))
            if len(found.ended) <= MAX_ENDED and now_s - found.ended[oldest][1] <= FORGET_AGES * max_age_s:
                break
            del found.ended[oldest]

    def _count(self, neighbour: str, what: str) -> None:
        old = self.counts.get(neighbour, Exchanges())
        self.counts[neighbour] = msgspec.structs.replace(old, **{what: getattr(old, what) + 1})


def _rank(nonce: int) -> int:
    """Which of two offers that cross goes first: the lower one, by chance, and alike on both sides."""
    return nonce * 0x9E3779B97F4A7C15 % 2**64
