from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.effects import Evaluate, Finished
from coordinator.orders import MAX_BATCHES
from coordinator.rounds import MAX_PATIENCE
from device_agent.effects import Announce, CancelTimer, SetTimer
from device_agent.wire.codec import encode, refer
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Decline,
    Envelope,
    Run,
    Status,
)
from models.weights import pack

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
tiny, Fleet, make_update, scaled = rounds.tiny, rounds.Fleet, rounds.make_update, rounds.scaled

BUNDLE, WEIGHTS = rounds.BUNDLE, rounds.WEIGHTS
DEADLINE_S, GRACE_S = rounds.DEADLINE_S, rounds.GRACE_S


# ---------------------------------------------------------------- opening


def test_a_run_waits_for_its_devices():
    fleet = Fleet(devices=2).join("a")
    assert fleet.core.state == "waiting"
    assert fleet.orders() == []


def test_enough_devices_open_the_first_round_with_an_order_for_each():
    fleet = Fleet(devices=2).join("a", "b")
    assert fleet.core.state == "open"
    assert [send.to for send in fleet.orders()] == ["a", "b"]


def test_a_device_counts_once_it_is_online_and_has_said_hello():
    fleet = Fleet(devices=1)
    fleet.do(fleet.core.on_hello(fleet.now_s, "a", tiny.make_hello(device="a")))
    assert fleet.core.state == "waiting"
    fleet.do(fleet.core.on_status(fleet.now_s, "a", Status(online=True, boot_epoch=1)))
    assert fleet.core.state == "open"


def test_an_order_names_what_to_train_on_which_version_and_until_when():
    fleet = Fleet(devices=1, passes=2.0, learning_rates=(0.05, 0.02)).join("a", num_samples=10)
    (send,) = fleet.orders("a")
    order = send.body
    assert (send.run, send.base_version, send.base_digest) == ("run-a", 0, fleet.core.weights_ref.digest)
    assert (order.bundle, order.weights) == (fleet.core.bundle_ref, fleet.core.weights_ref)
    assert (order.round, order.num_batches, order.deadline_s) == (1, 6, DEADLINE_S)
    assert (order.strategy, order.learning_rate) == ("distreal", 0.05)


def test_orders_of_different_devices_have_numbers_and_seeds_of_their_own():
    fleet = Fleet(devices=3).join("a", "b", "c")
    assert len({send.body.order for send in fleet.orders()}) == 3
    assert len({send.body.seed for send in fleet.orders()}) == 3


def test_an_order_for_endless_data_still_fits_its_update_into_a_message():
    fleet = Fleet(devices=1).join("a", num_samples=2**50)
    (send,) = fleet.orders("a")
    assert send.body.num_batches == MAX_BATCHES
    update = make_update(
        send.body, step_vectors=(200,) * MAX_BATCHES, vectors=tuple((1,) for _ in range(201))
    )
    encode(Envelope(schema=SCHEMA_VERSION, run="r", sender="a", boot_epoch=1, sequence=1, body=update))


def test_orders_after_a_restart_of_the_coordinator_are_newer_than_all_before():
    before, after = Fleet(devices=1).join("a"), Fleet(devices=1)
    after.core.boot_epoch = 2
    after.join("a")
    assert after.orders()[0].body.order > before.orders()[0].body.order


def test_the_last_learning_rate_holds_when_a_round_goes_beyond_the_list():
    fleet = Fleet(devices=1, learning_rates=(0.05,), round=3).join("a")
    assert fleet.orders()[0].body.learning_rate == 0.05


def test_a_device_without_samples_gets_no_order():
    fleet = Fleet(devices=2).join("a").join("empty", num_samples=0)
    assert [send.to for send in fleet.orders()] == ["a"]


@pytest.mark.parametrize(
    "changes", [{"input_shape": (28, 28)}, {"num_classes": 10}], ids=["shape", "classes"]
)
def test_a_device_whose_data_do_not_fit_is_left_out_with_a_note(changes):
    fleet = Fleet(devices=1).join("a", **changes)
    assert fleet.orders() == []
    assert "device with unfit data left out" in tiny.events(fleet.effects)


def test_a_device_whose_samples_lack_an_axis_of_length_1_takes_part():
    fleet = Fleet(devices=1).join("a", input_shape=(1, *rounds.BUNDLE.graph.input_shape))
    assert len(fleet.orders("a")) == 1


