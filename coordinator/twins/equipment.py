"""What each device of a scenario has: its board, its samples, its place in fleet and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coordinator.twins.budgets import Load, full_cost, limited, round_seconds
from coordinator.twins.data_shares import share_out
from coordinator.twins.groups import Group
from coordinator.twins.scenario import Scenario
from coordinator.twins.traces import Place
from coordinator.twins.twin import Board, load_board
from firmware_profiles.errors import UserError
from models.data.dataset import Dataset
from models.graph import ModelGraph


@dataclass(frozen=True)
class Equipment:
    """What a device has.

    Attributes:
        board: with its policy. data: its samples. place: its number and its pace.
    """

    board: Board
    data: Dataset
    place: Place


def equip(
    scenario: Scenario, train: Dataset, full_graph: Callable[[], ModelGraph], seed: int
) -> tuple[dict[str, Equipment], float]:
    """Work out what a scenario gives its devices.

    Args:
        scenario: as written.
        train: samples to be shared out.
        full_graph: makes the scenario's network at width 1, if a budget or memory is a share of it.
        seed: of the run.

    Returns:
        The devices by id, in the scenario's order, and the seconds of a round.

    Raises:
        UserError: something the scenario names cannot be used, or its shares cannot be met.
    """
    groups = device_groups(scenario)
    shares = share_out(scenario, groups, train, seed)
    boards = {id(group): load_board(group) for group in scenario.devices}
    round_s = scenario.round_s
    if scenario.budget_fraction is not None or any(group.memory_fraction for group in scenario.devices):
        full = full_cost(full_graph(), scenario.batch_size)
        boards = {key: limited(board, full) for key, board in boards.items()}
        if scenario.budget_fraction is not None:
            loads = [
                Load(
                    boards[id(group)],
                    f"{seed}/{device}",
                    Place(device=number, seed=seed),
                    -(-len(shares[device]) // scenario.batch_size),
                )
                for number, (device, group) in enumerate(groups.items())
            ]
            round_s = round_seconds(scenario.budget_fraction, loads, full, scenario.batch_size)
    devices = {}
    for number, (device, group) in enumerate(groups.items()):
        num_batches = max(1, round(-(-len(shares[device]) // scenario.batch_size) * scenario.passes))
        place = Place(device=number, seed=seed, round_s=round_s, step_s=round_s / num_batches)
        devices[device] = Equipment(boards[id(group)], shares[device], place)
    return devices, round_s


def device_groups(scenario: Scenario) -> dict[str, Group]:
    """Each device's id with its group: the group's id, or the profile's name, and a number.

    Raises:
        UserError: two groups give the same ids.
    """
    groups: dict[str, Group] = {}
    num_named: dict[str, int] = {}
    for group in scenario.devices:
        prefix = group.id or Path(group.profile).stem[:48]
        for _ in range(group.count):
            num_named[prefix] = num_named.get(prefix, 0) + 1
            device = f"{prefix}-{num_named[prefix]}"
            if device in groups:
                raise UserError(f"two devices are called {device}: give their groups other ids")
            groups[device] = group
    return groups
