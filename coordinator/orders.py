"""What the coordinator asks of a device in a round, and what it remembers of the device."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field

from device_agent.effects import Note
from device_agent.wire.messages import BlobRef, Hello, Order, Peering, RolledOut, Run

MAX_DEVICES = 100_000
MAX_BATCHES = 50_000
"""Of one order: its update names the vector of each mini-batch and has to fit into one message."""

ORDER_BITS = 24
"""Of an order's number count the orders of one start of the coordinator; those above are its boot epoch."""

MAX_EARLIER = 64
"""Updates of a device that count for orders which only an earlier start of the coordinator knows."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What does not change during a run.

    Attributes:
        run: its id. strategy_name: key of `coordinator.strategies.names.STRATEGIES`.
        num_rounds: aggregations until it ends. min_devices: devices that must be online to begin.
        deadline_s: seconds a device has for one order. grace_s: seconds more for the way back.
        passes: passes over the local data per order. batch_size: samples per mini-batch.
        learning_rates: one per round, or empty for the bundle's.
        max_staleness: versions an update may be late and still count.
        seed: draws the orders' seeds, and who gets an order.
        devices_per_round: how many devices get an order in a round, drawn anew for each; None: all.
        batches_per_order: for every device alike; None: as its passes over its data come to.
    """

    run: str
    strategy_name: str
    num_rounds: int
    min_devices: int
    deadline_s: float
    grace_s: float
    passes: float
    batch_size: int
    seed: int
    learning_rates: tuple[float, ...] = ()
    max_staleness: int = 2
    devices_per_round: int | None = None
    batches_per_order: int | None = None


def order_seed(seed: int, round_number: int, device: str) -> int:
    """The seed of a device's mini-batches and sub-networks in a round, whatever came first in it."""
    text = f"{seed}/{round_number}/{device}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@dataclass
class Device:
    """A device as the core knows it.

    Attributes:
        order: its order of the open round, None before it has one. answered: by update or decline.
        given_orders: the latest orders to it.
        folded_orders: the latest orders that an update of its was folded for; one each counts.
        num_earlier: of those, the ones of an earlier start of the coordinator.
        offered_policy: digest of the policy last sent to it in this life, and since it was last away.
        table_due: rolled out since its order, and it has not said yet what became of it.
        most_batches: of an order to it so far; an update cannot have more.
        is_done: the run need not wait for it: its stream is over, or never will be; or it has none.
        is_idle: it began anew, and has no order in hand whatever it answered before.
        has_bundle: it has reported in this life, so it has what orders bring.
    """

    hello: Hello | None = None
    online: bool = False
    order: int | None = None
    answered: bool = True
    given_orders: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    folded_orders: deque[int] = field(default_factory=lambda: deque(maxlen=16))
    num_earlier: int = 0
    offered_policy: str = ""
    table_due: BlobRef | None = None
    most_batches: int = 0
    is_done: bool = True
    is_idle: bool = False
    has_bundle: bool = False

    def give(self, order: int) -> None:
        """It gets this order."""
        self.order, self.answered, self.is_idle = order, False, False
        self.given_orders.append(order)

    def fold(self, order: int) -> None:
        """An update for this order counts."""
        self.folded_orders.append(order)
        self.num_earlier += order not in self.given_orders
        self.answer(order)

    def may_have(self, order: int, boot_epoch: int) -> bool:
        """Whether it may have been given this order: by this start of the coordinator, or an earlier one."""
        if order in self.given_orders:
            return True
        return order >> ORDER_BITS < boot_epoch and self.num_earlier < MAX_EARLIER

    def answer(self, order: int) -> None:
        """It has answered this order, by an update or a decline."""
        if order == self.order:
            self.answered = True


def admit(devices: dict[str, Device], device_id: str) -> Device | None:
    """The device of this name, remembered from now on; None where there are too many, all of them online."""
    if device_id not in devices and len(devices) >= MAX_DEVICES:
        gone = next((known for known, device in devices.items() if not device.online), None)
        if gone is None:
            return None
        del devices[gone]
    return devices.setdefault(device_id, Device())


def num_batches(config: RunConfig, hello: Hello) -> int:
    """Mini-batches of an order: the passes over the device's own samples, or what the run says."""
    if config.batches_per_order is not None:
        return config.batches_per_order
    batches_per_pass = -(-hello.num_samples // config.batch_size)
    return max(1, min(MAX_BATCHES, round(batches_per_pass * config.passes)))


def make_order(
    config: RunConfig,
    round_number: int,
    device: Device,
    bundle: BlobRef,
    weights: BlobRef,
    deadline_s: float,
    peering: Peering | None = None,
) -> Order:
    """The order of a device that has said hello and been given a number."""
    assert device.hello is not None
    assert device.order is not None
    rates = config.learning_rates
    return Order(
        order=device.order,
        round=round_number,
        strategy=config.strategy_name,
        bundle=bundle,
        weights=weights,
        num_batches=num_batches(config, device.hello),
        deadline_s=deadline_s,
        seed=order_seed(config.seed, round_number, device.hello.device),
        learning_rate=rates[min(round_number, len(rates)) - 1] if rates else None,
        peering=peering,
    )


def settle_rollout(device_id: str, device: Device | None, body: RolledOut) -> Note:
    """A device said what became of a policy or table."""
    if device is not None and device.table_due is not None and device.table_due.digest == body.digest:
        device.table_due = None
    event = "rollout in force" if body.in_force else "rollout refused"
    return Note(event, device_id, {"kind": body.kind, "digest": body.digest[:12], "reason": body.reason})


def make_run(config: RunConfig, state: str, round_number: int, version: int, accuracy: float | None) -> Run:
    """What the fleet is told of the run; a state between waiting and finished is training to it."""
    return Run(
        run=config.run,
        strategy=config.strategy_name,
        state=state if state in ("waiting", "finished") else "training",
        round=min(round_number, config.num_rounds),
        num_rounds=config.num_rounds,
        model_version=version,
        accuracy=accuracy,
    )
