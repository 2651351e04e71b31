"""The coordinator's core: rounds with a deadline, as a state machine that answers with effects.

::

    waiting ──enough devices──▶ open ──all answered, or deadline + grace──▶ committing ──▶ open …
                                 ▲  │ nothing came             last round ──▶ evaluating ──▶ finished
                                 └──┘

An update counts once: its key (device, boot epoch, sequence) is settled in the transaction that commits
the model, and acknowledged only after it. A late update joins the current round with a discount while it
is at most `max_staleness` versions old, and is counted as expired after that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.effects import Commit, CoordinatorEffect, Evaluate, Finished
from coordinator.intake import Intake
from coordinator.orders import Device, RunConfig, admit, make_order, make_run, num_batches, settle_rollout
from coordinator.strategies.strategy import CoordinatorStrategy
from coordinator.updates import Wanted, acknowledge
from device_agent.effects import Announce, CancelTimer, Note, Send, SetTimer
from device_agent.wire.messages import BlobRef, Decline, Envelope, Hello, RolledOut, Rollout, Status, Update
from firmware_profiles.errors import WorldError
from models.bundle import Bundle
from models.data.dataset import without_ones
from models.subnet import Array

JOIN_FRACTION = 0.25
"""A device that comes in the middle of a round gets an order while this share of the time is left."""

MAX_PATIENCE = 16


@dataclass
class RoundsCore:
    """Decides; the driver does. See the module's drawing.

    Attributes:
        config: of the run. strategy: the coordinator half.
        bundle, bundle_ref: what devices train, and how they fetch it.
        weights, weights_ref: of `version`.
        intake: takes the updates in, and knows what became of every one so far.
        boot_epoch: counts the coordinator's starts, so that orders after a restart are newer.
        sound_weights: of the newest version whose loss was found finite.
        oldest_base: updates of versions before it were trained on a model that has been replaced.
        before: weights of the version before, None where another model took its place.
        attempt: how often this round was repeated.
        patience: factor on the deadline; doubled when a round brings nothing, halved when one is committed.
    """

    config: RunConfig
    strategy: CoordinatorStrategy
    bundle: Bundle
    bundle_ref: BlobRef
    weights: Mapping[str, Array]
    weights_ref: BlobRef
    boot_epoch: int
    version: int = 0
    round: int = 1
    accuracy: float | None = None
    intake: Intake = field(default_factory=Intake)
    state: str = "waiting"
    devices: dict[str, Device] = field(default_factory=dict)
    closes_at_s: float = 0.0
    num_orders: int = 0
    evaluated_version: int = -1
    next_weights: dict[str, Array] = field(default_factory=dict)
    replaces_model: bool = False
    sound_weights: Mapping[str, Array] | None = None
    oldest_base: int = 0
    before: Mapping[str, Array] | None = None
    attempt: int = 0
    patience: int = 1
    policy_ref: BlobRef | None = None

    @property
    def deadline_s(self) -> float:
        """Seconds devices have in the round that is open or comes next."""
        return self.config.deadline_s * self.patience

    # ------------------------------------------------------------ what happens

    def on_start(self, now_s: float) -> list[CoordinatorEffect]:
        """The driver is ready and subscribed."""
        if self.round > self.config.num_rounds:
            self.state = "evaluating"
            return [self._announce(), Evaluate(version=self.version, weights=dict(self.weights))]
        effects: list[CoordinatorEffect] = [self._announce()]
        if self.version == 0:
            effects.append(Evaluate(version=0, weights=dict(self.weights)))
        return [*effects, *self._open_if_enough(now_s)]

    def on_connected(self) -> list[CoordinatorEffect]:
        """The bus is (again) connected: the broker may have forgotten what was retained."""
        return [self._announce()]

    def on_hello(self, now_s: float, device_id: str, hello: Hello) -> list[CoordinatorEffect]:
        """A device says who it is: at every connect, and when its policy or data change."""
        if hello.device != device_id:
            return [Note("hello under another's topic dropped", device_id)]
        if (
            without_ones(hello.input_shape) != without_ones(self.bundle.graph.input_shape)
            or hello.num_classes > self.bundle.graph.num_classes
        ):
            details = {"shape": list(hello.input_shape), "classes": hello.num_classes}
            return [Note("device with unfit data left out", device_id, details)]
        device = admit(self.devices, device_id)
        if device is None:
            return [Note("device left out: too many devices", device_id)]
        rebooted = device.hello is not None and device.hello.boot_epoch != hello.boot_epoch
        joined = device.hello is None
        device.hello = hello
        device.most_batches = max(device.most_batches, num_batches(self.config, hello))
        device.offered_policy = "" if rebooted else device.offered_policy
        device.table_due = None if rebooted else device.table_due  # its order comes again, with the table
        effects: list[CoordinatorEffect] = []
        if joined or rebooted:
            effects.append(Note("device joined" if joined else "device restarted", device_id))
        policy_ref = self.policy_ref
        if policy_ref is not None and policy_ref.digest not in (hello.policy_digest, device.offered_policy):
            device.offered_policy = policy_ref.digest
            effects.append(
                Send(to=device_id, body=Rollout(kind="policy", content=policy_ref), run=self.config.run)
            )
        return [*effects, *self._welcome(now_s, device_id, device)]

    def on_status(self, now_s: float, device_id: str, status: Status) -> list[CoordinatorEffect]:
        """A device came online, left, or its last will speaks for it."""
        device = admit(self.devices, device_id)
        if device is None or status.online == device.online:
            return []
        if not status.online and device.hello is not None and status.boot_epoch < device.hello.boot_epoch:
            return []  # the will of an earlier life, overtaken by a restart
        device.online = status.online
        event = "device online" if status.online else "device offline"
        note = Note(event, device_id, {"reason": status.reason})
        if status.online:
            return [note, *self._welcome(now_s, device_id, device), *self._table_again(device_id, device)]
        device.offered_policy = ""  # what was sent while its link was dying may be lost
        return [note]

    def on_seen(self, now_s: float, device_id: str, boot_epoch: int) -> list[CoordinatorEffect]:
        """A device said something itself: it is there, whatever a late will or somebody else claimed."""
        device = self.devices.get(device_id)
        if device is None or device.online or device.hello is None or device.hello.boot_epoch != boot_epoch:
            return []
        device.online = True
        note = Note("device online", device_id, {"reason": "it goes on speaking"})
        return [note, *self._welcome(now_s, device_id, device), *self._table_again(device_id, device)]

    def on_message(self, now_s: float, envelope: Envelope) -> list[CoordinatorEffect]:
        """A machine message from a device, already checked against its topic."""
        body = envelope.body
        if isinstance(body, Update):
            return self._on_update(now_s, envelope, body)
        if isinstance(body, Decline):
            return self._on_decline(now_s, envelope, body)
        if isinstance(body, RolledOut):
            return [settle_rollout(envelope.sender, self.devices.get(envelope.sender), body)]
        return [Note("message without a use for the coordinator dropped", envelope.sender)]

    def on_fetched(self, now_s: float, digest: str, content: bytes) -> list[CoordinatorEffect]:
        """An update's delta is here and its digest is right."""
        return [*self.intake.take(digest, content, self.devices, self._wanted()), *self._close_if_due(now_s)]

    def on_fetch_failed(self, now_s: float, digest: str, reason: str) -> list[CoordinatorEffect]:
        """An update's delta cannot be had now; the device will offer the update again."""
        return [*self.intake.give_up(digest, reason), *self._close_if_due(now_s)]

    def on_timer(self, now_s: float, key: str) -> list[CoordinatorEffect]:
        """A timer that was set is due."""
        if key == "close" and self.state == "open":
            # The timer is the word: its clock may round the time it was set to.
            return self._close_if_due(max(now_s, self.closes_at_s))
        return []

    def on_committed(self, now_s: float, weights_ref: BlobRef) -> list[CoordinatorEffect]:
        """The transaction is durable: the version counts, its updates may be acknowledged."""
        self.version += 1
        self.before = None if self.replaces_model else self.weights
        self.weights, self.next_weights, self.weights_ref = self.next_weights, {}, weights_ref
        settled = self.intake.commit()
        acks: list[CoordinatorEffect] = [acknowledge(self.config.run, one) for one in settled]
        acks += [
            Note(f"update {one.outcome}", one.device, {"round": self.round, "reason": one.reason})
            for one in settled
        ]
        details = {"round": self.round, "updates": len(settled), "version": self.version}
        if self.replaces_model:
            self.oldest_base = self.version
        else:
            self.round += 1
        self.attempt, self.patience = 0, max(1, self.patience // 2)
        self.replaces_model = False
        self.state = "waiting" if self.round <= self.config.num_rounds else "evaluating"
        effects: list[CoordinatorEffect] = [
            *acks,
            Note("round committed", details=details),
            Evaluate(version=self.version, weights=dict(self.weights)),
            self._announce(),
        ]
        if self.state == "waiting":
            effects += self._open_if_enough(now_s)
        return effects

    def on_evaluated(self, version: int, accuracy: float, loss: float) -> list[CoordinatorEffect]:
        """A version was measured; one whose loss is not finite gives way to the last sound one."""
        if version < self.evaluated_version:
            return []
        self.evaluated_version, self.accuracy = version, accuracy
        note = Note("version evaluated", details={"version": version, "accuracy": accuracy})
        if not math.isfinite(loss) and self.sound_weights is not None:
            return [note, *self._replace_model(dict(self.sound_weights), "unsound model put back")]
        if version == self.version:
            self.sound_weights = self.weights
        if self.state == "evaluating" and version == self.version:
            self.state = "finished"
            # The report first: killed between the two, the run is finished again instead of forgotten.
            return [note, Finished(), self._announce()]
        return [note, self._announce()]

    def on_table_rollout(
        self, bundle: Bundle, bundle_ref: BlobRef, table_ref: BlobRef
    ) -> list[CoordinatorEffect]:
        """A new table: later orders carry it in their bundle, running jobs take it at the next mini-batch."""
        self.bundle, self.bundle_ref = bundle, bundle_ref
        for device in self.devices.values():
            device.table_due = None if device.answered else table_ref
        return self._roll_out(Rollout(kind="table", content=table_ref))

    def on_policy_rollout(self, policy_ref: BlobRef) -> list[CoordinatorEffect]:
        """A new policy for every device, those that come later included."""
        self.policy_ref = policy_ref
        for device in self.devices.values():
            device.offered_policy = policy_ref.digest if device.online else ""
        return self._roll_out(Rollout(kind="policy", content=policy_ref))

    def on_model_rollout(self, weights: dict[str, Array]) -> list[CoordinatorEffect]:
        """New weights replace the model: the open round starts again from them.

        Raises:
            WorldError: a commit is under way or the run is over; try again.
        """
        if self.state not in ("waiting", "open"):
            raise WorldError(f"the run is {self.state}: the model cannot be replaced at this moment")
        return self._replace_model(weights, "model rolled out")

    def _replace_model(self, weights: dict[str, Array], event: str) -> list[CoordinatorEffect]:
        """Commit these weights instead of what the open round would have made."""
        self.intake.expire("another model was put in force")
        self.next_weights, self.replaces_model, self.state = weights, True, "committing"
        commit = Commit(
            version=self.version + 1,
            round=self.round - 1,  # this round begins anew, also after a restart
            weights=weights,
            settled=tuple(self.intake.pending.values()),
        )
        return [CancelTimer("close"), Note(event, details={"version": self.version + 1}), commit]

    def _roll_out(self, rollout: Rollout) -> list[CoordinatorEffect]:
        online = [device_id for device_id, device in self.devices.items() if device.online]
        details = {"kind": rollout.kind, "digest": rollout.content.digest[:12], "devices": len(online)}
        sends = [Send(to=device_id, body=rollout, run=self.config.run) for device_id in online]
        return [Note("rollout sent", details=details), *sends]

    # ------------------------------------------------------------ rounds

    def _open_if_enough(self, now_s: float) -> list[CoordinatorEffect]:
        online = [
            device.hello for device in self.devices.values() if device.online and device.hello is not None
        ]
        if self.state != "waiting" or len(online) < self.config.min_devices:
            return []
        self.state = "open"
        aggregator = self.strategy.open(self.bundle, self.weights)
        fold = self.strategy.fold
        self.intake.open(aggregator, lambda *update: fold(aggregator, *update))
        self.closes_at_s = now_s + self.deadline_s + self.config.grace_s
        for device in self.devices.values():
            device.order, device.answered = None, True
        chosen = self._plan(online)
        effects: list[CoordinatorEffect] = [self._announce(), SetTimer("close", self.closes_at_s - now_s)]
        effects.append(Note("round opened", details={"round": self.round, "devices": len(chosen)}))
        # what arrived while nothing was open waits in the devices' outboxes and is offered again
        return effects + [self._order(device_id, self.deadline_s) for device_id in chosen]

    def _welcome(self, now_s: float, device_id: str, device: Device) -> list[CoordinatorEffect]:
        """Give a device that came (back) its part of the round."""
        if not (device.online and device.hello is not None):
            return []
        if self.state == "waiting":
            return self._open_if_enough(now_s)
        left_s = self.closes_at_s - self.config.grace_s - now_s
        if self.state != "open" or left_s <= 0:
            return []
        if device.order is not None:
            # It may have been lost on the way or with a reboot; an agent that has it ignores the repeat.
            return [] if device.answered else [self._order(device_id, left_s)]
        if left_s < JOIN_FRACTION * self.deadline_s or not self._plan([device.hello]):
            return []
        return [self._order(device_id, left_s)]

    def _table_again(self, device_id: str, device: Device) -> list[CoordinatorEffect]:
        """What was rolled out while its link was dying may be lost: its job has the table of before."""
        if device.table_due is None:
            return []
        body = Rollout(kind="table", content=device.table_due)
        return [Send(to=device_id, body=body, run=self.config.run)]

    def _plan(self, candidates: list[Hello]) -> list[str]:
        """Ids of those that get an order, as far as places are left in this round."""
        wanted, taken = self.config.devices_per_round, sum(d.order is not None for d in self.devices.values())
        if wanted is not None and taken >= wanted:
            return []
        return self.strategy.plan(self.config, self.round, self.attempt, candidates)

    def _order(self, device_id: str, deadline_s: float) -> Send:
        device = self.devices[device_id]
        if device.order is None:
            self.num_orders += 1
            device.order, device.answered = (self.boot_epoch << 24) + self.num_orders, False
            device.table_due = None
        return Send(
            to=device_id,
            body=make_order(self.config, self.round, device, self.bundle_ref, self.weights_ref, deadline_s),
            run=self.config.run,
            base_version=self.version,
            base_digest=self.weights_ref.digest,
        )

    def _close_if_due(self, now_s: float) -> list[CoordinatorEffect]:
        aggregator = self.intake.aggregator
        if self.state != "open" or aggregator is None:
            return []
        late = now_s >= self.closes_at_s
        awaited = any(not device.answered for device in self.devices.values())
        if (awaited or self.intake.fetching) and not late:
            return []
        if aggregator.num_updates == 0:
            if not late and not awaited and any(device.online for device in self.devices.values()):
                return []  # everybody declined: the deadline gives them time to recover
            return self._retry(now_s)
        self.state = "committing"
        self.next_weights = self.strategy.finish(aggregator, self.before)
        self.intake.close()
        commit = Commit(
            version=self.version + 1,
            round=self.round,
            weights=self.next_weights,
            settled=tuple(self.intake.pending.values()),
        )
        return [CancelTimer("close"), commit]

    def _retry(self, now_s: float) -> list[CoordinatorEffect]:
        self.state = "waiting"
        self.attempt, self.patience = self.attempt + 1, min(MAX_PATIENCE, self.patience * 2)
        details = {"round": self.round, "seconds": self.deadline_s}
        note = Note("round repeated with more time: no update came before the deadline", details=details)
        return [note, *self._open_if_enough(now_s)]

    # ------------------------------------------------------------ answers

    def _on_update(self, now_s: float, envelope: Envelope, update: Update) -> list[CoordinatorEffect]:
        device = admit(self.devices, envelope.sender)
        if device is None or device.hello is None:
            return [Note("update of an unknown device ignored until it says hello", envelope.sender)]
        effects = self.intake.offer(envelope, update, device, self._wanted())
        return [*effects, *self._close_if_due(now_s)]

    def _wanted(self) -> Wanted:
        return Wanted(
            run=self.config.run,
            is_open=self.state == "open",
            is_over=self.state in ("evaluating", "finished"),
            version=self.version,
            oldest_base=self.oldest_base,
            max_staleness=self.config.max_staleness,
            batch_size=self.config.batch_size,
            bundle=self.bundle,
        )

    def _on_decline(self, now_s: float, envelope: Envelope, decline: Decline) -> list[CoordinatorEffect]:
        if (device := self.devices.get(envelope.sender)) is not None:
            device.answer(decline.order)
        note = Note("device declined", envelope.sender, {"round": decline.round, "reason": decline.reason})
        return [note, *self._close_if_due(now_s)]

    def _announce(self) -> Announce:
        return Announce(make_run(self.config, self.state, self.round, self.version, self.accuracy))
