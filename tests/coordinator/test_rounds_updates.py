from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.effects import Record
from device_agent.effects import Fetch
from device_agent.wire.codec import refer
from device_agent.wire.messages import (
    Ack,
)
from models.weights import pack

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
tiny, Fleet, make_update, scaled = rounds.tiny, rounds.Fleet, rounds.make_update, rounds.scaled

BUNDLE, WEIGHTS = rounds.BUNDLE, rounds.WEIGHTS
DEADLINE_S, GRACE_S = rounds.DEADLINE_S, rounds.GRACE_S


# ---------------------------------------------------------------- once, and only after the commit


def test_nothing_is_acknowledged_before_the_commit():
    fleet = Fleet(devices=1).join("a")
    fleet.commit_at_once = False
    assert fleet.acks(fleet.update("a")) == []
    assert fleet.update("a") == []
    effects = fleet.core.on_committed(fleet.now_s, refer(b"weights"))
    assert fleet.acks(effects) == [("a", "applied")]


def test_a_commit_names_each_update_with_its_vectors_and_macs():
    fleet = Fleet(devices=1).join("a")
    fleet.update("a", vectors=((2,), (8,)), step_vectors=(0, 1, 1), num_samples=12)
    (settled,) = fleet.commits[0].settled
    assert (settled.device, settled.boot_epoch, settled.sequence, settled.outcome) == ("a", 1, 1, "applied")
    assert (settled.macs, settled.vectors) == (100, {"2": 1, "8": 2})


def test_an_update_delivered_twice_in_one_round_changes_the_model_once():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", delta=scaled(0.2))
    assert fleet.update("a", delta=scaled(0.2)) == []
    fleet.update("b", delta=scaled(0.4))
    assert len(fleet.commits[0].settled) == 2
    np.testing.assert_allclose(fleet.commits[0].weights["a.bias"], WEIGHTS["a.bias"] + 0.3, rtol=1e-5)


def test_an_update_for_an_order_that_was_never_given_is_refused():
    fleet = Fleet(devices=2).join("a", "b")
    given = fleet.orders("a")[-1].body.order
    effects = fleet.update("a", sequence=2, order=given + 1000)
    assert fleet.acks(effects) == [("a", "refused")]
    assert fleet.acks(fleet.update("a", sequence=3, order=fleet.orders("b")[-1].body.order)) == [
        ("a", "refused")
    ]
    assert fleet.acks(fleet.update("a", sequence=4)) == []  # its own counts, when the round is committed
    assert set(fleet.core.intake.pending) == {("a", 1, 4)}


def test_an_update_delivered_again_after_its_commit_is_acknowledged_as_a_duplicate():
    fleet = Fleet(devices=1).join("a")
    fleet.update("a")
    effects = fleet.update("a")
    assert fleet.acks(effects) == [("a", "duplicate")]
    assert len(fleet.commits) == 1


def test_an_update_settled_before_a_restart_of_the_coordinator_is_a_duplicate():
    fleet = Fleet(devices=1, settled={("a", 1, 1): "applied"}, version=1, round=2).join("a")
    assert fleet.acks(fleet.update("a")) == [("a", "duplicate")]
    assert fleet.commits == []


def test_equal_sequences_of_two_lives_are_two_updates():
    fleet = Fleet(devices=1).join("a")
    fleet.update("a", 1, boot_epoch=1)
    fleet.join("a", boot_epoch=2)
    fleet.update("a", 1, boot_epoch=2)
    assert [one.outcome for commit in fleet.commits for one in commit.settled] == ["applied", "applied"]


def test_a_second_update_for_the_same_order_expires():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", 1)
    assert fleet.acks(fleet.update("a", 2)) == [("a", "expired")]
    fleet.update("b")
    assert len(fleet.commits[0].settled) == 2


# ---------------------------------------------------------------- content in chunks


def test_two_contents_for_one_update_are_settled_once():
    fleet = Fleet(devices=2).join("a", "b")
    contents = [pack(scaled(0.1)), pack(scaled(0.2))]
    for content in contents:
        fleet.update("a", content=content, large=True)
    for content in contents:
        fleet.do(fleet.core.on_fetched(fleet.now_s, refer(content).digest, content))
    fleet.update("b")
    assert [settled.device for settled in fleet.commits[0].settled] == ["a", "b"]
    assert tiny.of_kind(fleet.effects, Record) == []


def test_content_of_an_update_that_was_refused_meanwhile_is_not_folded():
    fleet = Fleet(devices=2).join("a", "b")
    content = pack(scaled(0.1))
    fleet.update("a", content=content, large=True)
    fleet.update("a", base_version=None, content=pack(scaled(0.2)))
    fleet.do(fleet.core.on_fetched(fleet.now_s, refer(content).digest, content))
    fleet.update("b")
    assert [settled.device for settled in fleet.commits[0].settled] == ["b"]