def test_a_hello_under_anothers_topic_is_dropped():
    fleet = Fleet(devices=1)
    effects = fleet.core.on_hello(0.0, "a", tiny.make_hello(device="b"))
    assert tiny.events(effects) == ["hello under another's topic dropped"]


def test_the_fleet_is_told_what_the_run_is_doing():
    fleet = Fleet(devices=1)
    fleet.join("a")
    told = [effect.message for effect in tiny.of_kind(fleet.effects, Announce)]
    assert [(run.state, run.round, run.model_version) for run in told] == [
        ("waiting", 1, 0),
        ("training", 1, 0),
    ]
    again = [effect.message for effect in fleet.core.on_connected()]
    assert again == [told[-1]]
    assert isinstance(again[0], Run)


def test_the_first_model_is_measured_before_anything_is_trained():
    fleet = Fleet(devices=1)
    assert [effect.version for effect in tiny.of_kind(fleet.effects, Evaluate)] == [0]


# ---------------------------------------------------------------- closing


def test_a_round_closes_as_soon_as_all_have_answered():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    assert fleet.core.state == "open"
    fleet.update("b")
    (commit,) = fleet.commits
    assert (commit.version, commit.round, len(commit.settled)) == (1, 1, 2)


def test_a_round_that_closes_early_cancels_its_timer():
    fleet = Fleet(devices=1).join("a")
    fleet.commit_at_once = False
    assert CancelTimer("close") in fleet.update("a")


def test_a_round_closes_at_deadline_and_grace_with_what_is_there():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.wait(DEADLINE_S + GRACE_S - 0.5)
    assert fleet.commits == []
    fleet.wait(0.5)
    (commit,) = fleet.commits
    assert [settled.device for settled in commit.settled] == ["a"]


@pytest.mark.parametrize("early_s", [0.0, 1e-9, 1e-3])
def test_a_close_timer_that_fires_a_breath_early_still_closes_the_round(early_s):
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.now_s = fleet.core.closes_at_s - early_s
    fleet.do(fleet.core.on_timer(fleet.now_s, "close"))
    assert len(fleet.commits) == 1


def test_the_close_timer_is_set_for_deadline_and_grace():
    fleet = Fleet(devices=1).join("a")
    (timer,) = tiny.of_kind(fleet.effects, SetTimer)
    assert timer == SetTimer("close", DEADLINE_S + GRACE_S)


def test_the_new_model_is_the_old_one_and_the_weighted_mean_of_the_deltas():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", delta=scaled(0.1), num_samples=2)
    fleet.update("b", delta=scaled(0.4), num_samples=4)
    for name, value in fleet.commits[0].weights.items():
        np.testing.assert_allclose(value, WEIGHTS[name] + (2 * 0.1 + 4 * 0.4) / 6, rtol=1e-5)


def test_the_next_round_builds_on_the_new_version():
    fleet = Fleet(devices=1).join("a").finish_round("a")
    first, second = fleet.orders("a")
    assert (second.base_version, second.body.round) == (1, 2)
    assert second.body.weights == refer(pack(fleet.commits[0].weights))
    assert second.body.order > first.body.order


def test_each_version_is_measured():
    fleet = Fleet(devices=1, num_rounds=2).join("a").finish_round("a").finish_round("a", sequence=2)
    assert [effect.version for effect in tiny.of_kind(fleet.effects, Evaluate)] == [0, 1, 2]


def test_a_stray_timer_changes_nothing():
    fleet = Fleet(devices=2).join("a")
    assert fleet.core.on_timer(10**6, "close") == []
    fleet.join("b")
    assert fleet.core.on_timer(10**6, "other") == []


# ---------------------------------------------------------------- devices that come and go


def test_a_device_that_joins_in_the_middle_gets_the_time_that_is_left():
    fleet = Fleet(devices=1).join("a")
    fleet.now_s += 40.0
    fleet.join("late")
    (send,) = fleet.orders("late")
    assert send.body.deadline_s == DEADLINE_S - 40.0
    fleet.update("a")
    assert fleet.commits == []
    fleet.update("late")
    assert len(fleet.commits[0].settled) == 2


def test_a_device_that_joins_near_the_end_waits_for_the_next_round():
    fleet = Fleet(devices=1).join("a")
    fleet.now_s += 80.0
    fleet.join("late")
    assert fleet.orders("late") == []
    fleet.update("a")
    assert [send.body.round for send in fleet.orders("late")] == [2]


