"""What every coordinator core does, however updates become versions: devices, rollouts, versions.

`coordinator.rounds` and `coordinator.asynchronous` say when orders are sent and versions are made.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from msgspec.structs import replace

from coordinator.effects import Commit, CoordinatorEffect, Evaluate, Finished
from coordinator.intake import Intake
from coordinator.orders import (
    ORDER_BITS,
    Device,
    RunConfig,
    admit,
    make_order,
    make_run,
    num_batches,
    settle_rollout,
)
from coordinator.peering import Assignment
from coordinator.strategies.strategy import CoordinatorStrategy
from coordinator.updates import Wanted, acknowledge, drift_notes
from device_agent.effects import Announce, CancelTimer, Note, Send
from device_agent.wire.messages import BlobRef, Decline, Envelope, Hello, RolledOut, Rollout, Status, Update
from firmware_profiles.errors import WorldError
from models.bundle import Bundle
from models.data.dataset import without_ones
from models.subnet import Array

MOST_ROUNDS = 10
"""Times the rounds of a run that it may have because devices are slower than was thought."""


@dataclass
class FleetCore(ABC):
    """Decides; the driver does.

    Attributes:
        config: of the run. strategy: the coordinator half.
        bundle, bundle_ref: what devices train, and how they fetch it.
        weights, weights_ref: of `version`.
        round: the aggregation that is under way or comes next, from 1.
        intake: takes the updates in, and knows what became of every one so far.
        state: waiting, open, committing, evaluating or finished.
        boot_epoch: counts the coordinator's starts, so that orders after a restart are newer.
        sound_weights: of the newest version whose loss was found finite.
        oldest_base: updates of versions before it were trained on a model that has been replaced.
        before: weights of the version before, None where another model took its place.
        assignment: of neighbours, None where devices learn by the coordinator alone.
    """

    CLOSE: ClassVar[str] = "close"
    """Timer after which a version is made of what is there."""

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
    num_orders: int = 0
    evaluated_version: int = -1
    next_weights: dict[str, Array] = field(default_factory=dict)
    replaces_model: bool = False
    sound_weights: Mapping[str, Array] | None = None
    oldest_base: int = 0
    before: Mapping[str, Array] | None = None
    policy_ref: BlobRef | None = None
    assignment: Assignment | None = None

    # ------------------------------------------------------------ what a kind of core decides

    @abstractmethod
    def on_timer(self, now_s: float, key: str) -> list[CoordinatorEffect]:
        """A timer that was set is due."""

    @abstractmethod
    def _begin(self, now_s: float) -> list[CoordinatorEffect]:
        """Take updates for the next version and send orders, if this can begin now."""

    @abstractmethod
    def _welcome(self, now_s: float, device_id: str, device: Device) -> list[CoordinatorEffect]:
        """Give a device that came (back) something to do."""

    @abstractmethod
    def _heard_from(self, now_s: float, device_id: str) -> list[CoordinatorEffect]:
        """A device answered, or the coordinator gave up fetching its answer."""

    @abstractmethod
    def _closed(self) -> None:
        """A version is durable: forget what belonged to the making of it."""

    @property
    def _max_staleness(self) -> int:
        """Versions that an update may be late."""
        return self.config.max_staleness

    @property
    def _is_over(self) -> bool:
        """Whether no round is left; one more follows while a device that is there has not done its part."""
        round_, last = self.round, self.config.num_rounds
        waits = any(device.online and not device.is_done for device in self.devices.values())
        return round_ > last and not (waits and round_ <= MOST_ROUNDS * last)

    # ------------------------------------------------------------ what happens

    def on_start(self, now_s: float) -> list[CoordinatorEffect]:
        """The driver is ready and subscribed."""
        if self.round > self.config.num_rounds:
            self.state = "evaluating"
            return [self._announce(), Evaluate(version=self.version, weights=dict(self.weights))]
        effects: list[CoordinatorEffect] = [self._announce()]
        if self.version == 0:
            effects.append(Evaluate(version=0, weights=dict(self.weights)))
        return [*effects, *self._begin(now_s)]

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
        if rebooted:
            device.is_idle, device.has_bundle = self.assignment is not None, False
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
        sender = self.intake.holder(digest)
        effects = self.intake.take(digest, content, self.devices, self._wanted())
        return [*effects, *self._heard_from(now_s, sender)]

    def on_fetch_failed(self, now_s: float, digest: str, reason: str) -> list[CoordinatorEffect]:
        """An update's delta cannot be had now; the device will offer the update again."""
        sender = self.intake.holder(digest)
        return [*self.intake.give_up(digest, reason), *self._heard_from(now_s, sender)]

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
        acks += [note for one in settled for note in drift_notes(one)]
        details = {"round": self.round, "updates": len(settled), "version": self.version}
        if self.replaces_model:
            self.oldest_base = self.version
        else:
            self.round += 1
        self.replaces_model = False
        self.state = "evaluating" if self._is_over else "waiting"
        self._closed()
        effects: list[CoordinatorEffect] = [
            *acks,
            Note("round committed", details=details),
            Evaluate(version=self.version, weights=dict(self.weights)),
            self._announce(),
        ]
        if self.state == "waiting":
            effects += self._begin(now_s)
        return effects

    def on_evaluated(self, version: int, accuracy: float | None, loss: float) -> list[CoordinatorEffect]:
        """A version was measured; one whose loss is not finite gives way to the last sound one.

        None: there was nothing to measure it on.
        """
        if version < self.evaluated_version:
            return []
        self.evaluated_version = version
        self.accuracy = self.accuracy if accuracy is None else accuracy
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
        return [CancelTimer(self.CLOSE), Note(event, details={"version": self.version + 1}), commit]

    def _commit(self, weights: dict[str, Array]) -> list[CoordinatorEffect]:
        """Make these weights the next version, durably, with the updates that were folded."""
        self.state, self.next_weights = "committing", weights
        self.intake.close()
        commit = Commit(
            version=self.version + 1,
            round=self.round,
            weights=weights,
            settled=tuple(self.intake.pending.values()),
        )
        return [CancelTimer(self.CLOSE), commit]

    def _roll_out(self, rollout: Rollout) -> list[CoordinatorEffect]:
        online = [device_id for device_id, device in self.devices.items() if device.online]
        details = {"kind": rollout.kind, "digest": rollout.content.digest[:12], "devices": len(online)}
        sends = [Send(to=device_id, body=rollout, run=self.config.run) for device_id in online]
        return [Note("rollout sent", details=details), *sends]

    # ------------------------------------------------------------ orders and answers

    def _table_again(self, device_id: str, device: Device) -> list[CoordinatorEffect]:
        """What was rolled out while its link was dying may be lost: its job has the table of before."""
        if device.table_due is None:
            return []
        body = Rollout(kind="table", content=device.table_due)
        return [Send(to=device_id, body=body, run=self.config.run)]

    def _order(self, device_id: str, deadline_s: float) -> Send:
        device = self.devices[device_id]
        if device.order is None:
            self.num_orders += 1
            device.give((self.boot_epoch << ORDER_BITS) + self.num_orders)
            device.table_due = None
        device.is_idle = False
        # Who learns a stream takes bundle and weights once: what can be fetched need not come along again.
        is_light = device.has_bundle and self.bundle.settings.gossip is not None
        return Send(
            to=device_id,
            body=make_order(
                self.config,
                self.round,
                device,
                replace(self.bundle_ref, data=None) if is_light else self.bundle_ref,
                replace(self.weights_ref, data=None) if is_light else self.weights_ref,
                deadline_s,
                None if self.assignment is None else self.assignment.of(device_id),
            ),
            run=self.config.run,
            base_version=self.version,
            base_digest=self.weights_ref.digest,
        )

    def _on_update(self, now_s: float, envelope: Envelope, update: Update) -> list[CoordinatorEffect]:
        device = admit(self.devices, envelope.sender)
        if device is None or device.hello is None:
            return [Note("update of an unknown device ignored until it says hello", envelope.sender)]
        effects = self.intake.offer(envelope, update, device, self._wanted())
        return [*effects, *self._heard_from(now_s, envelope.sender)]

    def _wanted(self) -> Wanted:
        return Wanted(
            run=self.config.run,
            boot_epoch=self.boot_epoch,
            is_open=self.state == "open",
            is_over=self.state in ("evaluating", "finished"),
            version=self.version,
            oldest_base=self.oldest_base,
            max_staleness=self._max_staleness,
            batch_size=self.config.batch_size,
            bundle=self.bundle,
            weights=self.weights,
        )

    def _on_decline(self, now_s: float, envelope: Envelope, decline: Decline) -> list[CoordinatorEffect]:
        if (device := self.devices.get(envelope.sender)) is not None:
            device.answer(decline.order)
        note = Note("device declined", envelope.sender, {"round": decline.round, "reason": decline.reason})
        return [note, *self._heard_from(now_s, envelope.sender)]

    def _announce(self) -> Announce:
        return Announce(make_run(self.config, self.state, self.round, self.version, self.accuracy))
