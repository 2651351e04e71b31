"""What a device tells those who watch the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from device_agent.orders import OrderInHand
from device_agent.training import StepCost
from device_agent.wire.messages import Hello, Telemetry
from firmware_profiles.resources import Snapshot


class Learned(NamedTuple):
    """How far a device is with its stream.

    Attributes:
        seen: samples. num_all: in this run, 0: nobody knows.
        accuracy: of the latest predictions, None before the first.
    """

    seen: int
    num_all: int
    accuracy: float | None


@dataclass
class Progress:
    """What telemetry tells of the current order."""

    steps_done: int = 0
    last: StepCost | None = None
    macs_since: int = 0
    full_macs_since: int = 0


def make_telemetry(
    hello: Hello,
    doing: tuple[str, str],
    in_hand: OrderInHand | None,
    progress: Progress,
    snapshot: Snapshot,
    cpu_share_fraction: float | None,
    outbox_messages: int,
    learned: Learned | None = None,
) -> Telemetry:
    """The telemetry of this moment; what `progress` adds up since the last one begins anew.

    Args:
        hello: who the device is.
        doing: its state, and the reason for it.
        in_hand: its order.
        progress: of the order.
        snapshot: of its sensors.
        cpu_share_fraction: granted now.
        outbox_messages: updates that wait to be acknowledged.
        learned: of a stream, None where a network is trained.
    """
    state, reason = doing
    last = progress.last
    mean = progress.macs_since / progress.full_macs_since if progress.full_macs_since else None
    progress.macs_since = progress.full_macs_since = 0
    return Telemetry(
        device=hello.device,
        boot_epoch=hello.boot_epoch,
        state=state,
        reason=reason,
        round=in_hand.order.round if in_hand else None,
        vector=last.vector if last else None,
        macs_fraction=min(1.0, last.macs / last.full_macs) if last else None,
        mean_macs_fraction=None if mean is None else min(1.0, mean),
        steps_done=progress.steps_done if learned is None else learned.seen,
        steps_planned=_planned(in_hand) if learned is None else learned.num_all,
        loss=last.loss_sum / last.num_samples if last else None,
        cpu_share_fraction=cpu_share_fraction,
        cpu_others_fraction=snapshot.cpu_others_fraction,
        memory_available_bytes=snapshot.memory_available_bytes,
        memory_own_bytes=snapshot.memory_own_bytes,
        battery_fraction=snapshot.battery_fraction,
        charging=snapshot.charging,
        temperature_celsius=snapshot.temperature_celsius,
        throttled=snapshot.throttled,
        clock_hz=snapshot.clock_hz,
        outbox_messages=outbox_messages,
        accuracy=None if learned is None else learned.accuracy,
    )


def _planned(in_hand: OrderInHand | None) -> int:
    return in_hand.order.num_batches if in_hand else 0
