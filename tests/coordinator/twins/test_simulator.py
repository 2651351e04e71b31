"""A whole fleet on the virtual clock: the same cores, made repeatable."""

import logging

import numpy as np
import pytest

from coordinator.settings import LearningConfig
from coordinator.twins import simulator
from coordinator.twins.equipment import device_groups
from coordinator.twins.simulator import simulate
from firmware_profiles.errors import UserError

POOR_LINK = (
    "devices.*.network={latency_ms: 200, jitter_ms: 300, up_kbit_s: 2000, down_kbit_s: 4000, "
    "loss_fraction: 0.2}"
)


def mean_macs(result, device):
    (told,) = [told for told in result.devices if told.id == device]
    return told.macs / told.steps


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_same_seed_gives_the_same_result(make_scenario, engine):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    scenario = make_scenario("devices.*.step_jitter_fraction=0.2", POOR_LINK, f"engine={engine}")
    result = simulate(scenario, 3)
    assert result == simulate(scenario, 3)
    assert result.engine == engine


def test_watching_a_run_changes_nothing(make_scenario):
    moments = []
    assert simulate(make_scenario(), progress=moments.append) == simulate(make_scenario())
    assert moments[-1].round == 2


def test_another_seed_gives_other_weights(make_scenario):
    one, other = (simulate(make_scenario("rounds=1"), seed) for seed in (1, 2))
    assert one.weights_digest != other.weights_digest


def test_a_fleet_learns(make_scenario):
    result = simulate(make_scenario("rounds=6"))
    first, last = result.accuracy_curve[0][1], result.accuracy_curve[-1][1]
    assert len(result.accuracy_curve) == 7
    assert last == result.accuracy > first + 0.3


def test_every_device_contributes_once_a_round(make_scenario):
    result = simulate(make_scenario())
    assert [(device.id, device.updates, device.steps) for device in result.devices] == [
        ("one-1", 2, 10),
        ("two-1", 2, 10),
    ]
    assert result.client_updates == 4


def test_a_steps_seconds_are_those_of_the_board(make_scenario):
    fast = simulate(make_scenario("rounds=1", "strategy=full"))
    slow = simulate(make_scenario("rounds=1", "strategy=full", "devices.1.speed.core_seconds_per_mac=12e-8"))
    step_s = 8 * 2_718_144 * 6e-8
    assert fast.virtual_s == pytest.approx(5 * step_s, rel=0.02)
    assert slow.virtual_s == pytest.approx(5 * 2 * step_s, rel=0.02)


def test_a_granted_share_stretches_the_steps(make_scenario):
    result = simulate(
        make_scenario("rounds=1", "strategy=full", "devices.*.policy.max_cpu_share_fraction=0.125")
    )
    assert result.virtual_s == pytest.approx(2 * 5 * 8 * 2_718_144 * 6e-8, rel=0.02)


def test_a_busy_device_trains_smaller_networks(make_scenario):
    busy = ["round_s=8", "devices.1.resources.cpu_others_fraction=0.85"]
    result = simulate(make_scenario(*busy, "subnets.choice=live"))
    assert mean_macs(result, "two-1") < 0.75 * mean_macs(result, "one-1")


def test_load_that_ends_gives_the_large_networks_back(make_scenario):
    load = "devices.*.resources.cpu_others_fraction={kind: steps, points: [[0, 0.9], [8, 0]]}"
    result = simulate(make_scenario("round_s=8", load))
    vectors = result.devices[0].vectors
    assert "12-24-32" in vectors
    assert len(vectors) > 1


def test_a_battery_below_the_policy_pauses_a_device_with_the_reason(make_scenario):
    result = simulate(
        make_scenario(
            "devices.1.policy.min_battery_fraction=0.5",
            "devices.1.resources.charging=false",
            "devices.1.resources.battery_fraction={kind: ramp, points: [[0, 0.6], [20, 0.4]]}",
        )
    )
    (time_s, reason), *_ = result.devices[1].pauses
    assert time_s >= 10.0
    assert "below min_battery 50 %" in reason
    assert result.devices[1].paused_s > 0
    assert result.devices[0].pauses == ()


def test_a_device_that_may_not_train_declines_and_the_others_go_on(make_scenario):
    result = simulate(make_scenario("devices.1.resources={battery_fraction: 0.1, charging: false}"))
    assert [device.updates for device in result.devices] == [2, 0]
    assert result.client_updates == 2


@pytest.mark.parametrize("seed", range(3))
def test_over_links_that_lose_and_delay_each_update_is_applied_once(make_scenario, seed):
    perfect, poor = simulate(make_scenario(), seed), simulate(make_scenario(POOR_LINK), seed)
    assert (
        [device.updates for device in poor.devices]
        == [device.updates for device in perfect.devices]
        == [2, 2]
    )
    assert (poor.client_updates, poor.updates_expired, poor.updates_refused) == (4, 0, 0)
    assert poor.virtual_s > perfect.virtual_s + 1.0


def test_an_outage_delays_an_update_and_loses_none(make_scenario):
    result = simulate(make_scenario("devices.1.network.outages_s=[[3, 12]]"))
    assert [device.updates for device in result.devices] == [2, 2]
    assert result.accuracy_curve[1][0] >= 12.0


def test_a_fleet_whose_devices_never_come_is_given_up_with_the_reason(make_scenario):
    with pytest.raises(UserError, match=r"after 100 virtual s round 1 of 2 is still waiting"):
        simulate(make_scenario("limit_s=100", "devices.1.network.outages_s=[[0, 1000]]"))


def test_a_fleet_that_may_never_train_is_given_up_with_the_reason(make_scenario):
    with pytest.raises(UserError, match=r"two-1 \w+ \(battery 10 % is below min_battery 30 %\)"):
        simulate(make_scenario("limit_s=100", "devices.*.resources={battery_fraction: 0.1, charging: false}"))


