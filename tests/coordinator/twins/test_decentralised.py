"""Devices that learn from each other, as a whole fleet on the virtual clock."""

from __future__ import annotations

import json

import pytest

from coordinator.twins.result import to_json
from coordinator.twins.simulator import simulate
from firmware_profiles.errors import UserError

QUICK = (
    "devices.*.speed={core_seconds_per_mac: 1.0e-12, core_seconds_per_step: 0.25}",
    "devices.*.network.latency_ms=10",
    "devices.0.count=3",
    "peers={barrier_s: 0.5, window: 6}",
    "topology={kind: ring}",
    "rounds=18",
    "measure_samples=20",
    "telemetry_s=600",
    "optimizer={method: sgd, learning_rate: 0.05, momentum: 0.9}",
)


@pytest.fixture
def scenario(make_scenario):
    """A function of overrides: four devices in a ring, 18 barriers."""
    return lambda *overrides: make_scenario("strategy=dsgd", *QUICK, *overrides)


def test_a_run_without_a_server_is_repeatable_and_tells_what_was_seen(scenario):
    result = simulate(scenario())
    assert result == simulate(scenario())
    assert result.rounds == 18
    assert len(result.accuracy_curve) == 4  # the start and three windows
    assert result.client_updates == 12
    seen = result.peers
    assert seen is not None
    assert seen["barriers"] == [18] * 4
    assert seen["devices"] == ["one-1", "one-2", "one-3", "two-1"]
    assert sum(seen["staleness"]) >= 4 * 17  # a step fits between two barriers; the last may be on its way
    assert [window["devices"] for window in seen["consensus_distance"]] == [4] * 3
    assert all(window["distance"] > 0 for window in seen["consensus_distance"])
    assert all(sent > 0 for sent in seen["bytes_sent"])
    assert seen["num_links"] == len(seen["links"]) == 4  # of each pair one begins
    for _one, _other, begun, completed, taken_back, one_sided in seen["links"]:
        assert begun >= completed >= 14
        assert (taken_back, one_sided) == (0, 0)
    assert [at_s for at_s, _mean, _least in result.node_accuracy_curve] == [3.0, 6.0, 9.0]
    assert all(least <= mean for _at_s, mean, least in result.node_accuracy_curve)
    json.dumps(to_json(result), allow_nan=False)


def test_devices_without_a_server_learn(scenario):
    result = simulate(scenario("rounds=40", "peers.window=20"))
    assert result.accuracy > result.accuracy_curve[0][1] + 0.3
    assert result.node_accuracy_curve[-1][1] > result.accuracy_curve[0][1] + 0.3


@pytest.mark.parametrize("strategy", ["dsgd-discard", "dsgd-synchronous", "ad-psgd", "swift", "epidemic"])
def test_every_strategy_without_a_server_comes_to_its_end(scenario, strategy):
    topology = ["topology={}"] if strategy == "epidemic" else []
    result = simulate(scenario(f"strategy={strategy}", "rounds=6", "peers.window=3", *topology))
    assert result.peers is not None
    assert min(result.peers["barriers"]) >= 6
    assert result.updates_refused == 0


def test_links_that_lose_messages_show_in_the_link_matrix(scenario):
    whole, lossy = (
        simulate(scenario("rounds=12", *more)) for more in ([], ["faults.links=[{loss_fraction: 0.5}]"])
    )
    completed = [sum(link[3] for link in result.peers["links"]) for result in (whole, lossy)]
    assert 0 < completed[1] < 0.8 * completed[0]


def test_devices_go_on_while_the_coordinator_is_away(scenario):
    crash = "faults.crashes=[{at_s: 2, back_s: 8, device: coordinator}]"
    result = simulate(scenario("rounds=12", crash))
    assert result.peers is not None
    assert result.virtual_s > 11
    assert min(result.peers["barriers"]) >= 21  # every 0.5 s, orders or not
    assert result.updates_refused == 0


def test_steps_with_a_tail_make_gradients_late(scenario):
    result = simulate(scenario("rounds=12", "devices.*.step_exponential_s=1.0"))
    assert result.peers is not None
    assert sum(result.peers["staleness"][1:]) > 0


def test_a_run_can_end_at_a_time(scenario):
    result = simulate(scenario("until_s=7"))
    assert (result.virtual_s, result.rounds) == (7.0, 12)
    assert len(result.class_accuracy) == 10


def test_a_pass_over_the_data_means_nothing_without_rounds(scenario):
    with pytest.raises(UserError, match="leave budget_fraction out"):
        simulate(scenario("budget_fraction=0.5"))
