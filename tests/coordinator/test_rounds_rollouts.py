from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_agent.effects import Send
from device_agent.wire.codec import refer
from device_agent.wire.messages import (
    RolledOut,
    Rollout,
)
from firmware_profiles.errors import WorldError
from models.bundle import encode as encode_bundle
from models.weights import pack

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
tiny, Fleet, make_update, scaled = rounds.tiny, rounds.Fleet, rounds.make_update, rounds.scaled

BUNDLE, WEIGHTS = rounds.BUNDLE, rounds.WEIGHTS
DEADLINE_S, GRACE_S = rounds.DEADLINE_S, rounds.GRACE_S


# ---------------------------------------------------------------- rollouts


POLICY = refer(b"max_cpu_share_fraction: 0.5\n")


def rollouts(effects, to=None):
    return [
        send
        for send in tiny.of_kind(effects, Send)
        if isinstance(send.body, Rollout) and to in (None, send.to)
    ]


def test_a_policy_is_sent_to_every_device_that_is_online():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.leave("b")
    sent = rollouts(fleet.do(fleet.core.on_policy_rollout(POLICY)))
    assert [(send.to, send.body.kind, send.body.content) for send in sent] == [("a", "policy", POLICY)]


def test_a_policy_reaches_a_device_that_was_away_when_it_says_hello():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.leave("b")
    fleet.do(fleet.core.on_policy_rollout(POLICY))
    fleet.join("b")
    assert len(rollouts(fleet.effects, "b")) == 1


def test_a_policy_reaches_a_late_joiner_once_per_life():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_policy_rollout(POLICY))
    fleet.join("late").join("late")
    assert len(rollouts(fleet.effects, "late")) == 1
    fleet.join("late", boot_epoch=2)
    assert len(rollouts(fleet.effects, "late")) == 2


def test_a_policy_lost_on_a_dying_link_is_sent_again_when_the_device_is_back():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_policy_rollout(POLICY))  # into the void: nobody knows yet that "a" is gone
    fleet.leave("a")
    fleet.join("a")
    assert len(rollouts(fleet.effects, "a")) == 2


def test_a_device_that_has_the_policy_already_does_not_get_it_again():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_policy_rollout(POLICY))
    fleet.join("late", policy_digest=POLICY.digest)
    assert rollouts(fleet.effects, "late") == []


def test_a_device_that_refused_the_policy_is_not_asked_for_ever():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_policy_rollout(POLICY))
    refused = RolledOut(kind="policy", digest=POLICY.digest, in_force=False, reason="unknown key")
    assert tiny.events(fleet.say("a", refused)) == ["rollout refused"]
    fleet.do(fleet.core.on_hello(fleet.now_s, "a", tiny.make_hello(device="a")))
    assert len(rollouts(fleet.effects, "a")) == 1


def test_a_table_is_sent_and_is_in_the_orders_that_follow():
    fleet = Fleet(devices=1).join("a")
    bundle = tiny.make_bundle(fractions=(0.5,))
    bundle_ref, table_ref = refer(encode_bundle(bundle)), refer(b"table")
    sent = rollouts(fleet.do(fleet.core.on_table_rollout(bundle, bundle_ref, table_ref)))
    assert [(send.to, send.body.kind) for send in sent] == [("a", "table")]
    assert fleet.core.state == "open"
    fleet.update("a")
    assert fleet.orders("a")[-1].body.bundle == bundle_ref


def a_table(number):
    bundle = tiny.make_bundle(fractions=(number,))
    return bundle, refer(encode_bundle(bundle)), refer(f"table {number}".encode())


def test_a_table_lost_on_a_dying_link_is_sent_again_when_the_device_is_back_in_the_same_job():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_table_rollout(*a_table(0.5)))
    fleet.leave("a")
    fleet.join("a")
    assert [send.body.content for send in rollouts(fleet.effects, "a")] == [a_table(0.5)[2]] * 2


def test_a_table_whose_answer_is_still_on_its_way_is_not_sent_with_the_hello_that_comes_before():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_table_rollout(*a_table(0.5)))
    fleet.do(fleet.core.on_hello(fleet.now_s, "a", tiny.make_hello(device="a")))
    assert len(rollouts(fleet.effects, "a")) == 1


