"""The coordinator's core without rounds: updates are applied as they come, a few at a time.

::

    waiting ──enough devices──▶ open ──buffer full, or its time is over──▶ committing ──▶ open …
                                                             last buffer ──▶ evaluating ──▶ finished

    a device:  free ──order──▶ has an order ──update folded, or its time is over──▶ free …
                 ▲                  └──declined, refused, expired──▶ rests ──┐
                 └─────────────a version later, or when its time is over─────┘

Every free device gets an order for the newest version at once, also while the buffer that its last update
went into is open: to wait for the version would leave the fast devices idle, and the update that follows is
at most a version staler. One whose order brought nothing rests, so that it cannot keep the coordinator busy.
An update is folded as it comes, so memory does not grow with the fleet, and is settled in the transaction
that commits its buffer, acknowledged after it. A restart goes on from the last version: updates of the buffer
that was open were not acknowledged and come again; credits, accounts and orders begin anew.

References:
    Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
    arXiv 2106.06639, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from coordinator.aggregate import Aggregator
from coordinator.effects import CoordinatorEffect
from coordinator.fleet_core import FleetCore
from coordinator.orders import Device, order_seed
from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.weighing import Weighing, most_late
from device_agent.effects import Note, Send, SetTimer
from device_agent.wire.messages import Order, Update
from models.subnet import Array

ORDERS = "orders"
"""Timer after which the time of the oldest order is over."""


@dataclass
class AsyncCore(FleetCore):
    """Decides; the driver does. See the module's drawing.

    Attributes:
        has_begun: enough devices have been there; from then on it goes on with those there are.
        line: devices without an order, who has waited longest first.
        due_s: a device with an order -> when its time is over, the way back included; oldest first.
        resting: those of them whose order brought nothing.
        idle: devices whose last order brought nothing; they take no part until one does.
        timer_s: when the timer of the orders is due.
        weighing: what updates count.
    """

    has_begun: bool = False
    line: dict[str, None] = field(default_factory=dict)
    due_s: dict[str, float] = field(default_factory=dict)
    resting: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)
    timer_s: float | None = None
    weighing: Weighing = field(init=False)
    _weight: float = 0.0
    _is_timed: bool = False

    def __post_init__(self) -> None:
        """Begin without accounts."""
        self.weighing = Weighing(self.settings)

    @property
    def settings(self) -> AsyncSettings:
        """How updates are applied."""
        return self.strategy.asynchrony or AsyncSettings()

    @property
    def max_orders(self) -> int | None:
        """Devices that may have an order at a time; None: all."""
        return self.settings.max_concurrency or self.config.devices_per_round

    @property
    def _max_staleness(self) -> int:
        return most_late(self.settings)

    # ------------------------------------------------------------ buffers

    def on_timer(self, now_s: float, key: str) -> list[CoordinatorEffect]:
        """A timer that was set is due."""
        if key == self.CLOSE and self.state == "open":
            return self._make_version()
        if key == ORDERS and self.timer_s is not None:
            # The timer is the word: its clock may round the time it was set to.
            until_s, self.timer_s = max(now_s, self.timer_s), None
            return [*self._take_back(until_s), *self._hand_out(now_s), *self._watch(now_s)]
        return []

    def _begin(self, now_s: float) -> list[CoordinatorEffect]:
        online = [
            device.hello for device in self.devices.values() if device.online and device.hello is not None
        ]
        if self.state != "waiting" or (not self.has_begun and len(online) < self.config.min_devices):
            return []
        effects: list[CoordinatorEffect] = []
        if not self.has_begun:
            effects.append(Note("orders go out as devices are free", details={"devices": len(online)}))
        self.state, self.has_begun = "open", True
        self.intake.open(self.strategy.open(self.bundle, self.weights), self._fold)
        self._weight, self._is_timed = 0.0, False
        self.weighing.num_sharing = sum(
            hello.num_samples > 0 and hello.device not in self.idle for hello in online
        )
        return [self._announce(), *effects, *self._hand_out(now_s)]

    def _fold(
        self, device_id: str, update: Update, delta: Mapping[str, Array], staleness: int, num_data: int
    ) -> None:
        aggregator = self.intake.aggregator
        assert isinstance(aggregator, Aggregator)
        weight = self.weighing.weigh(device_id, staleness)
        self.strategy.fold(aggregator, update, delta, weight, num_data)
        own_weight = aggregator.settings.own_weight(update.num_samples, num_data)
        self.weighing.spend(device_id, staleness, own_weight)
        self._weight += own_weight * weight

    def _make_version(self) -> list[CoordinatorEffect]:
        """The server's step, for as many updates as there are."""
        aggregator = self.intake.aggregator
        if aggregator is None or not aggregator.num_updates:
            return []
        scale = self._weight / (aggregator.num_updates * self.weighing.mean_own_weight())
        return self._commit(self.strategy.finish(aggregator, self.before, scale))

    def _closed(self) -> None:
        if self.oldest_base == self.version:  # what was ordered is to be trained on another model
            self.line.update(dict.fromkeys(self.due_s))
            self.due_s.clear()
        rested = [device_id for device_id in self.due_s if device_id in self.resting]
        for device_id in rested:
            del self.due_s[device_id]
        self.line.update(dict.fromkeys(rested))
        self.resting.clear()

    # ------------------------------------------------------------ devices

    def _heard_from(self, now_s: float, device_id: str) -> list[CoordinatorEffect]:
        device = self.devices.get(device_id)
        if device is not None and device.answered and device_id in self.due_s:
            if device.order in device.folded_orders:
                del self.due_s[device_id]
                self.resting.discard(device_id)
                self.idle.discard(device_id)
                self.line[device_id] = None
            else:
                self.resting.add(device_id)
                self.idle.add(device_id)
                self.weighing.rest(device_id)
        aggregator = self.intake.aggregator
        if self.state != "open" or aggregator is None:
            return []
        num_updates, buffer_s = aggregator.num_updates, self.settings.buffer_s
        if num_updates >= (self.settings.buffer_size or max(1, self.weighing.num_sharing)):
            return self._make_version()
        effects = self._hand_out(now_s)
        if num_updates == 1 and buffer_s is not None and not self._is_timed:
            self._is_timed = True
            effects.append(SetTimer(self.CLOSE, buffer_s))
        return effects

    def _welcome(self, now_s: float, device_id: str, device: Device) -> list[CoordinatorEffect]:
        """Give a device that came (back) its order again, or one as soon as it is its turn."""
        if not (device.online and device.hello is not None):
            return []
        if device_id not in self.due_s:
            self.line.setdefault(device_id)
        if self.state == "waiting":
            return self._begin(now_s)
        if self.state == "open" and device_id in self.due_s and not device.answered:
            # It may have been lost on the way or with a reboot; an agent that has it ignores the repeat.
            left_s = self.due_s[device_id] - self.config.grace_s - now_s
            return [self._order(device_id, left_s)] if left_s > 0 else []
        return self._hand_out(now_s)

    def _hand_out(self, now_s: float) -> list[CoordinatorEffect]:
        """Order from those who wait, as far as credits are left."""
        effects: list[CoordinatorEffect] = []
        while self.state == "open" and self.line and self._has_credit():
            device_id = next(iter(self.line))
            del self.line[device_id]  # one that is away comes back by `_welcome`
            device = self.devices.get(device_id)
            if device is None or not device.online or device.hello is None or not device.hello.num_samples:
                continue
            device.order = None
            self.due_s[device_id] = now_s + self.config.deadline_s + self.config.grace_s
            self.weighing.open(device_id)
            effects.append(self._order(device_id, self.config.deadline_s))
        return [*effects, *self._watch(now_s)]

    def _has_credit(self) -> bool:
        return self.max_orders is None or len(self.due_s) - len(self.resting) < self.max_orders

    def _take_back(self, until_s: float) -> list[CoordinatorEffect]:
        """Orders whose time is over free their devices; an update that comes yet is taken all the same."""
        effects: list[CoordinatorEffect] = []
        while self.due_s and (due_s := next(iter(self.due_s.values()))) <= until_s:
            device_id = next(iter(self.due_s))
            del self.due_s[device_id]
            if device_id not in self.resting:
                effects.append(Note("order without an answer", device_id, {"due_s": round(due_s, 1)}))
            self.resting.discard(device_id)
            self.line[device_id] = None
        return effects

    def _watch(self, now_s: float) -> list[CoordinatorEffect]:
        if self.timer_s is not None or not self.due_s:
            return []
        self.timer_s = next(iter(self.due_s.values()))
        return [SetTimer(ORDERS, self.timer_s - now_s)]

    def _order(self, device_id: str, deadline_s: float) -> Send:
        send = super()._order(device_id, deadline_s)
        assert isinstance(send.body, Order)
        # Two orders that a device gets for one version are not to draw the same mini-batches.
        seed = order_seed(self.config.seed, send.body.order, device_id)
        return replace(send, body=msgspec.structs.replace(send.body, seed=seed))