def test_a_device_restarted_in_mid_round_gets_its_order_again_with_the_time_that_is_left():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.now_s += 10.0
    fleet.leave("a")
    fleet.join("a", boot_epoch=2)
    first, again = fleet.orders("a")[0], fleet.orders("a")[-1]
    assert again.body.order == first.body.order
    assert again.body.deadline_s == DEADLINE_S - 10.0


def test_a_device_restarted_after_it_answered_gets_no_second_order_in_the_round():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.join("a", boot_epoch=2)
    assert len(fleet.orders("a")) == 1


def test_a_device_that_lost_its_connection_and_came_back_is_told_the_same_order():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.leave("a")
    fleet.join("a")
    assert len({(send.body.order, send.body.seed) for send in fleet.orders("a")}) == 1


def test_the_will_of_an_earlier_life_is_ignored():
    fleet = Fleet(devices=1).join("a", boot_epoch=2)
    assert fleet.leave("a", boot_epoch=1) == []
    assert fleet.core.devices["a"].online


def test_a_new_hello_in_mid_round_only_repeats_the_order():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.do(fleet.core.on_hello(fleet.now_s, "a", tiny.make_hello(device="a", num_samples=20)))
    assert len({send.body.order for send in fleet.orders("a")}) == 1
    fleet.update("a")
    before = len(fleet.orders())
    fleet.do(fleet.core.on_hello(fleet.now_s, "a", tiny.make_hello(device="a", num_samples=24)))
    assert len(fleet.orders()) == before


def test_an_order_is_not_repeated_when_its_time_is_over():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.now_s += DEADLINE_S + 1.0
    fleet.join("a", boot_epoch=2)
    assert len(fleet.orders("a")) == 1


def test_the_same_settings_draw_the_same_seeds_whoever_comes_first():
    one, other = Fleet(devices=2).join("a", "b"), Fleet(devices=2).join("b", "a")
    assert [one.orders(name)[0].body.seed for name in "ab"] == [
        other.orders(name)[0].body.seed for name in "ab"
    ]


def test_a_status_that_says_nothing_new_changes_nothing():
    fleet = Fleet(devices=1).join("a")
    assert fleet.core.on_status(fleet.now_s, "a", Status(online=True, boot_epoch=1)) == []


def test_a_decline_counts_as_an_answer():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    order = fleet.orders("b")[0].body
    fleet.say("b", Decline(order=order.order, round=1, reason="battery"))
    assert len(fleet.commits) == 1


def test_a_decline_of_an_older_order_is_no_answer_to_this_one():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.say("b", Decline(order=1, round=1, reason="battery"))
    assert fleet.commits == []


# ---------------------------------------------------------------- rounds that bring nothing


def test_an_empty_round_is_repeated_with_more_time():
    fleet = Fleet(devices=1).join("a")
    fleet.wait(DEADLINE_S + GRACE_S)
    first, second = fleet.orders("a")
    assert (second.body.round, second.body.deadline_s) == (1, 2 * DEADLINE_S)
    assert second.body.order > first.body.order
    assert fleet.core.state == "open"


def test_the_patience_is_bounded():
    fleet = Fleet(devices=1).join("a")
    for _ in range(8):
        fleet.wait(MAX_PATIENCE * DEADLINE_S + GRACE_S)
    assert fleet.core.deadline_s == MAX_PATIENCE * DEADLINE_S


def test_a_round_that_brought_something_takes_back_half_of_the_patience():
    fleet = Fleet(devices=1).join("a")
    for _ in range(2):
        fleet.wait(MAX_PATIENCE * DEADLINE_S + GRACE_S)
    fleet.update("a")
    assert fleet.orders("a")[-1].body.deadline_s == 2 * DEADLINE_S


def test_devices_that_all_declined_get_until_the_deadline_to_recover():
    fleet = Fleet(devices=1).join("a")
    order = fleet.orders("a")[0].body
    fleet.say("a", Decline(order=order.order, round=1, reason="battery"))
    assert len(fleet.orders("a")) == 1
    fleet.wait(DEADLINE_S + GRACE_S)
    assert len(fleet.orders("a")) == 2


def test_an_empty_round_without_devices_waits_for_them():
    fleet = Fleet(devices=1).join("a")
    fleet.leave("a")
    fleet.wait(DEADLINE_S + GRACE_S)
    assert fleet.core.state == "waiting"
    fleet.join("a")
    assert fleet.core.state == "open"


# ---------------------------------------------------------------- the end


