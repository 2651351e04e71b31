"""The coordinator's core of rounds with a deadline, as a state machine that answers with effects.

::

    waiting ──enough devices──▶ open ──all answered, or deadline + grace──▶ committing ──▶ open …
                                 ▲  │ nothing came             last round ──▶ evaluating ──▶ finished
                                 └──┘

An update counts once: its key (device, boot epoch, sequence) is settled in the transaction that commits
the model, and acknowledged only after it. A late update joins the current round with a discount while it
is at most `max_staleness` versions old, and is counted as expired after that.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.effects import CoordinatorEffect
from coordinator.fleet_core import FleetCore
from coordinator.orders import Device
from coordinator.strategies.rounds_of_averages import discount
from device_agent.effects import Note, SetTimer
from device_agent.wire.messages import Hello

JOIN_FRACTION = 0.25
"""A device that comes in the middle of a round gets an order while this share of the time is left."""

MAX_PATIENCE = 16


@dataclass
class RoundsCore(FleetCore):
    """Decides; the driver does. See the module's drawing.

    Attributes:
        closes_at_s: when the open round takes no more updates.
        attempt: how often this round was repeated.
        patience: factor on the deadline; doubled when a round brings nothing, halved when one is committed.
    """

    closes_at_s: float = 0.0
    attempt: int = 0
    patience: int = 1

    @property
    def deadline_s(self) -> float:
        """Seconds devices have in the round that is open or comes next."""
        return self.config.deadline_s * self.patience

    def on_timer(self, now_s: float, key: str) -> list[CoordinatorEffect]:
        """A timer that was set is due."""
        if key == self.CLOSE and self.state == "open":
            # The timer is the word: its clock may round the time it was set to.
            return self._close_if_due(max(now_s, self.closes_at_s))
        return []

    def _begin(self, now_s: float) -> list[CoordinatorEffect]:
        online = [
            device.hello for device in self.devices.values() if device.online and device.hello is not None
        ]
        if self.state != "waiting" or len(online) < self.config.min_devices:
            return []
        self.state = "open"
        aggregator = self.strategy.open(self.bundle, self.weights)
        fold = self.strategy.fold
        self.intake.open(
            aggregator,
            lambda _device, update, delta, staleness, num_data: fold(
                aggregator, update, delta, discount(staleness), num_data
            ),
        )
        self.closes_at_s = now_s + self.deadline_s + self.config.grace_s
        for device in self.devices.values():
            device.order, device.answered = None, True
        chosen = self._plan(online)
        if self.assignment is not None:
            self.assignment.open(chosen, self.round - 1)
        effects: list[CoordinatorEffect] = [self._announce(), SetTimer(self.CLOSE, self.closes_at_s - now_s)]
        effects.append(Note("round opened", details={"round": self.round, "devices": len(chosen)}))
        # what arrived while nothing was open waits in the devices' outboxes and is offered again
        return effects + [self._order(device_id, self.deadline_s) for device_id in chosen]

    def _welcome(self, now_s: float, device_id: str, device: Device) -> list[CoordinatorEffect]:
        """Give a device that came (back) its part of the round."""
        if not (device.online and device.hello is not None):
            return []
        if self.state == "waiting":
            return self._begin(now_s)
        left_s = self.closes_at_s - self.config.grace_s - now_s
        if self.state != "open" or left_s <= 0:
            return []
        if device.order is not None:
            # It may have been lost on the way or with a reboot; an agent that has it ignores the repeat.
            return [] if device.answered and not device.is_idle else [self._order(device_id, left_s)]
        if left_s < JOIN_FRACTION * self.deadline_s or not self._plan([device.hello]):
            return []
        return [self._order(device_id, left_s)]

    def _plan(self, candidates: list[Hello]) -> list[str]:
        """Ids of those that get an order, as far as places are left in this round."""
        wanted, taken = self.config.devices_per_round, sum(d.order is not None for d in self.devices.values())
        if wanted is not None and taken >= wanted:
            return []
        return self.strategy.plan(self.config, self.round, self.attempt, candidates)

    def _closed(self) -> None:
        self.attempt, self.patience = 0, max(1, self.patience // 2)

    def _heard_from(self, now_s: float, device_id: str) -> list[CoordinatorEffect]:
        del device_id
        return self._close_if_due(now_s)

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
        return self._commit(self.strategy.finish(aggregator, self.before, 1.0))

    def _retry(self, now_s: float) -> list[CoordinatorEffect]:
        self.state = "waiting"
        self.attempt, self.patience = self.attempt + 1, min(MAX_PATIENCE, self.patience * 2)
        details = {"round": self.round, "seconds": self.deadline_s}
        note = Note("round repeated with more time: no update came before the deadline", details=details)
        return [note, *self._begin(now_s)]
