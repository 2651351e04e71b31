"""A twin: the device's own agent, without the device."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from coordinator.twins.clock import VirtualClock, VirtualTimers
from coordinator.twins.groups import Group
from coordinator.twins.jobs import StepModel, VirtualJobs, Work
from coordinator.twins.traces import Place, make_sensors
from device_agent.agent import AgentCore
from device_agent.kept_content import KeptContent
from device_agent.learned_store import MemoryLearned
from device_agent.live_jobs import Listener
from device_agent.node import AgentNode
from device_agent.optimizer_store import MemoryStore
from device_agent.outbox import Outbox
from device_agent.outbox_file import OutboxMemory
from device_agent.residual_store import MemoryResiduals
from device_agent.streams.own import replay
from device_agent.wire.bus import Bus, Receive
from device_agent.wire.chunks import Downloads
from device_agent.wire.codec import encode_public
from device_agent.wire.memory import MemoryBroker, MemoryBus
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
from models.subnet import Array, DropoutVector


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
class World:
    """What all twins of a simulation share.

    Attributes:
        fleet: its name. clock, broker: time and messages.
        engine: makes the engine of a bundle; twins may share one, for it has no state.
        activation_bytes: what the backward pass of a sample reads in a sub-network of this vector.
        decode: reads a bundle.
        seed: of everything that is drawn.
        telemetry_s: seconds between a device's telemetry messages.
        label_delay: samples of a device's stream that come before a sample's label.
    """

    fleet: str
    clock: VirtualClock
    broker: MemoryBroker
    engine: Callable[[Bundle], Engine]
    activation_bytes: Callable[[DropoutVector], int]
    decode: Callable[[bytes], Bundle]
    seed: int
    telemetry_s: float
    label_delay: int = 0
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
        exponential_s=group.step_exponential_s,
    )
    return Board(group, profile, policy, model)


@dataclass
class Disk:
    """What of a device survives its process, and with it a crash.

    Attributes:
        policy: in force. outbox, optimizer, residuals, learned, kept: as the live agent has them in files.
    """

    policy: Policy
    outbox: OutboxMemory = field(default_factory=OutboxMemory)
    optimizer: MemoryStore = field(default_factory=MemoryStore)
    residuals: MemoryResiduals = field(default_factory=MemoryResiduals)
    learned: MemoryLearned = field(default_factory=MemoryLearned)
    kept: KeptContent = field(default_factory=KeptContent)


@dataclass(frozen=True, kw_only=True)
class Process:
    """One life of a device's agent, from its start to its end."""

    node: AgentNode
    jobs: VirtualJobs
    bench: Workbench
    timers: VirtualTimers
    connection: MemoryBus


