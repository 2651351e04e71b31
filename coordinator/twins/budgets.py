"""What a scenario's shares of the full network come to: seconds of a round, bytes of memory.

The full network is the scenario's model at width 1, whatever part of it the fleet learns, so that all
methods of a comparison have the same seconds and the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from coordinator.twins.traces import TRACES, Place, make_sensors, span_s
from coordinator.twins.twin import Board
from firmware_profiles.errors import UserError
from firmware_profiles.grant import grant
from firmware_profiles.resources import Budget, Snapshot, Task
from models.cost import Cost, cost
from models.graph import ModelGraph
from models.subnet import full_vector
from models.widths import plan_widths

NUM_READINGS = 96
"""Times at which a device's budget is looked at, to find its mean."""


@dataclass(frozen=True)
class Load:
    """What one device would have to do, and has to do it with.

    Attributes:
        board: its own. seed: of its traces. place: in the fleet.
        num_batches: mini-batches of one pass over its data.
    """

    board: Board
    seed: str
    place: Place
    num_batches: int


def full_cost(graph: ModelGraph, batch_size: int) -> Cost:
    """What training the whole of a network takes."""
    plan = plan_widths(graph)
    return cost(graph, plan, full_vector(plan), batch_size)


def limited(board: Board, full: Cost) -> Board:
    """The board with its group's memory_fraction as a limit of its policy."""
    fraction = board.group.memory_fraction
    if fraction is None:
        return board
    limit = int(fraction * full.memory_bytes)
    known = board.policy.max_memory_bytes
    limit = limit if known is None else min(limit, known)
    return replace(board, policy=msgspec.structs.replace(board.policy, max_memory_bytes=limit))


def round_seconds(budget_fraction: float, loads: Sequence[Load], full: Cost, batch_size: int) -> float:
    """Seconds of a round in which devices can train, on average, a share of a pass with the full network.

    With n devices, b_i mini-batches in a pass over the data of device i, c_i core-seconds of its board for
    one of them with the full network, and a_i core-seconds that it is granted in a second on average

        round_s = budget_fraction / ( 1/n  sum_i  a_i / (b_i c_i) )

    a_i is the mean of what `firmware_profiles.grant.grant` gives, at most the engine's threads and nothing
    in a pause, over NUM_READINGS times spread evenly over the longest span of the device's traces
    (`coordinator.twins.traces.span_s`).

    Raises:
        UserError: no device is ever granted anything.
    """
    shares = [
        _granted_cores(load) / (load.num_batches * _batch_core_s(load.board, full, batch_size))
        for load in loads
    ]
    mean = sum(shares) / len(shares)
    if mean <= 0:
        raise UserError(
            f"budget_fraction {budget_fraction:g} cannot be met: no device may ever train. Give round_s, or "
            "the devices more (policy, resources)"
        )
    return budget_fraction / mean


def _batch_core_s(board: Board, full: Cost, batch_size: int) -> float:
    return board.model.core_s(full.macs_training * batch_size, full.activation_bytes * batch_size)


def _granted_cores(load: Load) -> float:
    """Core-seconds in a second, on average over the span of the traces."""
    resources = load.board.group.resources
    read = make_sensors(resources, load.board.profile, load.seed, load.place)
    whole_s = max(span_s(getattr(resources, name)) for name in TRACES)
    return granted_cores(load.board, read, 0.0, whole_s, NUM_READINGS if whole_s else 1)


def granted_cores(
    board: Board, read: Callable[[float], Snapshot], from_s: float, until_s: float, num_readings: int
) -> float:
    """Core-seconds in a second that a device is granted, on average over some time; a pause counts as 0."""
    task = Task(time_left_s=1.0, num_batches_left=1)
    step_s = (until_s - from_s) / num_readings
    times = [from_s + step_s * (index + 0.5) for index in range(num_readings)]
    granted = [grant(board.profile, read(time_s), board.policy, task) for time_s in times]
    cores = [
        min(one.cpu_share_fraction * board.profile.num_cores, board.model.num_threads)
        for one in granted
        if isinstance(one, Budget)
    ]
    return sum(cores) / len(times)
