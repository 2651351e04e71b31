"""The scenarios that ship: each can be read, and those of the study do what their comments say."""

import json
from pathlib import Path

import msgspec
import pytest

from coordinator.comparing.plan import read_methods
from coordinator.method import resolve_method
from coordinator.strategies.presets import PRESETS
from coordinator.twins.equipment import equip
from coordinator.twins.scenario import load_scenario
from coordinator.twins.simulator import simulate
from models.cost import cost
from models.data.dataset import load_data
from models.subnet import uniform_vector
from models.widths import plan_widths
from models.zoo import load_model

FOLDER = Path(__file__).parents[3] / "examples" / "scenarios"
FAMILIES = sorted(FOLDER.glob("distreal_*.yaml"))
METHODS = read_methods(FOLDER / "methods.yaml")


@pytest.mark.parametrize("path", sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "methods.yaml"}), ids=str)
def test_a_scenario_that_ships_is_valid(path):
    assert load_scenario(path).num_devices > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_ships_fits_the_scenarios(method):
    keys = [f"{key}={json.dumps(value)}" for key, value in METHODS[method].items()]
    scenario = load_scenario(FAMILIES[0], keys)
    assert resolve_method(scenario.method, subnets=scenario.subnets, averages=scenario.averages)


def test_every_preset_of_rounds_is_among_the_methods():
    ran = {"distreal-paper" if keys.get("paper") else keys["strategy"] for keys in METHODS.values()}
    in_rounds = {
        name
        for name, preset in PRESETS.items()
        if preset.peers is None and preset.asynchrony is None and preset.gossip is None
    }
    assert ran == in_rounds


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_the_study_has_a_hundred_devices_ten_a_round_at_four_speeds(path):
    scenario = load_scenario(path)
    speeds = {group.speed.core_seconds_per_mac for group in scenario.devices}
    assert (scenario.num_devices, scenario.devices_per_round) == (100, 10)
    assert [min(speeds) / speed for speed in sorted(speeds)] == [1, 1 / 2, 1 / 4, 1 / 8]


def boards(name):
    """Each device's board with its order's seconds, on the data that ships."""
    scenario = load_scenario(FOLDER / name)
    graph = load_model(scenario.model)[0]
    equipped, round_s = equip(scenario, load_data(scenario.data).train, lambda: graph, 0)
    return scenario, graph, equipped, round_s


def test_half_of_the_fleet_of_the_batch_limited_scenario_cannot_finish_one_mini_batch():
    scenario, graph, equipped, round_s = boards("distreal_batch.yaml")
    plan = plan_widths(graph)
    full = cost(graph, plan, tuple(group.num_channels for group in plan.groups), scenario.batch_size)
    idle_cores = 4
    mean_free_fraction = 0.55
    slow = [
        name
        for name, one in equipped.items()
        if one.board.model.core_s(
            full.macs_training * scenario.batch_size, full.activation_bytes * scenario.batch_size
        )
        > round_s * idle_cores * mean_free_fraction
    ]
    assert len(slow) == 50


def test_the_tight_half_of_the_memory_limited_scenario_fits_small_sub_networks_and_not_large_ones():
    scenario, graph, equipped, _ = boards("distreal_memory.yaml")
    plan = plan_widths(graph)
    tight = [one.board.policy.max_memory_bytes for name, one in equipped.items() if name.startswith("tight")]
    needed = {
        keep: cost(graph, plan, uniform_vector(plan, keep), scenario.batch_size).memory_bytes
        for keep in (0.125, 0.5)
    }
    assert len(tight) == 50
    assert needed[0.125] <= tight[0] < needed[0.5]


def test_a_scenario_of_the_study_runs():
    scenario = load_scenario(
        FOLDER / "distreal_memory.yaml", ["rounds=1", "devices_per_round=2", "measure_samples=50"]
    )
    result = simulate(msgspec.structs.replace(scenario, compare=None))
    assert len(result.class_accuracy) == 10
    assert result.virtual_s > 0


def test_the_scenario_on_a_stream_runs_and_every_sample_counts_though_a_board_is_out_of_reach():
    scenario = load_scenario(FOLDER / "gossip.yaml")
    seen = simulate(msgspec.structs.replace(scenario, compare=None)).streams
    assert seen is not None
    assert seen["samples"] == 3000
    assert len(seen["devices"]) == len(scenario.devices) == 5
    assert seen["accuracy"] > 0.92
    assert all(device["told"] and device["heard"] for device in seen["devices"])
    worst = min(seen["windows"], key=lambda window: window["accuracy"])
    assert worst["window"] in (7, 8)  # the classes swap in the 8th twelfth of the stream