class Twin:
    """A simulated device: a disk, and the process that runs on it. It starts at this moment of virtual time.

    Args:
        world: that it lives in. device: its id.
        board: what it is. data: its samples.
        read: its sensors at a time.

    Attributes:
        board, read: as given.
        bus: counts what all its processes published.
    """

    def __init__(
        self, world: World, device: str, board: Board, data: Dataset, read: Callable[[float], Snapshot]
    ) -> None:
        self.board, self.read = board, read
        self._world, self._device, self._data = world, device, data
        self._disk = Disk(board.policy)
        self._num_lives, self._num_cuts, self._num_crashes = 0, 0, 0
        self._slow_factors: list[float] = []
        self.bus = MeteredBus(world.broker.connect(device, at_once=False))
        self._process = self._begin(Work())

    @property
    def node(self) -> AgentNode:
        """Its agent; while it is down, as it was."""
        return self._process.node

    @property
    def jobs(self) -> VirtualJobs:
        """What it trained."""
        return self._process.jobs

    @property
    def own_model(self) -> Mapping[str, Array] | None:
        """What it has learned in a session with neighbours; None while it has none."""
        session = None if self._num_crashes else self.node.core.peers
        return None if session is None else session.model

    # ------------------------------------------------------------ what happens to it

    def cut(self) -> None:
        """Its connection is lost, until as many `mend` have come."""
        self._num_cuts += 1
        self._process.connection.lose_connection()

    def mend(self) -> None:
        """One reason for having no connection is gone."""
        self._num_cuts -= 1
        self._connect_if_possible(self._process.connection)

    def crash(self) -> None:
        """The process is killed, until as many `restart` have come: what is not on its disk is gone."""
        self._num_crashes += 1
        if self._num_crashes > 1:
            return
        process = self._process
        process.connection.lose_connection()
        process.jobs.stop()
        process.timers.cancel_all()
        self._disk.policy = process.bench.policy

    def restart(self) -> None:
        """A new process begins, with what is on the disk."""
        self._num_crashes -= 1
        if self._num_crashes == 0:
            self._process = self._begin(self.jobs.work)

    def slow_down(self, factor: float) -> None:
        """Computing takes `factor` times as long as before."""
        self._slow_factors.append(factor)
        self.jobs.slow_factor = math.prod(self._slow_factors)

    def recover(self, factor: float) -> None:
        """What slowed it down by `factor` is over."""
        self._slow_factors.remove(factor)
        self.jobs.slow_factor = math.prod(self._slow_factors)

    # ------------------------------------------------------------ its process

    def _begin(self, work: Work) -> Process:
        self._num_lives += 1
        process = self._make_process(work)
        process.jobs.slow_factor = math.prod(self._slow_factors)
        self._connect_if_possible(process.connection)
        return process

    def _connect_if_possible(self, connection: MemoryBus) -> None:
        if self._num_cuts == 0 and self._num_crashes == 0:
            connection.reconnect()

    def _make_process(self, work: Work) -> Process:
        world, device, board, disk = self._world, self._device, self.board, self._disk
        clock, timers, life = world.clock, VirtualTimers(world.clock), self._num_lives

        def draws(what: str) -> random.Random:
            again = f"/{life}" if life > 1 else ""
            return random.Random(f"{world.seed}/{device}/{what}{again}")

        def snapshot() -> Snapshot:
            return self.read(clock.now_s)

        def post(action: Callable[[], None]) -> None:
            """Do it after what is going on now, if this process is still there then."""
            clock.post(lambda: action() if self._num_lives == life and not self._num_crashes else None)

        outbox = Outbox(
            None,
            device,
            memory=disk.outbox,
            clock=timers.now_s,
            boot_id=lambda: "twin",
            wall_clock=lambda: 0.0,
            rng=draws("outbox"),
        )
        will = Status(online=False, boot_epoch=outbox.boot_epoch, reason="lost")
        connection = world.broker.connect(
            device,
            will=(device_topic(world.fleet, device, "status"), encode_public(will)),
            on_connect=lambda: post(lambda: connected()),  # noqa: PLW0108 - defined below
            on_disconnect=lambda _reason: post(lambda: node.disconnected()),  # noqa: PLW0108
            at_once=False,
        )
        self.bus.bus = connection
        bench = Workbench(
            profile=board.profile,
            policy=disk.policy,
            data=lambda: self._data,
            snapshot=snapshot,
            engine=world.engine,
            num_threads=board.model.num_threads,
            store=disk.optimizer,
            residuals=disk.residuals,
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
            work=work,
        )
        hello = _hello(world, device, board, self._data, outbox.boot_epoch, disk.policy)
        node = AgentNode(
            fleet=world.fleet,
            core=AgentCore(hello, telemetry_s=world.telemetry_s, decode=world.decode),
            bus=self.bus,
            outbox=outbox,
            downloads=Downloads(draws("downloads")),
            timers=timers,
            jobs=jobs,
            snapshot=snapshot,
            kept=disk.kept,
            residuals=disk.residuals,
            learned=disk.learned,
            streams=lambda effect: replay(
                self._data, np.arange(len(self._data)), effect, timers, world.label_delay
            ),
            listen=lambda topic: listen(topic),  # noqa: PLW0108 - defined below
        )
        started = False

        def connected() -> None:
            # The first connection tells everything at the start; as live, where it is made after the start.
            nonlocal started
            node.connected() if started else node.start()
            started = True

        def listen(topic: str) -> None:
            self.bus.subscribe(topic, lambda topic, payload: post(lambda: node.received(topic, payload)))

        for topic in (
            fleet_topic(world.fleet, "run"),
            down_topic(world.fleet, device),
            down_topic(world.fleet, device, bulk=True),
        ):
            listen(topic)
        return Process(node=node, jobs=jobs, bench=bench, timers=timers, connection=connection)


def make_twin(world: World, device: str, board: Board, data: Dataset, place: Place) -> Twin:
    """Build a device's agent on virtual ports; it is connected and starts at this moment of virtual time.

    Raises:
        UserError: a trace's file cannot be used.
    """
    group = board.group
    twin = Twin(
        world,
        device,
        board,
        data,
        make_sensors(group.resources, board.profile, f"{world.seed}/{device}", place),
    )
    for from_s, until_s in group.network.outages_s:
        twin.cut() if from_s <= world.clock.now_s else world.clock.call_at(from_s, twin.cut)
        world.clock.call_at(until_s, twin.mend)
    return twin


def _hello(world: World, device: str, board: Board, data: Dataset, boot_epoch: int, policy: Policy) -> Hello:
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
        cpu_share_fraction=policy.max_cpu_share_fraction,
        policy_digest=policy_digest(policy),
    )
