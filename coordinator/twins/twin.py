"""A twin: the device's own agent, without the device."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from coordinator.twins.clock import VirtualClock, VirtualTimers
from coordinator.twins.groups import Group
from coordinator.twins.jobs import StepModel, VirtualJobs
from coordinator.twins.traces import Place, make_sensors
from device_agent.agent import AgentCore
from device_agent.live_jobs import Listener
from device_agent.node import AgentNode
from device_agent.outbox import Outbox
from device_agent.wire.bus import Bus, Receive
from device_agent.wire.chunks import Downloads
from device_agent.wire.codec import encode_public
from device_agent.wire.memory import MemoryBroker
from device_agent.wire.messages import Hello, Status
from device_agent.wire.topics import device_topic, down_topic, fleet_topic
from device_agent.workbench import Workbench
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, load_policy, policy_digest
from firmware_profiles.profile import FirmwareProfile, load_profile
from firmware_profiles.resources import Snapshot
from models.bundle import Bundle
from models.data.dataset import Dataset
from models.engines.engine import Engine
from models.subnet import DropoutVector


@dataclass
class MeteredBus:
    """A bus that counts what is published on it."""

    bus: Bus
    num_bytes: int = 0
    num_messages: int = 0

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Count and send a payload."""
        self.num_bytes += len(payload)
        self.num_messages += 1
        self.bus.publish(topic, payload, retain=retain, qos=qos)

    def subscribe(self, pattern: str, receive: Receive) -> None:
        """Subscribe."""
        self.bus.subscribe(pattern, receive)

    def close(self) -> None:
        """Disconnect cleanly."""
        self.bus.close()


