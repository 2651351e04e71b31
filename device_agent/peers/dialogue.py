"""A device's weights and what it says of them to its neighbours: exchanges, or weights pushed.

Which messages are looked into, what is answered, and how the weights move by it. When, the session says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from device_agent.effects import Effect, Send
from device_agent.peers.checks import check_theirs, mixing_digest, unpack_theirs
from device_agent.peers.exchange import Deed, ReciprocalExchanges
from device_agent.peers.mailbox import Letter, Mailbox
from device_agent.peers.mixing import Weights, moved, moved_back, pull, received_weight
from device_agent.peers.neighbourhood import Neighbourhood
from device_agent.peers.snapshots import OwnWeights, WeightsSnapshot
from device_agent.wire.messages import Answer, Envelope, Offer, Settle, Settled
from firmware_profiles.errors import PeerError
from models.bundle import Bundle
from models.peer_settings import PeerSettings


@dataclass(frozen=True)
class Said:
    """What a message brought about: messages to send, and whether the pair has now pulled here."""

    effects: list[Effect]
    has_pulled: bool = False


class Dialogue:
    """Talks about one device's weights.

    Args:
        exchanges: of this device. neighbours: of this moment.
        run: its id. bundle: of the run. weights: to begin with.

    Attributes:
        own: the weights. step: barriers passed; the session counts them.
        digest: of what all who mix have in common; their messages bear it.
    """

    def __init__(
        self,
        exchanges: ReciprocalExchanges,
        neighbours: Neighbourhood,
        *,
        run: str,
        bundle: Bundle,
        settings: PeerSettings,
        weights: Weights,
    ) -> None:
        self.exchanges, self.neighbours = exchanges, neighbours
        self.run, self.bundle, self.digest = run, bundle, mixing_digest(bundle)
        self.settings = settings
        self.own = OwnWeights(weights, bundle.settings.exchange_compression)
        self.step = 0
        self.mailbox = Mailbox(settings.max_age_s, consumes=settings.pace != "wait-free")

    # ------------------------------------------------------------ what comes

    def wants(self, now_s: float, envelope: Envelope) -> bool:
        """Whether a message is worth looking into, and its weights worth fetching.

        Raises:
            PeerError: it comes from a stranger, or belongs to another run, network or method.
        """
        body, sender = envelope.body, envelope.sender
        if envelope.run != self.run:
            raise PeerError(f"it belongs to run {envelope.run}, this device is in {self.run}")
        if isinstance(body, (Settle, Settled)):
            # Perhaps of one who was a neighbour until now, but not of a session before: nonces begin anew.
            return envelope.base_digest == self.digest
        if not isinstance(body, (Offer, Answer)):
            raise PeerError(f"a neighbour's {type(body).__name__} has no place here")
        if envelope.base_digest != self.digest:
            raise PeerError(f"the weights of {sender} are of another network: they cannot be compared")
        check_theirs(body.weights, self.bundle)
        if isinstance(body, Answer):
            return self.exchanges.wants_answer(now_s, sender, body)
        if sender not in self.neighbours:
            raise PeerError(f"{sender} is no neighbour of this device")
        is_push = self.settings.exchange == "push"
        if body.wants_answer == is_push:
            raise PeerError(f"{sender} exchanges otherwise than this run, by {self.settings.exchange}")
        if is_push:
            return self.mailbox.is_news(sender, (envelope.boot_epoch, envelope.sequence))
        return self.exchanges.wants_offer(now_s, sender, envelope.boot_epoch, body)

    def on_offer(self, now_s: float, envelope: Envelope, age_s: float) -> Said:
        """A neighbour offers or pushes its weights, sent `age_s` ago.

        Raises:
            PeerError: the weights cannot be used.
        """
        offer, sender = envelope.body, envelope.sender
        assert isinstance(offer, Offer)
        if age_s > self.settings.max_age_s:
            return Said([])
        if self.settings.exchange == "push":
            letter = Letter(
                name=(envelope.boot_epoch, envelope.sequence),
                degree=offer.degree,
                step=offer.step,
                weights=unpack_theirs(offer.weights, self.bundle, self.own.weights),
                sent_s=now_s - age_s,
            )
            self.mailbox.put(sender, letter)
            return Said([])
        if not self.exchanges.wants_offer(now_s, sender, envelope.boot_epoch, offer):
            return Said([])
        theirs = unpack_theirs(offer.weights, self.bundle, self.own.weights, offer.nonce)
        deed = self.exchanges.on_offer(
            now_s, sender, envelope.boot_epoch, offer, theirs, self.tell(offer.nonce), self.neighbours.degree
        )
        return self._do(sender, deed)

    def on_answer(self, now_s: float, envelope: Envelope) -> Said:
        """A neighbour answers with its weights, settles, or has settled.

        Raises:
            PeerError: the weights cannot be used.
        """
        sender, body = envelope.sender, envelope.body
        if isinstance(body, Answer):
            theirs = unpack_theirs(body.weights, self.bundle, self.own.weights, body.nonce)
            return self._do(sender, self.exchanges.on_answer(now_s, sender, body, theirs))
        if isinstance(body, Settle):
            return self._do(sender, self.exchanges.on_settle(now_s, sender, envelope.boot_epoch, body))
        assert isinstance(body, Settled)
        return self._do(sender, self.exchanges.on_settled(sender, body))

    def on_timer(self, now_s: float) -> list[Effect]:
        """Send again what is due."""
        return [self._to(neighbour, settle) for neighbour, settle in self.exchanges.on_timer(now_s)]

    # ------------------------------------------------------------ what the session begins

    def offer_to(self, now_s: float, neighbours: Iterable[str]) -> list[Effect]:
        """Push the weights to these neighbours, or begin those exchanges that are ours to begin."""
        degree = self.neighbours.degree
        if self.settings.exchange == "push":
            ref = self.tell(0).ref
            offer = Offer(nonce=self.step, degree=degree, step=self.step, weights=ref, wants_answer=False)
            return [self._to(neighbour, offer) for neighbour in neighbours]
        effects: list[Effect] = []
        for neighbour in neighbours:
            if self.neighbours.begins(neighbour) and self.exchanges.can_begin(now_s, neighbour):
                offer = self.exchanges.begin(now_s, neighbour, degree, self.tell)
                effects.append(self._to(neighbour, offer))
        return effects

    def offer_to_some(self, now_s: float) -> list[Effect]:
        """Draw partners where that is asked for, and push to them or begin exchanges with them."""
        if self.settings.exchange == "push":
            return self.offer_to(now_s, self.neighbours.draw())
        exchanges = self.exchanges
        drawn = self.neighbours.draw(exchanges.answered, lambda one: exchanges.can_begin(now_s, one))
        return self.offer_to(now_s, drawn)

    def mix_letters(self, now_s: float) -> None:
        """Average what was pushed here: w += sum_j w_j (theirs_j - w), of the weights before."""
        if self.settings.exchange != "push":
            return
        letters = self.mailbox.take(now_s)
        before = after = self.own.weights
        for letter in letters.values():
            weight = received_weight(self.settings, self.neighbours.degree, letter.degree, len(letters))
            after = moved(after, pull(before, letter.weights, weight))
        if letters:
            self.own.set(after)

    def freeze(self) -> None:
        """Tell neighbours these weights from now on, until `thaw`."""
        self.own.freeze(self.step)

    def thaw(self) -> None:
        """Tell neighbours the weights of the moment again."""
        self.own.thaw()

    # ------------------------------------------------------------ how

    def tell(self, nonce: int) -> WeightsSnapshot:
        """What this device says of its weights in an exchange."""
        return self.own.snapshot(self.step, nonce)

    def _do(self, neighbour: str, deed: Deed) -> Said:
        if deed.pull is not None:
            self.own.set(moved(self.own.weights, deed.pull))
        if deed.taken_back is not None:
            self.own.set(moved_back(self.own.weights, deed.taken_back))
        effects: list[Effect] = [] if deed.send is None else [self._to(neighbour, deed.send)]
        return Said(effects, has_pulled=deed.pull is not None)

    def _to(self, neighbour: str, body: Offer | Answer | Settle | Settled) -> Send:
        return Send(to=neighbour, body=body, run=self.run, base_digest=self.digest)
