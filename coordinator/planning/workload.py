"""What a fleet can do in a round with each candidate: known without training anything.

How many mini-batches of which size a device makes follows from its speed, its traces and its memory. This is
reckoned here, with means over rounds in place of moments, for all candidates; what it means for accuracy is
`dse.scaling_law`'s to say.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coordinator.planning.candidates import family_of, first_rate, method_of, optimizer_of
from coordinator.twins.data_shares import split_for
from coordinator.twins.equipment import Equipment, equip
from coordinator.twins.scenario import Scenario
from coordinator.twins.traces import make_sensors
from coordinator.twins.twin import Board
from dse.scaling_law import Traits
from firmware_profiles.grant import grant
from firmware_profiles.resources import Budget, Task
from models.cost import CostModel
from models.data.dataset import load_data, match
from models.graph import ModelGraph
from models.optim.settings import DEFAULT_RATES
from models.subnet import full_vector, uniform_vector
from models.widths import plan_widths
from models.zoo import ZOO, load_model

Array = NDArray[np.float64]

NUM_ROUNDS, NUM_READINGS = 12, 6
"""Rounds of the run that are looked at, and readings in each."""

DEADLINE_SHARE = 0.95
"""Of the round's seconds that a device trains in."""

KEEPS = tuple(np.linspace(0.1, 1.0, 19).tolist())
"""Keep fractions that stand for a searched table."""

FULL_COPIES_BYTES = 12
"""A parameter of the network that is learned takes so much however small the sub-network (`models.cost`)."""

SGD_SCALE = 0.8 / DEFAULT_RATES["adamw"]
"""Makes AdamW's usual rate the law's usual best rate."""


@dataclass(frozen=True, eq=False)
class Device:
    """What one device can do.

    Attributes:
        board: its own. core_seconds: [NUM_ROUNDS] that it may compute in each round looked at.
        memory_bytes: that it may train in at least, of its granted moments; 0 if there are none.
        class_counts: [K] samples of each class.
    """

    board: Board
    core_seconds: Array
    memory_bytes: int
    class_counts: Array

    @property
    def num_samples(self) -> int:
        """Of its data."""
        return int(self.class_counts.sum())


@dataclass(frozen=True, eq=False)
class World:
    """A fleet to plan for.

    Attributes:
        graph: the full network. devices: by id. class_weights: [K] shares of the classes in what is measured.
        class_names: of the data, or None.
        known: what was reckoned already, by what decides it.
    """

    graph: ModelGraph
    devices: dict[str, Device]
    class_weights: Array
    class_names: tuple[str, ...] | None
    known: dict[Hashable, _Made] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Entries:
    """The sub-networks of a candidate, by rising MACs: [J] each, for a mini-batch."""

    macs: Array
    activation_bytes: Array
    memory_bytes: Array

    @property
    def shares(self) -> Array:
        """Of the MACs of the largest."""
        return self.macs / self.macs[-1]


@dataclass(frozen=True, eq=False)
class Workload:
    """What a candidate makes of a fleet.

    Attributes:
        traits: for the scaling law. macs_per_round: training MACs of a mean device in a round.
        idle: ids of devices that can never train.
    """

    traits: Traits
    macs_per_round: float
    idle: tuple[str, ...]


def look_at(fleet: Scenario) -> World:
    """Work out what the fleet's devices have; the test part of the data is not looked at.

    Args:
        fleet: measured on validation.

    Raises:
        UserError: something the scenario names cannot be used.
    """
    data = load_data(fleet.data, fleet.seed)
    fit = (data.train.shape, data.train.num_classes) if fleet.model in ZOO else (None, None)
    graph, _ = load_model(fleet.model, *fit)
    split = split_for(fleet, match(data, graph.input_shape, graph.num_classes), fleet.seed)
    equipment, round_s = equip(fleet, split.train, lambda: graph, fleet.seed)
    num_classes = split.train.num_classes
    devices = {
        name: _device(fleet, one, f"{fleet.seed}/{name}", round_s, num_classes)
        for name, one in equipment.items()
    }
    counts = np.bincount(split.test.labels, minlength=num_classes).astype(np.float64)
    return World(graph, devices, counts / counts.sum(), data.class_names)