def finished_fleet():
    fleet = Fleet(devices=1, num_rounds=2).join("a").finish_round("a").finish_round("a", sequence=2)
    assert fleet.core.state == "evaluating"
    return fleet


def test_after_the_last_round_no_order_is_sent():
    assert len(finished_fleet().orders()) == 2


def test_the_run_is_finished_once_when_its_last_version_is_measured():
    fleet = finished_fleet()
    assert tiny.of_kind(fleet.core.on_evaluated(0, 0.1, 1.0), Finished) == []
    assert tiny.of_kind(fleet.core.on_evaluated(1, 0.5, 1.0), Finished) == []
    assert len(tiny.of_kind(fleet.core.on_evaluated(2, 0.8, 1.0), Finished)) == 1
    assert tiny.of_kind(fleet.core.on_evaluated(2, 0.8, 1.0), Finished) == []


def test_the_report_is_asked_for_before_the_run_is_called_finished():
    """A coordinator killed between the two finishes the run again; the other way round it began a new one."""
    kinds = [type(effect) for effect in finished_fleet().core.on_evaluated(2, 0.8, 1.0)]
    assert kinds.index(Finished) < kinds.index(Announce)


def test_a_finished_run_says_so_with_its_accuracy():
    fleet = finished_fleet()
    (announce,) = tiny.of_kind(fleet.core.on_evaluated(2, 0.8, 1.0), Announce)
    assert (announce.message.state, announce.message.accuracy) == ("finished", 0.8)
    assert (announce.message.round, announce.message.num_rounds) == (2, 2)


def test_a_measurement_that_was_overtaken_by_a_newer_one_is_dropped():
    fleet = Fleet(devices=1)
    fleet.core.on_evaluated(2, 0.8, 1.0)
    assert fleet.core.on_evaluated(1, 0.5, 1.0) == []
    assert fleet.core.accuracy == 0.8


def test_a_device_that_joins_a_finished_run_gets_nothing_to_do():
    fleet = finished_fleet()
    fleet.do(fleet.core.on_evaluated(2, 0.8, 1.0))
    fleet.join("late")
    assert fleet.orders("late") == []


def test_a_coordinator_restarted_after_the_last_round_measures_and_finishes():
    fleet = Fleet(devices=1, num_rounds=2, round=3, version=2)
    assert [effect.version for effect in tiny.of_kind(fleet.effects, Evaluate)] == [2]
    fleet.join("a")
    assert fleet.orders() == []
    assert len(tiny.of_kind(fleet.core.on_evaluated(2, 0.8, 1.0), Finished)) == 1


def test_a_coordinator_restarted_in_the_middle_goes_on_with_the_round_after_the_last_commit():
    fleet = Fleet(devices=1, round=2, version=1).join("a")
    (send,) = fleet.orders()
    assert (send.base_version, send.body.round) == (1, 2)


# ---------------------------------------------------------------- a model that is ruined


def test_a_version_whose_loss_is_not_finite_gives_way_to_the_last_sound_one():
    fleet = Fleet(devices=1).join("a")
    sound = fleet.core.weights
    fleet.core.on_evaluated(0, 0.1, 2.3)
    fleet.update("a")
    fleet.do(fleet.core.on_evaluated(1, 0.1, float("nan")))
    assert fleet.core.version == 2
    assert all(np.array_equal(fleet.core.weights[name], sound[name]) for name in sound)


def test_a_ruined_last_version_does_not_end_the_run():
    fleet = Fleet(devices=1, num_rounds=1).join("a")
    fleet.core.on_evaluated(0, 0.1, 2.3)
    fleet.update("a")
    effects = fleet.do(fleet.core.on_evaluated(1, 0.1, float("inf")))
    assert tiny.of_kind(effects, Finished) == []
    assert len(tiny.of_kind(fleet.core.on_evaluated(2, 0.5, 1.0), Finished)) == 1


def test_a_device_that_goes_on_speaking_is_online_whatever_was_said_of_it():
    fleet = Fleet(devices=1).join("a")
    fleet.leave("a")
    fleet.do(fleet.core.on_seen(fleet.now_s, "a", boot_epoch=1))
    assert fleet.core.devices["a"].online


def test_an_earlier_life_that_speaks_brings_no_device_online():
    fleet = Fleet(devices=1).join("a", boot_epoch=2)
    fleet.leave("a")
    assert fleet.core.on_seen(fleet.now_s, "a", boot_epoch=1) == []