def test_a_device_that_offers_many_updates_has_a_few_fetched_at_a_time():
    fleet = Fleet(devices=1).join("a")
    for sequence in range(1, 20):
        fleet.update("a", sequence, content=pack(scaled(sequence)), large=True, order=sequence)
    assert len(tiny.of_kind(fleet.effects, Fetch)) == 4


def test_content_of_an_update_with_more_batches_than_ordered_is_not_fetched():
    fleet = Fleet(devices=1).join("a")
    effects = fleet.update("a", large=True, step_vectors=(0,) * 1000)
    assert fleet.acks(effects) == [("a", "refused")]
    assert tiny.of_kind(effects, Fetch) == []


def test_a_large_delta_is_fetched_and_then_folded():
    fleet = Fleet(devices=1).join("a")
    update = make_update(fleet.orders("a")[0].body, large=True)
    effects = fleet.say("a", update, base_version=0)
    assert tiny.of_kind(effects, Fetch) == [Fetch("a", update.delta.digest, update.delta.size_bytes)]
    assert fleet.commits == []
    fleet.do(fleet.core.on_fetched(fleet.now_s, update.delta.digest, pack(scaled(0.1))))
    assert len(fleet.commits) == 1


def test_an_update_offered_again_while_it_is_fetched_is_not_fetched_twice():
    fleet = Fleet(devices=1).join("a")
    fleet.update("a", large=True)
    assert fleet.update("a", large=True) == []


def test_content_that_cannot_be_fetched_is_asked_for_again_at_the_next_offer():
    fleet = Fleet(devices=1).join("a")
    fleet.update("a", large=True)
    digest = make_update(large=True).delta.digest
    effects = fleet.do(fleet.core.on_fetch_failed(fleet.now_s, digest, "nothing came for 60 s"))
    assert fleet.acks(effects) == []
    assert tiny.of_kind(fleet.update("a", large=True), Fetch)


def test_a_round_does_not_close_early_while_content_is_under_way():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", large=True)
    fleet.update("b", delta=scaled(0.3))
    assert fleet.commits == []
    fleet.do(fleet.core.on_fetched(fleet.now_s, make_update(large=True).delta.digest, pack(scaled(0.1))))
    assert len(fleet.commits[0].settled) == 2


def test_content_that_comes_after_its_round_joins_the_next():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", large=True)
    fleet.update("b", delta=scaled(0.3))
    fleet.wait(DEADLINE_S + GRACE_S)
    fleet.do(fleet.core.on_fetched(fleet.now_s, make_update(large=True).delta.digest, pack(scaled(0.1))))
    fleet.wait(DEADLINE_S + GRACE_S)
    assert [settled.device for commit in fleet.commits for settled in commit.settled] == ["b", "a"]


def test_content_nobody_asked_for_changes_nothing():
    fleet = Fleet(devices=1).join("a")
    assert fleet.core.on_fetched(fleet.now_s, "0" * 64, b"") == []
    assert fleet.core.on_fetch_failed(fleet.now_s, "0" * 64, "gone") == []


# ---------------------------------------------------------------- late


def test_a_late_update_counts_with_a_discount():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("b", delta=scaled(0.0))
    fleet.wait(DEADLINE_S + GRACE_S)
    after_first = fleet.commits[0].weights["a.bias"]
    fleet.update("a", 7, delta=scaled(0.3), base_version=0, order=fleet.orders("a")[0].body.order)
    fleet.update("b", 2, delta=scaled(0.0))
    fleet.update("a", 8, delta=scaled(0.0))
    second = fleet.commits[1]
    assert [(one.sequence, one.outcome) for one in second.settled] == [
        (7, "applied"),
        (2, "applied"),
        (8, "applied"),
    ]
    discount = 2**-0.5
    expected = after_first + 0.3 * discount / (discount + 2)
    np.testing.assert_allclose(second.weights["a.bias"], expected, rtol=1e-5)


def test_an_update_that_is_too_late_is_recorded_and_acknowledged_as_expired():
    fleet = Fleet(devices=1, max_staleness=0, version=2, round=2).join("a")
    effects = fleet.update("a", base_version=1)
    (record,) = tiny.of_kind(effects, Record)
    assert (record.settled.outcome, record.settled.reason) == ("expired", "1 versions late, at most 0 count")
    assert fleet.acks(effects) == [("a", "expired")]
    assert fleet.commits == []


def test_content_of_an_update_that_is_too_late_is_not_fetched():
    fleet = Fleet(devices=1, max_staleness=0, version=2, round=2).join("a")
    assert tiny.of_kind(fleet.update("a", base_version=1, large=True), Fetch) == []


