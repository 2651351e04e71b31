"""What a simulation came to."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from coordinator.peer_view import Told, fold_run
from coordinator.peer_view import to_json as peers_json
from coordinator.stream_view import ToldOfStream
from coordinator.stream_view import fold_run as fold_streams
from coordinator.stream_view import to_json as streams_json
from coordinator.twins.budgets import granted_cores
from coordinator.twins.memory_run import MemoryRun
from coordinator.twins.node_accuracy import NodePoint
from coordinator.twins.scenario import Scenario
from coordinator.twins.twin import MeteredBus, Twin
from coordinator.updates import histogram
from firmware_profiles.errors import UserError

GRANT_READINGS = 16
"""Times at which the budget of one order is looked at."""


@dataclass(frozen=True, kw_only=True)
class DeviceResult:
    """What one device did.

    Attributes:
        id: its name. profile: its board. num_samples: of its data.
        updates: of it that were applied. steps: mini-batches. macs: training MACs.
        bytes_sent: payloads. paused_s: time in which it might not train.
        pauses: [virtual second, reason] of each pause's beginning.
        vectors: "8-16-16" -> mini-batches, of updates that arrived.
        computed_core_s: seconds of one core that it computed.
        granted_core_s: that it was granted, from each order to its deadline or the round's end.
    """

    id: str
    profile: str
    num_samples: int
    updates: int
    steps: int
    macs: int
    bytes_sent: int
    paused_s: float
    pauses: tuple[tuple[float, str], ...]
    vectors: dict[str, int]
    computed_core_s: float
    granted_core_s: float


@dataclass(frozen=True, kw_only=True)
class SimResult:
    """A simulation's outcome; the same for the same scenario, seed and packages.

    Attributes:
        engine: what computed the numbers.
        accuracy: of the last version, 0..1. accuracy_curve: (virtual second, accuracy) of each version.
        virtual_s: when the run was over.
        bytes_sent, messages_sent: payloads and messages that devices and coordinator published, each once.
        macs: training MACs of all devices, whether or not an update came of them.
        client_updates: updates that changed the model; the others expired or were refused.
        round_s: seconds a device had for an order.
        measured_on: test or validation. class_accuracy: of the last version, 0..1; None for a class that no
            measured sample has.
        budget_used_fraction: core-seconds computed over those granted while the devices had orders; None if
            nothing was granted.
        node_accuracy_curve: (virtual second, mean, least accuracy) of the devices' own models, where devices
            learn from each other. accuracy_curve is then that of the mean of their weights, rounds counts
            barriers, and round_s are the seconds of a window.
        peers: `coordinator.peer_view.to_json` of such a run, else None.
        streams: `coordinator.stream_view.to_json` of one that learns from streams, else None. Then accuracy
            is the share of right predictions of the run, and in accuracy_curve of each window, after a 0.
        staleness: "2" -> applied updates that were two versions late.
        weights_digest: of the last version. vector_shares: "8-16-16" -> share of the mini-batches.
    """

    scenario: str
    strategy: str
    engine: str
    seed: int
    accuracy: float
    accuracy_curve: tuple[tuple[float, float], ...]
    rounds: int
    virtual_s: float
    bytes_sent: int
    messages_sent: int
    macs: int
    client_updates: int
    updates_expired: int
    updates_refused: int
    round_s: float
    measured_on: str
    class_accuracy: tuple[float | None, ...]
    budget_used_fraction: float | None
    weights_digest: str
    vector_shares: dict[str, float]
    devices: tuple[DeviceResult, ...]
    node_accuracy_curve: tuple[tuple[float, float, float], ...] = ()
    peers: dict[str, Any] | None = None
    streams: dict[str, Any] | None = None
    staleness: dict[str, int] = field(default_factory=dict)

    def accuracy_at(self, virtual_s: float) -> float:
        """Accuracy of the newest version at a time."""
        return [accuracy for time_s, accuracy in self.accuracy_curve if time_s <= virtual_s or time_s == 0.0][
            -1
        ]


def make_result(
    *,
    scenario: Scenario,
    engine: str,
    seed: int,
    virtual_s: float,
    state: MemoryRun,
    twins: Mapping[str, Twin],
    coordinator_bus: MeteredBus,
    digest: str,
    class_accuracy: tuple[float | None, ...],
    node_accuracy: tuple[NodePoint, ...] = (),
    window: int = 1,
    num_windows: int = 1,
    in_rounds: bool = True,
) -> SimResult:
    """Sum up a run that is over; without rounds, a version takes no order back."""
    outcomes = Counter(settled.outcome for settled in state.settled)
    closed_s = sorted(state.committed_s.values()) if in_rounds else []
    devices = tuple(_device(device, twin, state, closed_s) for device, twin in twins.items())
    totals: Counter[str] = Counter()
    for device in devices:
        totals.update(device.vectors)
    streams = _streams(state)
    curve = state.curve() if streams is None else [(0.0, 0.0), *state.curve()]  # nothing is predicted yet
    buses = [coordinator_bus, *(twin.bus for twin in twins.values())]
    return SimResult(
        scenario=scenario.name,
        strategy=scenario.strategy,
        engine=engine,
        seed=seed,
        accuracy=_accuracy(scenario, curve, streams),
        accuracy_curve=tuple((round(time_s, 3), accuracy) for time_s, accuracy in curve),
        rounds=min(scenario.rounds, window * state.stored.round // num_windows),
        virtual_s=round(virtual_s, 3),
        bytes_sent=sum(bus.num_bytes for bus in buses),
        messages_sent=sum(bus.num_messages for bus in buses),
        macs=sum(device.macs for device in devices),
        client_updates=outcomes["applied"],
        updates_expired=outcomes["expired"],
        updates_refused=outcomes["refused"],
        round_s=round(scenario.round_s, 6),
        measured_on=scenario.measure_on,
        class_accuracy=class_accuracy,
        budget_used_fraction=_share(
            sum(device.computed_core_s for device in devices),
            sum(device.granted_core_s for device in devices),
        ),
        weights_digest=digest,
        vector_shares={vector: round(count / totals.total(), 4) for vector, count in totals.most_common()},
        devices=devices,
        node_accuracy_curve=tuple((round(at.virtual_s, 3), at.mean, at.least) for at in node_accuracy),
        peers=_peers(state),
        streams=streams,
        staleness=histogram(settled.staleness for settled in state.settled),
    )


def to_json(result: SimResult) -> dict[str, Any]:
    """A result as JSON-ready values."""
    return asdict(result)


def _device(device: str, twin: Twin, state: MemoryRun, closed_s: Sequence[float]) -> DeviceResult:
    mine = [settled for settled in state.settled if settled.device == device]
    vectors: Counter[str] = Counter()
    for settled in mine:
        vectors.update(settled.vectors)
    work = twin.jobs.work
    return DeviceResult(
        id=device,
        profile=twin.board.profile.name,
        num_samples=twin.node.core.hello.num_samples,
        updates=sum(settled.outcome == "applied" for settled in mine),
        steps=work.steps,
        macs=work.macs,
        bytes_sent=twin.bus.num_bytes,
        paused_s=round(work.paused_s, 3),
        pauses=tuple((round(time_s, 3), reason) for time_s, reason in work.pauses),
        vectors=dict(sorted(vectors.items())),
        computed_core_s=round(work.computed_core_s, 3),
        granted_core_s=round(_granted_core_s(twin, closed_s), 3),
    )


def _granted_core_s(twin: Twin, closed_s: Sequence[float]) -> float:
    """What the device could have computed while it had orders; a round that is over takes its order back."""
    orders = twin.jobs.work.orders
    granted_core_s = 0.0
    for index, (from_s, deadline_s) in enumerate(orders):
        following = bisect_right(closed_s, from_s)
        ends_s = [
            deadline_s,
            *closed_s[following : following + 1],
            *(began for began, _ in orders[index + 1 : index + 2]),
        ]
        until_s = max(from_s, min(ends_s))
        cores = granted_cores(twin.board, twin.read, from_s, until_s, GRANT_READINGS)
        granted_core_s += cores * (until_s - from_s)
    return granted_core_s


def _peers(state: MemoryRun) -> dict[str, Any] | None:
    told = [
        Told(one.device, one.round, one.peers, in_time=one.outcome == "applied")
        for one in state.settled
        if one.peers is not None
    ]
    return peers_json(fold_run(told, state.closed_s)) if told else None


def _streams(state: MemoryRun) -> dict[str, Any] | None:
    told = [
        ToldOfStream(one.device, one.round, one.stream, in_time=one.outcome == "applied")
        for one in state.settled
        if one.stream is not None
    ]
    return streams_json(fold_streams(told, state.closed_s)) if told else None


def _accuracy(
    scenario: Scenario, curve: Sequence[tuple[float, float]], streams: dict[str, Any] | None
) -> float:
    """Of the last version, or of all predictions of streams.

    Raises:
        UserError: the run ended before there was any.
    """
    found = streams["accuracy"] if streams is not None else curve[-1][1] if curve else None
    if found is None:
        raise UserError(
            f"scenario {scenario.name!r} ended before a device reported a label: give it more time (until_s)"
        )
    return found


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None
