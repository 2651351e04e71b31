"""The faults of devices as one stream of events in time, for the virtual clock and the wall's alike.

Churn goes on for ever, so the stream may have no end. Each device's churn has a generator of its own: one
device more changes nothing for the others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Literal

from coordinator.twins.faults import Faults, Members, devices_named

What = Literal["partition", "heal", "leave", "return", "crash", "restart", "slow", "recover"]


@dataclass(frozen=True)
class FaultEvent:
    """Something that happens to one device, to the coordinator or to the broker.

    Attributes:
        at_s: since the start. what, who: see there.
        value: of `slow` and `recover` the factor, of `crash` the seconds until the restart.
    """

    at_s: float
    what: What
    who: str
    value: float = 0.0


def fault_events(faults: Faults, members: Members, seed: int) -> Iterator[FaultEvent]:
    """All events by rising time.

    Args:
        faults: whose names were checked.
        members: what names stand for.
        seed: of the churn.
    """
    planned = sorted(_planned(faults, members), key=lambda event: event.at_s)
    churning = () if faults.churn is None else devices_named(faults.churn.devices, members)
    coming = [_churn(faults, device, random.Random(f"{seed}/churn/{device}")) for device in churning]
    return merge(planned, *coming, key=lambda event: event.at_s)


def _planned(faults: Faults, members: Members) -> Iterator[FaultEvent]:
    for partition in faults.partitions:
        for device in devices_named(partition.devices, members):
            yield FaultEvent(partition.from_s, "partition", device)
            yield FaultEvent(partition.until_s, "heal", device)
    for slow in faults.slow:
        for device in devices_named(slow.devices, members):
            yield FaultEvent(slow.from_s, "slow", device, slow.factor)
            yield FaultEvent(slow.until_s, "recover", device, slow.factor)
    for crash in faults.crashes:
        yield FaultEvent(crash.at_s, "crash", crash.device, crash.back_s - crash.at_s)
        yield FaultEvent(crash.back_s, "restart", crash.device)


def _churn(faults: Faults, device: str, rng: random.Random) -> Iterator[FaultEvent]:
    churn = faults.churn
    assert churn is not None
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0 / churn.mean_up_s)
        yield FaultEvent(at_s, "leave", device)
        at_s += rng.expovariate(1.0 / churn.mean_down_s)
        yield FaultEvent(at_s, "return", device)