def test_an_update_of_another_run_expires():
    fleet = Fleet(devices=1).join("a")
    effects = fleet.update("a", run="run-of-yesterday")
    assert fleet.acks(effects) == [("a", "expired")]
    assert len(tiny.of_kind(effects, Record)) == 1


def test_an_update_after_the_last_round_expires():
    fleet = Fleet(devices=2, num_rounds=1).join("a", "b")
    fleet.update("a")
    fleet.wait(DEADLINE_S + GRACE_S)
    assert fleet.acks(fleet.update("b", base_version=0)) == [("b", "expired")]


def test_an_update_that_comes_while_nothing_is_open_waits_in_its_outbox():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.leave("b")
    fleet.wait(DEADLINE_S + GRACE_S)
    assert fleet.core.state == "waiting"
    assert fleet.update("a", 2, base_version=1, order=99) == []
    fleet.join("b")
    assert "update received" in tiny.events(fleet.update("a", 2, base_version=1, order=99))


# ---------------------------------------------------------------- refused


def with_nan():
    return scaled(0.1) | {"a.bias": np.full(8, np.nan, np.float32)}


def with_another_shape():
    return scaled(0.1) | {"a.bias": np.zeros(9, np.float32)}


def without_a_tensor():
    return {name: value for name, value in scaled(0.1).items() if name != "a.bias"}


REFUSED = {
    "NaN": {"delta": with_nan()},
    "a wrong shape": {"delta": with_another_shape()},
    "a tensor missing": {"delta": without_a_tensor()},
    "a tensor too many": {"delta": scaled(0.1) | {"more": np.zeros(1, np.float32)}},
    "a huge value": {"delta": scaled(1e35)},
    "a vector of another network": {"vectors": ((4, 4),)},
    "a vector too wide": {"vectors": ((9,),)},
    "no steps": {"step_vectors": ()},
    "no vectors": {"vectors": (), "step_vectors": ()},
    "samples that don't fit": {"num_samples": 9},
    "no samples": {"num_samples": 0},
    "more steps than were ordered": {"step_vectors": (0,) * 5, "num_samples": 8},
    "garbage for a delta": {"content": b"\xc1garbage"},
    "an oversized delta": {"content": bytes(2**20)},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED.keys())
def test_an_update_with_this_is_refused_recorded_acknowledged_and_does_not_stop_the_round(changes):
    fleet = Fleet(devices=2).join("a", "b")
    effects = fleet.update("a", **changes)
    (record,) = tiny.of_kind(effects, Record)
    assert record.settled.outcome == "refused"
    assert record.settled.reason
    assert fleet.acks(effects) == [("a", "refused")]
    fleet.update("b")
    assert [settled.device for settled in fleet.commits[0].settled] == ["b"]


def test_an_update_from_the_future_is_refused():
    fleet = Fleet(devices=1).join("a")
    assert fleet.acks(fleet.update("a", base_version=5)) == [("a", "refused")]


def test_an_update_without_a_base_version_is_refused():
    fleet = Fleet(devices=1).join("a")
    assert fleet.acks(fleet.update("a", base_version=None)) == [("a", "refused")]


def test_a_refused_update_delivered_again_is_a_duplicate_and_is_recorded_once():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", num_samples=9)
    effects = fleet.update("a", num_samples=9)
    assert fleet.acks(effects) == [("a", "duplicate")]
    assert tiny.of_kind(effects, Record) == []


def test_the_model_keeps_nothing_of_a_refused_update():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a", delta=scaled(1e35))
    fleet.update("b", delta=scaled(0.1))
    np.testing.assert_allclose(fleet.commits[0].weights["a.bias"], WEIGHTS["a.bias"] + 0.1, rtol=1e-5)


def test_an_update_of_a_device_that_never_said_hello_waits_until_it_does():
    fleet = Fleet(devices=1).join("a")
    effects = fleet.update("stranger", base_version=0)
    assert fleet.acks(effects) == []
    assert tiny.events(effects) == ["update of an unknown device ignored until it says hello"]


def test_the_last_answer_being_refused_at_the_door_closes_the_round_at_once():
    fleet = Fleet(devices=2).join("a", "b")
    fleet.update("a")
    fleet.update("b", content=bytes(2**20))
    assert len(fleet.commits) == 1


def test_a_message_without_a_use_is_dropped_with_a_note():
    fleet = Fleet(devices=1).join("a")
    effects = fleet.say("a", Ack(boot_epoch=1, sequence=1, outcome="applied"))
    assert tiny.events(effects) == ["message without a use for the coordinator dropped"]
