from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.strategies.names import STRATEGIES
from device_agent.strategies.names import DEVICE_STRATEGIES
from firmware_profiles.resources import Pause
from models.table import TableEntry

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "tiny_fleet.py")))

TABLE = tiny.make_bundle().table
SMALL, MIDDLE, WHOLE = TABLE.entries


def seconds_by_macs(entry):
    """1 ms for the full vector, less for the others."""
    return 0.001 * entry.macs / WHOLE.macs


def choose(name, budget, num_cores=1):
    return DEVICE_STRATEGIES[name].choose(TABLE, budget, num_cores, seconds_by_macs)


def test_every_strategy_has_both_halves_under_one_name():
    assert set(STRATEGIES) == set(DEVICE_STRATEGIES)
    assert all(STRATEGIES[name][0] is half for name, half in DEVICE_STRATEGIES.items())


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_a_rich_budget_trains_the_full_network(name):
    assert choose(name, tiny.make_budget()) is WHOLE


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_memory_too_small_for_the_network_pauses_and_says_so(name):
    pause = choose(name, tiny.make_budget(memory_bytes=10))
    assert isinstance(pause, Pause)
    assert "memory" in pause.reason or "MiB" in pause.reason


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_a_choice_is_an_entry_of_the_table_or_a_pause(name):
    for share in (0.01, 0.3, 1.0):
        for left in (1, 10_000, 10**9):
            assert isinstance(
                choose(name, tiny.make_budget(share=share, num_batches_left=left)), (TableEntry, Pause)
            )


def test_distreal_takes_a_smaller_vector_with_half_the_cpu():
    budget = tiny.make_budget(share=0.5, time_left_s=1.0, num_batches_left=1000)
    assert choose("distreal", budget) is MIDDLE


def test_distreal_takes_the_full_vector_again_when_the_cpu_is_back():
    assert choose("distreal", tiny.make_budget(time_left_s=1.0, num_batches_left=1000)) is WHOLE


def test_distreal_pauses_below_the_cheapest_vector_and_says_why():
    pause = choose("distreal", tiny.make_budget(share=0.01, time_left_s=1.0, num_batches_left=1000))
    assert isinstance(pause, Pause)
    assert pause.reason.startswith("time:")


def test_full_trains_the_full_network_however_little_time_is_left():
    assert choose("full", tiny.make_budget(share=0.01, time_left_s=0.001, num_batches_left=1000)) is WHOLE
