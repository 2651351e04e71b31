from __future__ import annotations

import json

import pytest

from coordinator.twins.result import to_json
from coordinator.twins.simulator import simulate
from firmware_profiles.errors import UserError

ASYNC = (
    "strategy=async",
    "rounds=4",
    "asynchrony.buffer_size=2",
    "devices.1.speed.core_seconds_per_mac=2.4e-7",
)
"""Two devices, the second a quarter as fast."""


_runs = []


@pytest.fixture
def run(make_scenario):
    """The same for every test that asks: it takes a second."""
    if not _runs:
        _runs.append(simulate(make_scenario(*ASYNC)))
    return _runs[0]


def test_versions_are_made_of_buffers_and_the_fast_device_does_not_wait(run):
    assert len(run.accuracy_curve) == 5
    assert run.client_updates == 8
    fast, slow = run.devices
    assert fast.updates > 2 * slow.updates > 0


def test_the_result_says_how_late_updates_were(run):
    assert sum(run.staleness.values()) == run.client_updates
    assert any(int(late) > 0 for late in run.staleness)
    assert json.loads(json.dumps(to_json(run)))["staleness"] == run.staleness


def test_the_same_seed_gives_the_same_weights(make_scenario, run):
    assert simulate(make_scenario(*ASYNC)).weights_digest == run.weights_digest


def test_rounds_wait_for_the_slow_device_where_buffers_do_not(make_scenario, run):
    in_rounds = simulate(make_scenario("strategy=full", "rounds=4", ASYNC[-1]))
    assert in_rounds.client_updates == run.client_updates
    assert run.virtual_s < 0.7 * in_rounds.virtual_s


def test_a_coordinator_that_is_killed_goes_on_and_applies_each_update_once(make_scenario, run):
    crash = "faults.crashes=[{device: coordinator, at_s: 9, back_s: 12}]"
    hurt = simulate(make_scenario(*ASYNC, crash))
    assert len(hurt.accuracy_curve) == len(run.accuracy_curve)
    assert hurt.client_updates == sum(hurt.staleness.values()) == run.client_updates


def test_any_method_that_averages_goes_without_rounds_if_told_so(make_scenario):
    run = simulate(make_scenario("rounds=2", "asynchrony.fairness=rate", "asynchrony.buffer_size=1"))
    assert (run.strategy, run.client_updates) == ("distreal", 2)


def test_a_key_that_asynchrony_does_not_have_is_refused(make_scenario):
    with pytest.raises(UserError, match="buffer_size"):
        make_scenario("asynchrony.bufer_size=2")
