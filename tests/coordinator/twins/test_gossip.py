"""Devices that learn from streams, as a whole fleet on the virtual clock."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from coordinator.twins.result import to_json
from coordinator.twins.simulator import simulate
from firmware_profiles.errors import UserError

streams = runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "streams.py"))
NUM = 900


@pytest.fixture
def scenario(make_scenario, tmp_path):
    """A function of overrides: four devices share a stream of 900 samples, one each 20 ms."""
    path = streams["write_csv"](tmp_path / "stream.csv", NUM)

    def make(*overrides, data=None):
        return make_scenario(
            "strategy=gossip",
            f"data={data or path}",
            "partition=iid",
            "rounds=1",
            "gossip={windows: 5, sample_s: 0.02}",
            "devices.0.count=3",
            "devices.*.network.latency_ms=10",
            "telemetry_s=600",
            *overrides,
        )

    return make


def test_a_run_on_a_stream_is_repeatable_and_every_sample_counts_once(scenario):
    result = simulate(scenario())
    assert result == simulate(scenario())
    seen = result.streams
    assert seen is not None
    assert seen["samples"] == NUM
    assert sum(device["seen"] for device in seen["devices"]) == NUM
    assert result.accuracy == seen["accuracy"] > 0.9  # 0.977 is the best there is
    assert seen["f1"] > 0.9
    assert (result.rounds, len(result.accuracy_curve), len(seen["windows"])) == (1, 6, 5)
    assert sum(window["samples"] for window in seen["windows"]) == NUM
    assert result.client_updates == 20
    assert result.macs == 0
    told, heard = (sum(device[name] for device in seen["devices"]) for name in ("told", "heard"))
    assert 2.7 * told < heard <= 3 * told  # one message to all, three hear it, but for the last ones
    assert sum(device["repeats"] for device in seen["devices"]) == 0
    json.dumps(to_json(result), allow_nan=False)


def test_ages_are_near_their_formula(scenario):
    seen = simulate(
        scenario("gossip={windows: 5, sample_s: 0.02, news: {below: 1.0, demand_below: 0.0}}")
    ).streams
    assert seen is not None
    assert len(seen["ages"]) == 12
    for _device, _other, updates, _mean, peak, expected in seen["ages"]:
        assert updates > 100
        assert peak == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("delay", [20, 150])
def test_labels_come_late_and_none_is_lost(scenario, tmp_path, delay):
    path = streams["write_csv"](tmp_path / "late.csv", NUM)
    seen = simulate(scenario(data=f"{path}?delay={delay}")).streams
    assert seen is not None
    assert seen["samples"] == NUM
    assert all(device["is_over"] for device in seen["devices"])


def test_late_labels_of_a_device_that_is_killed_are_not_lost(scenario, tmp_path):
    path = streams["write_csv"](tmp_path / "late.csv", NUM)
    crash = "faults={crashes: [{device: two-1, at_s: 2.2, back_s: 2.9}]}"
    seen = simulate(scenario(crash, data=f"{path}?delay=60")).streams
    assert seen is not None
    assert seen["samples"] == NUM


def test_the_run_waits_for_devices_with_longer_streams(scenario):
    seen = simulate(scenario("partition=dirichlet:0.3")).streams
    assert seen is not None
    assert seen["samples"] == NUM
    assert len({device["seen"] for device in seen["devices"]}) > 1


def test_a_coordinator_that_is_away_near_the_end_loses_no_count(scenario):
    result = simulate(scenario("faults={crashes: [{device: coordinator, at_s: 2.2, back_s: 4.4}]}"))
    assert result.streams is not None
    assert result.streams["samples"] == NUM


def test_a_run_that_ends_before_its_first_report_says_so(scenario):
    with pytest.raises(UserError, match="before a device reported"):
        simulate(scenario("until_s=0.3"))


def test_a_drift_is_told(scenario, tmp_path):
    path = streams["write_csv"](tmp_path / "noise.csv", 2400, noise_from=1200)
    seen = simulate(scenario(data=path)).streams
    assert seen is not None
    drifts = [drift for device in seen["devices"] for drift in device["drifts"]]
    assert any(280 < sample < 400 and after > before + 0.2 for sample, before, after in drifts)


def test_a_device_that_is_cut_off_learns_on_and_its_counts_come_later(scenario):
    result = simulate(scenario("devices.1.network.outages_s=[[1.0, 2.5]]", "min_devices=4"))
    assert result.streams is not None
    assert result.streams["samples"] == NUM
    whole = simulate(scenario())
    assert whole.streams is not None
    assert abs(result.accuracy - whole.accuracy) < 0.03


def test_a_device_that_is_killed_goes_on_where_it_last_reported_and_each_sample_counts_once(scenario):
    result = simulate(scenario("faults={crashes: [{device: two-1, at_s: 2.2, back_s: 2.9}]}"))
    seen = result.streams
    assert seen is not None
    assert seen["samples"] == NUM


def test_the_papers_form_runs_over_the_same_wire(scenario):
    seen = simulate(scenario("strategy=gossip-paper")).streams
    assert seen is not None
    assert seen["samples"] == NUM
    assert seen["accuracy"] > 0.6


def test_sets_that_may_grow_larger_than_a_message_are_refused_before_anything_runs(scenario):
    with pytest.raises(UserError, match=r"lower ilvq\.max_prototypes"):
        simulate(
            scenario(
                "strategy=gossip-paper", "gossip={sets: {clustering: none}, ilvq: {max_prototypes: 50000}}"
            )
        )


def test_the_papers_form_takes_images(scenario):
    seen = simulate(
        scenario("strategy=gossip-paper", "devices.*.data_fraction=0.01", data="fashion-mnist-small")
    ).streams
    assert seen is not None
    assert seen["samples"] > 0


def test_the_papers_form_has_more_prototypes_than_it_begins_to_cluster_at(scenario):
    with pytest.raises(UserError, match="never clustered"):
        simulate(scenario("strategy=gossip-paper", "gossip={ilvq: {max_prototypes: 100}}"))


def test_the_fleets_prototypes_are_a_network_that_can_be_stored(scenario):
    digests = {simulate(scenario("seed=1")).weights_digest, simulate(scenario("seed=2")).weights_digest}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("budget_fraction=0.2", "sample_s"),
        ("num_validation=10", "num_validation"),
        ("subnets={choice: live}", "trains no network"),
        ("compression={scheme: int8}", "tell prototypes"),
        ("asynchrony={}", "trains no network"),
        ("gossip={news: {belo: 0.3}}", "below"),
        ("gossip={shares: sets}", "needs the learner ilvq"),
    ],
)
def test_what_means_nothing_for_streams_is_refused(scenario, override, told):
    with pytest.raises(UserError, match=told):
        simulate(scenario(override))


def test_settings_of_streams_mean_nothing_to_a_network(make_scenario):
    with pytest.raises(UserError, match="trains a network"):
        simulate(make_scenario("strategy=distreal", "gossip={windows: 3}"))