def workload(world: World, settings: Scenario) -> Workload:
    """Reckon what a candidate's scenario makes of the fleet in a full run.

    Args:
        world: see `look_at`.
        settings: the candidate's.

    Raises:
        UserError: a setting does not fit.
    """
    made = _made(world, settings)
    return Workload(
        traits=Traits(
            family=family_of(settings),
            width=method_of(settings).base_width,
            rate=effective_rate(settings, made.steps_per_order),
            shares=made.shares,
            steps=settings.rounds * made.steps_by_class,
            class_weights=world.class_weights,
        ),
        macs_per_round=made.macs,
        idle=made.idle,
    )


@dataclass(frozen=True, eq=False)
class _Made:
    """What a round comes to: the same whatever the rates.

    Attributes:
        shares: [J] of the largest entry's MACs. steps_by_class: [K, J].
        steps_per_order, macs: of a mean device. idle: devices that make nothing.
    """

    shares: Array
    steps_by_class: Array
    steps_per_order: float
    macs: float
    idle: tuple[str, ...]


def _made(world: World, settings: Scenario) -> _Made:
    method = method_of(settings)
    key = (method.base_width, method.levels, method.subnets, settings.passes)
    if (known := world.known.get(key)) is not None:
        return known
    entries = _entries(world.graph, settings)
    total = np.zeros((len(world.class_weights), len(entries.macs)))
    macs, idle = 0.0, []
    for name, device in world.devices.items():
        steps = _steps_per_round(device, entries, settings)
        total += np.outer(device.class_counts, steps)
        macs += float(steps @ entries.macs)
        if steps.sum() == 0:
            idle.append(name)
    held = sum((device.class_counts for device in world.devices.values()), np.zeros(len(total)))
    made = _Made(
        shares=entries.shares,
        steps_by_class=total / np.maximum(held, 1.0)[:, None],
        steps_per_order=float(total.sum() / held.sum()),
        macs=macs / len(world.devices),
        idle=tuple(idle),
    )
    world.known[key] = made
    return made


def effective_rate(settings: Scenario, steps_per_order: float) -> float:
    """The learning rate that plain SGD would need to move the weights as far.

    A device's momentum begins at rest in each order: after n steps its mean velocity is
    (1 - m (1 - m^n) / (n (1 - m))) / (1 - m) gradients. The server's lasts.
    """
    optimizer = optimizer_of(settings)
    rate = first_rate(settings) / (1.0 - method_of(settings).averages.server_momentum)
    if optimizer.method != "sgd":
        return rate * SGD_SCALE
    m, n = optimizer.momentum, max(1.0, steps_per_order)
    if optimizer.keep_state:
        return rate / (1.0 - m)
    return rate * (1.0 - m * (1.0 - m**n) / (n * (1.0 - m))) / (1.0 - m)


# ---------------------------------------------------------------- devices


def _device(fleet: Scenario, one: Equipment, seed: str, round_s: float, num_classes: int) -> Device:
    board = one.board
    read = make_sensors(board.group.resources, board.profile, seed, one.place)
    task = Task(time_left_s=1.0, num_batches_left=1)
    core_seconds, memory = np.zeros(NUM_ROUNDS), []
    for index in range(NUM_ROUNDS):
        begin_s = math.floor(fleet.rounds * (index + 0.5) / NUM_ROUNDS) * round_s
        for reading in range(NUM_READINGS):
            snapshot = read(begin_s + round_s * DEADLINE_SHARE * (reading + 0.5) / NUM_READINGS)
            granted = grant(board.profile, snapshot, board.policy, task)
            if isinstance(granted, Budget):
                cores = min(granted.cpu_share_fraction * board.profile.num_cores, board.model.num_threads)
                core_seconds[index] += cores * round_s * DEADLINE_SHARE / NUM_READINGS
                memory.append(granted.memory_bytes)
    counts = np.bincount(one.data.labels, minlength=num_classes).astype(np.float64)
    return Device(board, core_seconds, int(np.median(memory)) if memory else 0, counts)