@dataclass(frozen=True)
class Board:
    """A scenario's group with its files read.

    Attributes:
        group: as the scenario has it. profile, policy: read. model: how long it computes.
    """

    group: Group
    profile: FirmwareProfile
    policy: Policy
    model: StepModel


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A simulated device.

    Attributes:
        board: what it is. node: its agent. bus: its connection. jobs: what it trained.
        read: its sensors at a time.
    """

    board: Board
    node: AgentNode
    bus: MeteredBus
    jobs: VirtualJobs
    read: Callable[[float], Snapshot]


@dataclass(frozen=True, kw_only=True)
class World:
    """What all twins of a simulation share.

    Attributes:
        fleet: its name. clock, broker: time and messages.
        engine: makes the engine of a bundle; twins may share one, for it has no state.
        activation_bytes: what the backward pass of a sample reads in a sub-network of this vector.
        decode: reads a bundle.
        seed: of everything that is drawn.
        telemetry_s: seconds between a device's telemetry messages.
    """

    fleet: str
    clock: VirtualClock
    broker: MemoryBroker
    engine: Callable[[Bundle], Engine]
    activation_bytes: Callable[[DropoutVector], int]
    decode: Callable[[bytes], Bundle]
    seed: int
    telemetry_s: float
    version: str = field(default_factory=lambda: metadata.version("edgetide"))


def load_board(group: Group) -> Board:
    """Read what a group names.

    Raises:
        UserError: a file cannot be used, or nobody knows the board's speed.
    """
    profile = load_profile(Path(group.profile) if "/" in group.profile else group.profile)
    policy = group.policy if isinstance(group.policy, Policy) else load_policy(group.policy)
    speed = group.speed or profile.speeds.get(group.engine)
    if speed is None:
        known = ", ".join(profile.speeds) or "none"
        raise UserError(
            f"profile {profile.name} has no speed for engine {group.engine} (it has {known}): give the group "
            "speed: {core_seconds_per_mac: …}, or measure the board with `edgetide agent bench`"
        )
    model = StepModel(
        core_seconds_per_mac=speed.core_seconds_per_mac,
        core_seconds_per_step=speed.core_seconds_per_step,
        core_seconds_per_activation_byte=speed.core_seconds_per_activation_byte,
        num_threads=min(group.num_threads, profile.num_cores),
        jitter_fraction=group.step_jitter_fraction,
    )
    return Board(group, profile, policy, model)


def make_twin(world: World, device: str, board: Board, data: Dataset, place: Place) -> Twin:
    """Build a device's agent on virtual ports; it is connected and starts at this moment of virtual time.

    Raises:
        UserError: a trace's file cannot be used.
    """
    clock, group = world.clock, board.group
    timers = VirtualTimers(clock)
    read = make_sensors(group.resources, board.profile, f"{world.seed}/{device}", place)

    def draws(what: str) -> random.Random:
        return random.Random(f"{world.seed}/{device}/{what}")

    outbox = Outbox(
        None, device, clock=timers.now_s, boot_id=lambda: "twin", wall_clock=lambda: 0.0, rng=draws("outbox")
    )
    will = Status(online=False, boot_epoch=outbox.boot_epoch, reason="lost")
    for from_s, until_s in group.network.outages_s:
        clock.call_at(from_s, lambda: connection.lose_connection())  # noqa: PLW0108 - made below
        clock.call_at(until_s, lambda: connection.reconnect())  # noqa: PLW0108
    connection = world.broker.connect(
        device,
        will=(device_topic(world.fleet, device, "status"), encode_public(will)),
        on_connect=lambda: clock.post(lambda: connected()),  # noqa: PLW0108 - defined below
    )
    bus = MeteredBus(connection)
    bench = Workbench(
        profile=board.profile,
        policy=board.policy,
        data=lambda: data,
        snapshot=lambda: read(clock.now_s),
        engine=world.engine,
        num_threads=board.model.num_threads,
        decode=world.decode,
        speed=(board.model.core_seconds_per_mac, board.model.core_seconds_per_step),
    )
    listener = Listener(
        progress=lambda cost: node.job_progress(cost),  # noqa: PLW0108 - node is made below
        paused=lambda pause: node.job_paused(pause),  # noqa: PLW0108
        done=lambda result, busy_s, wall_s: node.job_done(result, busy_s, wall_s),  # noqa: PLW0108
        failed=lambda reason: node.job_failed(reason),  # noqa: PLW0108
    )
    jobs = VirtualJobs(
        bench=bench,
        listener=listener,
        timers=timers,
        model=board.model,
        rng=draws("steps"),
        activation_bytes=world.activation_bytes,
    )
    node = AgentNode(
        fleet=world.fleet,
        core=AgentCore(_hello(world, device, board, data, outbox.boot_epoch), telemetry_s=world.telemetry_s),
        bus=bus,
        outbox=outbox,
        downloads=Downloads(draws("downloads")),
        timers=timers,
        jobs=jobs,
        snapshot=lambda: read(clock.now_s),
    )
    started = False

    def connected() -> None:
        # The first connection tells everything at the start; as live, where it is made after the start.
        nonlocal started
        node.connected() if started else node.start()
        started = True

    for topic in (
        fleet_topic(world.fleet, "run"),
        down_topic(world.fleet, device),
        down_topic(world.fleet, device, bulk=True),
    ):
        bus.subscribe(topic, lambda topic, payload: clock.post(lambda: node.received(topic, payload)))
    return Twin(board=board, node=node, bus=bus, jobs=jobs, read=read)


def _hello(world: World, device: str, board: Board, data: Dataset, boot_epoch: int) -> Hello:
    return Hello(
        device=device,
        boot_epoch=boot_epoch,
        version=world.version,
        profile=board.profile.name,
        engine=board.group.engine,
        num_cores=board.profile.num_cores,
        memory_total_bytes=board.profile.memory_total_bytes,
        num_samples=len(data),
        input_shape=data.shape,
        num_classes=data.num_classes,
        cpu_share_fraction=board.policy.max_cpu_share_fraction,
        policy_digest=policy_digest(board.policy),
    )