def test_bytes_and_messages_are_counted_at_the_senders(make_scenario):
    result = simulate(make_scenario("rounds=1"))
    assert result.bytes_sent > sum(device.bytes_sent for device in result.devices) > 0
    assert result.messages_sent > 10


def test_vector_shares_add_up(make_scenario):
    result = simulate(make_scenario("round_s=8", "devices.1.resources.cpu_others_fraction=0.85"))
    assert sum(result.vector_shares.values()) == pytest.approx(1.0, abs=1e-3)


def test_a_device_may_have_a_part_of_its_data(make_scenario):
    result = simulate(make_scenario("rounds=1", "devices.1.data_fraction=0.25"))
    assert [device.num_samples for device in result.devices] == [40, 10]


TINY = ("devices.*.num_threads=4", "telemetry_s=60")


def test_a_version_is_measured_on_validation_samples_by_class_and_at_last_on_all(make_scenario, monkeypatch):
    data = simulator.prepare_learning(LearningConfig(model="cnn-tiny-28", data=make_scenario().data)).data
    seen = []
    measure = simulator.measure

    def measure_and_note(engine, weights, calibration, held_out):
        seen.append(held_out)
        return measure(engine, weights, calibration, held_out)

    monkeypatch.setattr(simulator, "measure", measure_and_note)
    aside = ("measure_on=validation", "num_validation=30", "measure_samples=10")
    result = simulate(make_scenario(*TINY, *aside))
    assert [len(held_out) for held_out in seen] == [10, 10, 30]
    test_images = {image.tobytes() for image in data.test.samples}
    assert not test_images & {image.tobytes() for held_out in seen for image in held_out.samples}
    assert sum(device.num_samples for device in result.devices) == 50
    assert result.measured_on == "validation"
    of_class = np.bincount(seen[-1].labels, minlength=10)
    by_class = np.array([accuracy or 0.0 for accuracy in result.class_accuracy])
    assert by_class @ of_class / 30 == pytest.approx(result.accuracy)
    assert [accuracy is None for accuracy in result.class_accuracy] == (of_class == 0).tolist()


def test_a_budget_is_a_share_of_a_pass_with_the_full_network(make_scenario):
    half = simulate(make_scenario(*TINY, "rounds=1", "strategy=full", "budget_fraction=0.5"))
    assert [device.steps for device in half.devices] == [2, 2]
    assert half.budget_used_fraction == pytest.approx(0.8, abs=0.1)
    narrow = simulate(make_scenario(*TINY, "rounds=1", "base_width=0.5", "budget_fraction=0.5"))
    assert narrow.round_s == half.round_s


def test_a_device_of_little_memory_trains_smaller_networks_and_the_rest_of_its_budget_is_unused(
    make_scenario,
):
    tight = ("devices.1.memory_fraction=0.7", "subnets={micro_batch: 0}")
    result = simulate(make_scenario(*TINY, "rounds=1", *tight))
    assert mean_macs(result, "two-1") < 0.6 * mean_macs(result, "one-1")
    used = [device.computed_core_s / device.granted_core_s for device in result.devices]
    assert used[1] < 0.6 * used[0]


def test_a_device_of_little_memory_trains_wide_networks_in_parts(make_scenario):
    result = simulate(make_scenario(*TINY, "rounds=1", "devices.1.memory_fraction=0.7"))
    assert mean_macs(result, "two-1") > 0.9 * mean_macs(result, "one-1")


def test_each_round_asks_as_many_devices_as_it_says(make_scenario):
    result = simulate(make_scenario(*TINY, "devices.*.count=2", "devices_per_round=1", "rounds=3"))
    assert sum(device.updates for device in result.devices) == 3


def test_less_telemetry_is_fewer_messages_and_the_same_model(make_scenario):
    much, little = (
        simulate(
            make_scenario(*TINY, "round_s=5", "devices.*.speed.core_seconds_per_mac=1e-7", f"telemetry_s={s}")
        )
        for s in (0.5, 600)
    )
    assert little.messages_sent < much.messages_sent
    assert little.weights_digest == much.weights_digest


def test_a_twin_knows_its_board_s_speed_and_begins_nothing_it_cannot_finish(make_scenario):
    slow = ("devices.1.speed.core_seconds_per_mac=1e-5", "strategy=full", "round_s=4", "rounds=1")
    result = simulate(make_scenario(*TINY, *slow))
    assert [device.steps > 0 for device in result.devices] == [True, False]


def test_labels_of_a_group_stay_with_it(make_scenario):
    result = simulate(make_scenario(*TINY, "rounds=1", "devices.0.labels=[0, 1, 2]"))
    assert [device.num_samples for device in result.devices] == [40, 40]


def test_the_paper_s_form_is_a_method_of_its_own(make_scenario):
    ours, paper = (simulate(make_scenario(*TINY, "round_s=0.2", *more)) for more in ((), ("paper=true",)))
    assert ours.weights_digest != paper.weights_digest


def test_a_profile_without_a_speed_says_what_to_do(make_scenario):
    with pytest.raises(UserError, match="has no speed for engine ort-training"):
        simulate(make_scenario("devices.0.speed=null", "devices.0.engine=ort-training"))


def test_groups_of_one_profile_count_on(make_scenario):
    scenario = make_scenario("devices.*.id=null", "devices.0.count=2")
    assert list(device_groups(scenario)) == ["raspberry-pi-4-1", "raspberry-pi-4-2", "raspberry-pi-4-3"]


def test_a_run_logs_no_warning(make_scenario, caplog):
    with caplog.at_level(logging.WARNING):
        simulate(make_scenario(POOR_LINK))
    assert caplog.records == []
