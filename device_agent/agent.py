"""The agent's core: a state machine that answers what happened with effects.

::

    idle ──order──▶ fetching ──weights and bundle──▶ training ──result──▶ reporting ──ack──▶ idle
      ▲                │ gone                           │ failed, nothing trained    │
      └────decline─────┴────────────────────────────────┘        a newer order ──▶ fetching

A newer order always wins; a repeat changes nothing. Times are seconds of the driver's monotonic clock.

An order of a run without a server begins a session (`device_agent.sessions`), which learns until the run is
over; later orders of the run do not end it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from device_agent.effects import (
    Acknowledged,
    Announce,
    Effect,
    Fetch,
    Install,
    Note,
    Prepare,
    Send,
    SetTimer,
    StartJob,
    StopFetch,
    StopJob,
)
from device_agent.orders import JobRequest, OrderInHand
from device_agent.rollouts import Rollouts, outcome
from device_agent.sessions import Arrays, Session, make_session
from device_agent.strategies.names import WITHOUT_NETWORK
from device_agent.telemetry import Progress, make_telemetry
from device_agent.training import StepCost, TrainingResult
from device_agent.wire.messages import (
    Ack,
    BlobRef,
    Decline,
    Envelope,
    Hello,
    Order,
    RolledOut,
    Rollout,
    Run,
    Status,
    Update,
)
from device_agent.wire.topics import COORDINATOR
from firmware_profiles.errors import EdgetideError
from firmware_profiles.resources import Pause, Snapshot
from models.bundle import Bundle
from models.bundle import decode as decode_bundle
from models.weights import unpack

if TYPE_CHECKING:  # they are imported when a run asks for them
    from device_agent.gossip.session import GossipSession
    from device_agent.peers.session import PeerSession

TELEMETRY_S = 1.0
FINISH_MARGIN_FRACTION = 0.05
"""Share of the deadline kept back to send the update."""


@dataclass
class AgentCore:
    """Decides; the driver does. See the module's drawing.

    Attributes:
        hello: who this device is; the driver replaces it when policy or data change.
        state: idle, fetching, training, paused or reporting.
        telemetry_s: seconds between two telemetry messages.
        decode: reads a bundle; twins of one process share what it makes.
        recall: what was learned of prototypes in a run by an earlier life of the agent, None: nothing.
        session: of a run without a server, None outside of one.
    """

    hello: Hello
    telemetry_s: float = TELEMETRY_S
    decode: Callable[[bytes], Bundle] = decode_bundle
    recall: Callable[[str], Arrays | None] = lambda _run: None
    session: Session | None = None
    state: str = "idle"
    reason: str = ""
    run: str | None = None
    last_order: tuple[str, int] = ("", -1)
    in_hand: OrderInHand | None = None
    awaited: dict[str, bytes | None] = field(default_factory=dict)
    rollouts: Rollouts = field(default_factory=Rollouts)
    progress: Progress = field(default_factory=Progress)

    @property
    def peers(self) -> PeerSession | None:
        """The session in which weights are exchanged with neighbours, if that is what the run is."""
        is_peers = self.session is not None and self.session.kind == "peers"
        return cast("PeerSession", self.session) if is_peers else None

    @property
    def gossip(self) -> GossipSession | None:
        """The session that learns prototypes from a stream, if that is what the run is."""
        is_gossip = self.session is not None and self.session.kind == "gossip"
        return cast("GossipSession", self.session) if is_gossip else None

    # ------------------------------------------------------------ what happens

    def on_start(self) -> list[Effect]:
        """The driver is ready."""
        return [*self.on_connected(), SetTimer("telemetry", self.telemetry_s)]

    def on_connected(self) -> list[Effect]:
        """The bus is (again) connected: retained messages may be gone and the will may have been sent."""
        online = Status(online=True, boot_epoch=self.hello.boot_epoch)
        return [Announce(online), Announce(self.hello)]

    def on_run(self, run: Run) -> list[Effect]:
        """The coordinator says what the fleet is doing."""
        if run.run == self.run and run.state != "finished":
            return []
        other = run.run != self.run
        self.run = run.run
        needs_engine = other and run.state != "finished" and run.strategy not in WITHOUT_NETWORK
        effects: list[Effect] = [Prepare()] if needs_engine else []
        if self.in_hand is None or (self.in_hand.run == run.run and run.state != "finished"):
            return effects
        return [*effects, *self._drop("another run began" if other else "the run is over")]

    def on_message(self, now_s: float, envelope: Envelope) -> list[Effect]:
        """A machine message from the coordinator, already checked and not seen before."""
        body = envelope.body
        if isinstance(body, Order):
            return self._on_order(now_s, envelope, body)
        if isinstance(body, Ack):
            return self._on_ack(body)
        if isinstance(body, Rollout):
            return [self.rollouts.begin(body)]
        return [Note("message without a use for a device dropped", details={"kind": type(body).__name__})]

    def on_fetched(self, digest: str, content: bytes) -> list[Effect]:
        """Content that was asked for is here and its digest is right."""
        effects: list[Effect] = []
        if (kind := self.rollouts.take(digest)) is not None:
            effects.append(Install(kind, digest, content))
        if digest in self.awaited:
            self.awaited[digest] = content
            effects += self._start_if_ready()
        return effects

    def on_fetch_failed(self, digest: str, reason: str) -> list[Effect]:
        """Content cannot be had."""
        effects: list[Effect] = []
        if (kind := self.rollouts.take(digest)) is not None:
            effects.append(self._to_coordinator(outcome(kind, digest, reason)))
        if digest in self.awaited:
            why = f"content {digest[:12]} could not be fetched: {reason}"
            effects += self._decline(why) if self.session is None else self._go_on_without(why)
        return effects

    def on_installed(self, kind: str, digest: str, error: str | None) -> list[Effect]:
        """The driver put rolled-out content in force, or could not."""
        message = outcome(kind, digest, error)
        event = "rollout in force" if error is None else "rollout refused"
        details = {"kind": kind, "digest": digest[:12], "reason": error or ""}
        return [self._to_coordinator(message), Announce(self.hello), Note(event, details=details)]

    def on_progress(self, cost: StepCost) -> list[Effect]:
        """The job trained a mini-batch."""
        resumed = self.state == "paused"
        self.state, self.reason = "training", ""
        self.progress.steps_done += 1
        self.progress.last = cost
        self.progress.macs_since += cost.macs
        self.progress.full_macs_since += cost.full_macs
        return [Note("training resumed")] if resumed else []

    def on_paused(self, pause: Pause) -> list[Effect]:
        """The policy, or a budget below the cheapest vector, stops the job for now."""
        changed = self.state != "paused"
        self.state, self.reason = "paused", pause.reason[:500]
        return [Note("training paused", details={"reason": self.reason})] if changed else []

    def on_learning(self) -> list[Effect]:
        """A session that paused may go on."""
        if self.state != "paused":
            return []
        self.state, self.reason = "training", ""
        return [Note("training resumed")]

    def on_session_failed(self, reason: str) -> list[Effect]:
        """A session cannot go on: its order is declined."""
        return [*self._stop(), *self._decline(reason)]

    def on_job_done(
        self, result: TrainingResult, delta: BlobRef, content: bytes, busy_s: float, wall_s: float
    ) -> list[Effect]:
        """The job ended; `delta` names `content`, the packed weight change."""
        in_hand = self.in_hand
        if in_hand is None:
            return []
        if not result.step_vectors:
            reason = result.reason or self.reason
            return self._decline(reason or "no mini-batch could be trained before the deadline")
        self.state, self.reason = "reporting", ""
        update = Update(
            order=in_hand.order.order,
            round=in_hand.order.round,
            num_samples=result.num_samples,
            vectors=tuple(result.vectors),
            step_vectors=tuple(result.step_vectors),
            seed=in_hand.order.seed,
            delta=delta,
            macs=result.macs,
            loss_sum=result.loss_sum,
            busy_s=busy_s,
            wall_s=wall_s,
        )
        details = {"order": update.order, "round": update.round, "batches": len(update.step_vectors)}
        self.in_hand = None
        return [in_hand.report(update, content), Note("update put in the outbox", details=details)]

    def on_update_lost(self, send: Send, reason: str) -> list[Effect]:
        """The outbox could not keep the update: the work is lost, the coordinator need not wait for it."""
        update = send.body
        assert isinstance(update, Update)
        if self.state == "reporting":
            self.state = "idle"
        decline = Decline(order=update.order, round=update.round, reason=reason[:500])
        return [
            Send(to=COORDINATOR, body=decline, run=send.run),
            Note("update lost", details={"order": update.order, "reason": decline.reason}),
        ]

    def on_job_failed(self, reason: str) -> list[Effect]:
        """The job raised an error of the world's or of the bundle's."""
        return self._decline(reason) if self.peers is None else self.peers.on_unit_failed(reason)

    def on_unit_done(self, now_s: float, result: TrainingResult, busy_s: float) -> list[Effect]:
        """The job of a session ended."""
        return [] if self.peers is None else self.peers.on_unit_done(now_s, result, busy_s)

    def on_peer_message(self, now_s: float, envelope: Envelope, age_s: float) -> list[Effect]:
        """A neighbour's message that the session wants, sent `age_s` ago.

        Raises:
            PeerError: its weights cannot be used.
        """
        return [] if self.peers is None else self.peers.on_message(now_s, envelope, age_s)

    def on_session_timer(self, now_s: float, key: str) -> list[Effect]:
        """A timer of the session is due."""
        return [] if self.session is None else self.session.on_timer(now_s, key)

    def on_timer(
        self, key: str, snapshot: Snapshot, cpu_share_fraction: float | None, outbox_messages: int
    ) -> list[Effect]:
        """A timer that was set is due."""
        if key != "telemetry":
            return []
        return [
            Announce(
                make_telemetry(
                    self.hello,
                    (self.state, self.reason),
                    self.in_hand,
                    self.progress,
                    snapshot,
                    cpu_share_fraction,
                    outbox_messages,
                    None if self.gossip is None else self.gossip.learned(),
                )
            ),
            SetTimer("telemetry", self.telemetry_s),
        ]

    # ------------------------------------------------------------ how it answers

    def _on_order(self, now_s: float, envelope: Envelope, order: Order) -> list[Effect]:
        if envelope.base_version is None or envelope.base_digest is None:
            return [Note("order without a base version dropped", details={"order": order.order})]
        last_run, last_number = self.last_order
        if envelope.run == last_run and order.order <= last_number:
            return []
        goes_on = self.session is not None and self.session.takes(envelope.run, order)
        effects: list[Effect] = [] if goes_on else self._stop()
        self.last_order = (envelope.run, order.order)
        self.run = envelope.run
        late_s = (envelope.age_ms or 0) / 1000
        self.in_hand = OrderInHand(
            order=order,
            run=envelope.run,
            base_version=envelope.base_version,
            base_digest=envelope.base_digest,
            deadline_at_s=now_s + max(0.0, order.deadline_s * (1 - FINISH_MARGIN_FRACTION) - late_s),
        )
        if not goes_on:
            self.state, self.reason = "fetching", ""
        self.progress = Progress()
        effects += self._stop_fetching(keep={order.bundle.digest, order.weights.digest})
        self.awaited = {}
        if self.session is not None and not self.session.needs(order):
            return [*effects, *self.session.on_order(self.in_hand, self.session.bundle, b"", {})]
        for ref in (order.bundle, order.weights):
            self.awaited[ref.digest] = ref.data
            if ref.data is None:
                # The bundle stays the same from order to order; the weights do not.
                effects.append(Fetch(COORDINATOR, ref.digest, ref.size_bytes, keep=ref is order.bundle))
        return [*effects, *self._start_if_ready()]

    def _start_if_ready(self) -> list[Effect]:
        in_hand = self.in_hand
        if in_hand is None or not self.awaited:
            return []
        bundle, weights = (
            self.awaited.get(ref.digest) for ref in (in_hand.order.bundle, in_hand.order.weights)
        )
        if bundle is None or weights is None:
            return []
        self.awaited = {}
        if in_hand.order.peering is not None:
            return self._learn_without_server(in_hand, bundle, weights)
        self.state = "training"
        return [StartJob(JobRequest(in_hand=in_hand, bundle=bundle, weights=weights))]

    def _learn_without_server(self, in_hand: OrderInHand, content: bytes, weights: bytes) -> list[Effect]:
        """Begin a session; one that is on takes the order if it fits."""
        try:
            bundle = self._bundle(in_hand.order.bundle.digest, content)
            if self.session is not None and self.session.fits(bundle):
                tensors = unpack(weights, bundle.graph.parameters)
                return self.session.on_order(in_hand, bundle, content, tensors)
            session = make_session(self.hello, in_hand, bundle, content, weights, self.recall(in_hand.run))
        except EdgetideError as error:
            return self._decline(str(error)) if self.session is None else self._go_on_without(str(error))
        effects = self._stop()
        self.session, self.state = session, "training"
        return [*effects, *session.begin()]

    def _bundle(self, digest: str, content: bytes) -> Bundle:
        """Decoded, but for the one that the session has already."""
        session = self.session
        is_known = session is not None and session.bundle_digest == digest
        return session.bundle if session is not None and is_known else self.decode(content)

    def _go_on_without(self, why: str) -> list[Effect]:
        """The session goes on with the order before."""
        unwanted = self._stop_fetching()
        self.awaited = {}
        return [*unwanted, Note("order of a session not taken", details={"reason": why[:500]})]

    def _on_ack(self, ack: Ack) -> list[Effect]:
        if self.state == "reporting":
            self.state = "idle"
        details = {"sequence": ack.sequence, "outcome": ack.outcome, "reason": ack.reason}
        is_refused = ack.outcome == "refused"
        acknowledged = Acknowledged(ack.boot_epoch, ack.sequence, is_refused)
        return [acknowledged, Note("update acknowledged", details=details)]

    def _decline(self, reason: str) -> list[Effect]:
        in_hand = self.in_hand
        if in_hand is None:
            return []
        decline = Decline(order=in_hand.order.order, round=in_hand.order.round, reason=reason[:500])
        unwanted = self._stop_fetching()
        self.in_hand, self.awaited, self.state, self.reason = None, {}, "idle", reason[:500]
        return [
            *unwanted,
            Send(to=COORDINATOR, body=decline, run=in_hand.run),
            Note("order declined", details={"order": decline.order, "reason": decline.reason}),
        ]

    def _drop(self, why: str) -> list[Effect]:
        effects = [*self._stop(), *self._stop_fetching()]
        self.in_hand, self.awaited, self.state, self.reason = None, {}, "idle", ""
        return [*effects, Note("order dropped", details={"why": why})]

    def _stop(self) -> list[Effect]:
        """Give up what is trained, and the session."""
        effects: list[Effect] = [StopJob()] if self.state in ("training", "paused") else []
        if self.session is not None:
            effects += self.session.end()
            self.session = None
        return effects

    def _stop_fetching(self, keep: AbstractSet[str] = frozenset()) -> list[Effect]:
        """What an order that is over still waits for would only hold up the next one's content."""
        return [
            StopFetch(COORDINATOR, digest)
            for digest, content in self.awaited.items()
            if content is None and digest not in keep and digest not in self.rollouts
        ]

    def _to_coordinator(self, body: RolledOut) -> Send:
        return Send(to=COORDINATOR, body=body, run=self.run or "none")