def _steps_per_round(device: Device, entries: Entries, settings: Scenario) -> Array:
    """[J]: mini-batches of each entry that a device makes in a round, on average."""
    subnets, bounds = method_of(settings).subnets, entries.shares
    core_s = np.array(
        [
            device.board.model.core_s(int(macs), int(activations))
            for macs, activations in zip(entries.macs, entries.activation_bytes, strict=True)
        ]
    )
    allowed = (bounds >= subnets.floor_fraction - 1e-9) & (
        bounds <= subnets.ceiling_fraction(settings.rounds) + 1e-9
    )
    in_memory = entries.memory_bytes <= device.memory_bytes
    usable = np.flatnonzero((allowed if allowed.any() else bounds == bounds[-1]) & in_memory)
    if not len(usable):
        usable = np.flatnonzero(in_memory)[-1:]  # the floor gives way to memory
    num_batches = max(1, round(math.ceil(device.num_samples / settings.batch_size) * settings.passes))
    steps = np.zeros(len(bounds))
    if subnets.choice == "fixed":
        top = np.flatnonzero(bounds <= subnets.fixed_fraction + 1e-9)[-1:]
        usable = top if np.isin(top, usable).all() else usable[:0]
    if len(usable) == 0 or device.num_samples == 0:
        return steps
    for available_s in device.core_seconds:
        if subnets.choice == "widest":
            least = subnets.cut_batch / settings.batch_size
            made = _widest_steps(core_s, usable, float(available_s), num_batches, least)
            steps += made / len(device.core_seconds)
            continue
        fitting = usable[core_s[usable] <= available_s / num_batches]
        level = fitting[-1] if len(fitting) else usable[0]
        used = usable[usable <= level] if subnets.choice == "below" else np.array([level])
        # What is begun and cannot be finished by the deadline is lost.
        made = min(num_batches, math.floor(available_s / float(core_s[used].mean())))
        if made < 1 or (not subnets.partial_work and made < num_batches):
            continue
        steps[used] += made / len(used) / len(device.core_seconds)
    return steps


def _widest_steps(
    core_s: Array, usable: NDArray[np.intp], available_s: float, num_batches: int, least: float
) -> Array:
    """[J]: mini-batches of one round whose time is filled from the widest vector down.

    `least`: the smallest share of a mini-batch's samples that is trained instead of a narrower one; 0: all.
    """
    steps = np.zeros(len(core_s))
    for index in usable[::-1]:
        most = available_s / float(core_s[index])
        part = most % 1.0
        made: float = min(num_batches - math.ceil(steps.sum()), math.floor(most))
        if least and part >= least and steps.sum() + made + 1 <= num_batches:
            made += part
        steps[index] += made
        available_s -= made * float(core_s[index])
    return steps


# ---------------------------------------------------------------- networks


def _entries(graph: ModelGraph, settings: Scenario) -> Entries:
    """The sub-networks of a candidate; uniform ones stand for those of a searched table."""
    method, plan = method_of(settings), plan_widths(graph)
    is_whole = method.subnets.choice == "fixed" and method.subnets.fixed_fraction == 1.0
    levels: Sequence[float] = () if is_whole else method.levels or KEEPS
    vectors = sorted({uniform_vector(plan, method.base_width * keep) for keep in (*levels, 1.0)})
    parts = min(settings.batch_size, method.subnets.micro_batch or settings.batch_size)
    costs = CostModel(graph, plan, parts).costs([*vectors, full_vector(plan)])
    parameters, batch = costs.num_parameters, settings.batch_size
    # Mini-batches in parts add their gradients up beside the weights.
    sums = 4 * parameters[:-1] if parts < batch else 0
    # A narrower network has its own weights, momentum and update, not the full one's.
    copies = FULL_COPIES_BYTES * (parameters[-1] - parameters[-2])
    return Entries(
        macs=costs.macs_training[:-1].astype(np.float64) * batch,
        activation_bytes=costs.activation_bytes[:-1].astype(np.float64) * batch,
        memory_bytes=(costs.memory_bytes[:-1] + sums - copies).astype(np.float64),
    )
