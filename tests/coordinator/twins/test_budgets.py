"""Shares of the full network as seconds and bytes."""

from dataclasses import replace

import msgspec
import pytest

from coordinator.twins.budgets import Load, full_cost, granted_cores, limited, round_seconds
from coordinator.twins.groups import BoardSpeed, Group
from coordinator.twins.trace_kinds import Ramp, Resources
from coordinator.twins.traces import Place, make_sensors
from coordinator.twins.twin import load_board
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy
from models.cost import Cost
from models.zoo import load_model

FULL = Cost(1, 1000, 1, 100, 1_000_000)
"""1000 training MACs and 100 bytes of activations a sample, a megabyte a mini-batch of 10."""


def load(others=0.0, core_seconds_per_mac=1e-4, num_batches=2, **group):
    """A device that computes 1 s for a full mini-batch of 10, on four cores with one thread."""
    board = load_board(
        Group(
            profile="raspberry-pi-4",
            speed=BoardSpeed(core_seconds_per_mac=core_seconds_per_mac),
            policy=Policy(max_cpu_share_fraction=1.0),
            resources=Resources(cpu_others_fraction=others),
            **group,
        )
    )
    return Load(board, "seed", Place(), num_batches)


def test_a_free_device_needs_its_pass():
    assert round_seconds(1.0, [load()], FULL, 10) == pytest.approx(2.0)
    assert round_seconds(0.2, [load()], FULL, 10) == pytest.approx(0.4)


def test_the_mean_is_one_of_shares_so_that_fast_devices_count_most():
    slow = load(core_seconds_per_mac=3e-4)
    assert round_seconds(1.0, [load(), slow], FULL, 10) == pytest.approx(1 / ((1 / 2 + 1 / 6) / 2))


def test_what_others_use_is_not_there():
    assert round_seconds(1.0, [load(others=0.875)], FULL, 10) == pytest.approx(4.0)


def test_a_trace_counts_with_its_mean_over_its_span():
    half = load(others=Ramp(points=((0.0, 0.75), (100.0, 0.95))))
    assert round_seconds(1.0, [half], FULL, 10) == pytest.approx(2.0 / 0.6, rel=0.01)


def test_activation_bytes_take_time_where_the_board_says_so():
    one = load()
    model = replace(one.board.model, core_seconds_per_activation_byte=1e-3)
    dearer = replace(one, board=replace(one.board, model=model))
    assert round_seconds(1.0, [dearer], FULL, 10) == pytest.approx(4.0)


def test_a_fleet_that_may_never_train_has_no_budget():
    with pytest.raises(UserError, match="no device may ever train"):
        round_seconds(0.5, [load(others=1.0)], FULL, 10)


def test_a_pause_counts_as_nothing():
    one = load(others=Ramp(points=((0.0, 1.0), (10.0, 1.0))))
    read = make_sensors(one.board.group.resources, one.board.profile, "seed")
    assert granted_cores(one.board, read, 0.0, 10.0, 4) == 0.0


def test_memory_is_a_share_of_the_full_network_and_never_more_than_the_policy_allows():
    board = load(memory_fraction=0.25).board
    assert limited(board, FULL).policy.max_memory_bytes == 250_000
    strict = replace(board, policy=msgspec.structs.replace(board.policy, max_memory_bytes=1000))
    assert limited(strict, FULL).policy.max_memory_bytes == 1000
    assert limited(load().board, FULL).policy.max_memory_bytes is None


def test_the_full_network_is_the_model_s_own():
    graph = load_model("cnn-28", (1, 28, 28), 10)[0]
    assert full_cost(graph, 8).macs_training == 16_725_888