def test_a_table_that_a_device_has_in_force_is_not_sent_again():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_table_rollout(*a_table(0.5)))
    fleet.say("a", RolledOut(kind="table", digest=a_table(0.5)[2].digest, in_force=True))
    fleet.leave("a")
    fleet.join("a")
    assert len(rollouts(fleet.effects, "a")) == 1


def test_a_device_that_joins_or_restarts_after_a_table_gets_it_with_its_order():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_table_rollout(*a_table(0.5)))
    fleet.join("late")
    fleet.join("a", boot_epoch=2)
    for device in ("late", "a"):
        assert fleet.orders(device)[-1].body.bundle == a_table(0.5)[1]
    assert len(rollouts(fleet.effects)) == 1


def test_what_a_device_says_of_a_rollout_is_noted_with_its_digest():
    fleet = Fleet(devices=1).join("a")
    effects = fleet.say("a", RolledOut(kind="table", digest="ab" * 32, in_force=True))
    (note,) = [effect for effect in effects if getattr(effect, "event", "") == "rollout in force"]
    assert note.details["digest"] == "ab" * 6


def other_model():
    return {name: np.full(value.shape, 0.25, np.float32) for name, value in WEIGHTS.items()}


def test_a_model_begins_the_round_anew_and_counts_as_no_round():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.do(fleet.core.on_model_rollout(other_model()))
    assert (fleet.core.version, fleet.core.round, fleet.core.state) == (1, 1, "open")
    order = fleet.orders("a")[-1]
    assert (order.base_version, order.body.round) == (1, 1)
    assert order.body.weights == refer(pack(other_model()))


def test_a_restart_after_a_model_was_rolled_out_repeats_the_round_that_began_anew():
    fleet = Fleet(devices=1, round=2, version=1).join("a")
    fleet.do(fleet.core.on_model_rollout(other_model()))
    assert fleet.commits[0].round == 1


def test_a_model_expires_the_updates_that_were_waiting_and_acknowledges_them_after_the_commit():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.commit_at_once = False
    effects = fleet.do(fleet.core.on_model_rollout(other_model()))
    assert fleet.acks(effects) == []
    assert fleet.update("a", base_version=0) == []
    assert [(one.device, one.outcome) for one in fleet.commits[0].settled] == [("a", "expired")]
    assert fleet.acks(fleet.core.on_committed(fleet.now_s, refer(b"w"))) == [("a", "expired")]


def test_updates_trained_on_the_model_before_expire():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.do(fleet.core.on_model_rollout(other_model()))
    assert fleet.acks(fleet.update("b", base_version=0)) == [("b", "expired")]


def test_content_of_an_update_trained_on_the_model_before_expires_when_it_comes():
    fleet = Fleet(devices=2).join("a", "b")
    update = make_update(fleet.orders("a")[0].body, large=True)
    fleet.say("a", update, base_version=0)
    fleet.do(fleet.core.on_model_rollout(other_model()))
    effects = fleet.do(fleet.core.on_fetched(fleet.now_s, update.delta.digest, pack(scaled(0.1))))
    assert fleet.acks(effects) == [("a", "expired")]


def test_the_weights_rolled_out_are_those_the_next_round_builds_on():
    fleet = Fleet(devices=1).join("a")
    fleet.do(fleet.core.on_model_rollout(other_model()))
    fleet.update("a", delta=scaled(0.5))
    np.testing.assert_allclose(fleet.commits[1].weights["a.bias"], 0.75, rtol=1e-6)


def test_a_model_while_waiting_for_devices_is_taken_too():
    fleet = Fleet(devices=1)
    fleet.do(fleet.core.on_model_rollout(other_model()))
    assert (fleet.core.version, fleet.core.state) == (1, "waiting")


def test_a_model_after_the_last_round_is_refused_and_nothing_changes():
    fleet = Fleet(devices=1, num_rounds=1).join("a").finish_round("a")
    before = replace(fleet.core)
    with pytest.raises(WorldError, match="evaluating"):
        fleet.core.on_model_rollout(other_model())
    assert fleet.core == before
