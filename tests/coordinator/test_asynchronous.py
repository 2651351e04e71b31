from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.asynchronous import ORDERS, AsyncCore
from coordinator.effects import Finished
from coordinator.intake import MAX_FETCHES_IN_ALL
from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.strategies.averages import AverageSettings
from coordinator.strategies.rounds_of_averages import averages_of
from device_agent.effects import CancelTimer, Fetch, SetTimer
from device_agent.wire.codec import refer
from device_agent.wire.messages import Decline
from models.weights import pack

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
tiny, scaled = rounds.tiny, rounds.scaled

WEIGHTS, DEADLINE_S, GRACE_S = rounds.WEIGHTS, rounds.DEADLINE_S, rounds.GRACE_S
PLAIN = AverageSettings(entries="plain", weighting="equal")


class Fleet(rounds.Fleet):
    """A core without rounds, that all devices have joined; its settings are keywords."""

    def __init__(self, *names, devices=None, averages=PLAIN, config=None, **asynchrony):
        settings = AsyncSettings(
            **{"buffer_size": 2, "staleness": "constant", "fairness": "none", **asynchrony}
        )
        super().__init__(
            devices=len(names) if devices is None else devices,
            strategy=averages_of(averages, settings),
            **(config or {}),
        )
        self.join(*names)

    def wait(self, seconds, key=ORDERS):
        """Let time pass; the timer of this key is due."""
        self.now_s += seconds
        return self.do(self.core.on_timer(self.now_s, key))

    def decline(self, name, reason="battery"):
        order = self.orders(name)[-1].body
        return self.say(name, Decline(order=order.order, round=order.round, reason=reason), sequence=99)

    def moved(self, version):
        """By how much the bias of a version is above the first model's, which all entries have in common."""
        return float((self.commits[version - 1].weights["a.bias"] - WEIGHTS["a.bias"])[0])


# ---------------------------------------------------------------- orders


def test_orders_wait_until_enough_devices_are_there():
    fleet = Fleet("a", devices=2)
    assert isinstance(fleet.core, AsyncCore)
    assert (fleet.core.state, fleet.orders()) == ("waiting", [])
    fleet.join("b")
    assert [send.to for send in fleet.orders()] == ["a", "b"]


def test_a_device_gets_its_next_order_as_soon_as_its_update_is_folded():
    fleet = Fleet("a", "b")
    fleet.update("a")
    assert fleet.commits == []
    first, second = fleet.orders("a")
    assert second.body.order > first.body.order
    assert (first.base_version, second.base_version) == (0, 0)
    assert len(fleet.orders("b")) == 1


def test_two_orders_for_one_version_draw_different_mini_batches():
    fleet = Fleet("a", "b")
    fleet.update("a")
    assert len({send.body.seed for send in fleet.orders("a")}) == 2


def test_who_fills_the_buffer_is_ordered_to_train_the_version_made_of_it():
    fleet = Fleet("a", "b")
    fleet.update("a")
    fleet.update("b")
    assert [(send.base_version, send.body.round) for send in fleet.orders("b")] == [(0, 1), (1, 2)]
    assert fleet.orders("b")[-1].body.weights == fleet.core.weights_ref


def test_a_device_without_samples_gets_no_order_until_it_has_some():
    fleet = Fleet("a", devices=1)
    fleet.join("empty", num_samples=0)
    assert fleet.orders("empty") == []
    fleet.join("empty", num_samples=8)
    assert len(fleet.orders("empty")) == 1


def test_credits_bound_how_many_have_an_order_and_who_waited_longest_is_next():
    fleet = Fleet("a", "b", "c", max_concurrency=2, buffer_size=10)
    assert [send.to for send in fleet.orders()] == ["a", "b"]
    fleet.update("b")
    assert [send.to for send in fleet.orders()] == ["a", "b", "c"]
    fleet.update("c")
    assert [send.to for send in fleet.orders()] == ["a", "b", "c", "b"]


def test_without_a_number_of_its_own_the_devices_of_a_round_bound_the_orders():
    assert len(Fleet("a", "b", "c", config={"devices_per_round": 1}).orders()) == 1


def test_an_order_whose_time_is_over_gives_its_credit_to_the_next():
    fleet = Fleet("a", "b", max_concurrency=1)
    assert tiny.of_kind(fleet.effects, SetTimer) == [SetTimer(ORDERS, DEADLINE_S + GRACE_S)]
    fleet.wait(DEADLINE_S + GRACE_S)
    assert [send.to for send in fleet.orders()] == ["a", "b"]
    assert "order without an answer" in tiny.events(fleet.effects)


def test_an_update_that_comes_after_its_orders_time_still_counts():
    fleet = Fleet("a", devices=1, buffer_size=1)
    late = fleet.orders("a")[0].body
    fleet.wait(DEADLINE_S + GRACE_S)
    assert len(fleet.orders("a")) == 2
    fleet.update("a", order=late.order)
    assert [one.outcome for one in fleet.commits[0].settled] == ["applied"]


def test_a_timer_that_fires_a_breath_early_still_takes_the_order_back():
    fleet = Fleet("a", devices=1)
    fleet.wait(DEADLINE_S + GRACE_S - 1e-9)
    assert len(fleet.orders("a")) == 2


def test_orders_handed_out_later_have_their_own_time():
    fleet = Fleet("a", "b", buffer_size=10)
    fleet.now_s += 50.0
    fleet.update("a")
    fleet.wait(DEADLINE_S + GRACE_S - 50.0)
    assert (len(fleet.orders("a")), len(fleet.orders("b"))) == (2, 2)
    fleet.wait(50.0)
    assert (len(fleet.orders("a")), len(fleet.orders("b"))) == (3, 2)


def test_a_device_that_declined_rests_until_the_next_version():
    fleet = Fleet("a", "b", "c")
    fleet.decline("a")
    fleet.update("b")
    assert len(fleet.orders("a")) == 1
    fleet.update("c")
    assert [send.base_version for send in fleet.orders("a")] == [0, 1]


def test_a_device_that_declined_rests_no_longer_than_its_order_had_time():
    fleet = Fleet("a", devices=1)
    fleet.decline("a")
    fleet.wait(DEADLINE_S + GRACE_S)
    assert len(fleet.orders("a")) == 2


def test_the_credit_of_a_device_that_rests_goes_to_another():
    fleet = Fleet("a", "b", max_concurrency=1)
    fleet.decline("a")
    assert [send.to for send in fleet.orders()] == ["a", "b"]


def test_a_device_that_came_back_is_told_the_same_order_with_the_time_that_is_left():
    fleet = Fleet("a", "b")
    fleet.now_s += 40.0
    fleet.leave("a")
    fleet.join("a", boot_epoch=2)
    first, *_, again = fleet.orders("a")
    assert (again.body.order, again.body.seed) == (first.body.order, first.body.seed)
    assert again.body.deadline_s == DEADLINE_S - 40.0


def test_a_device_that_is_away_when_its_turn_comes_gets_its_order_when_it_is_back():
    fleet = Fleet("a", "b", max_concurrency=1)
    fleet.leave("b")
    fleet.decline("a")
    assert len(fleet.orders("b")) == 0
    fleet.join("b")
    assert len({send.body.order for send in fleet.orders("b")}) == 1


# ---------------------------------------------------------------- versions


def test_a_version_is_the_mean_of_its_buffer():
    fleet = Fleet("a", "b")
    fleet.update("a", delta=scaled(0.1))
    fleet.update("b", delta=scaled(0.4))
    (commit,) = fleet.commits
    assert (commit.version, commit.round, len(commit.settled)) == (1, 1, 2)
    assert fleet.moved(1) == pytest.approx(0.25, rel=1e-5)


def test_a_buffer_of_one_applies_each_update_at_once():
    fleet = Fleet("a", "b", buffer_size=1)
    fleet.update("b", delta=scaled(0.1))
    assert fleet.moved(1) == pytest.approx(0.1, rel=1e-5)
    fleet.update("a", delta=scaled(0.2))
    assert fleet.moved(2) == pytest.approx(0.3, rel=1e-5)
    assert [commit.settled[0].staleness for commit in fleet.commits] == [0, 1]


def test_lateness_makes_the_step_shorter():
    fleet = Fleet("a", "b", buffer_size=1, staleness="polynomial")
    fleet.update("b", delta=scaled(0.0))
    fleet.update("a", delta=scaled(0.2))
    assert fleet.moved(2) == pytest.approx(0.2 * 2**-0.5, rel=1e-5)


def test_a_device_with_more_data_weighs_more_also_in_a_buffer_of_one():
    averages = AverageSettings(entries="plain", weighting="data")
    fleet = Fleet("a", averages=averages, buffer_size=1)
    fleet.join("large", num_samples=24).update("large", delta=scaled(0.1), num_samples=8)
    fleet.update("a", delta=scaled(0.1))
    assert fleet.moved(1) == pytest.approx(0.1, rel=1e-5)  # the only one so far
    assert fleet.moved(2) - fleet.moved(1) == pytest.approx(0.1 * 16 / 20, rel=1e-4)


def test_server_learning_rate_and_momentum_work_as_in_rounds():
    averages = AverageSettings(
        entries="plain", weighting="equal", server_learning_rate=0.5, server_momentum=0.5
    )
    fleet = Fleet("a", averages=averages, buffer_size=1)
    fleet.update("a", 1, delta=scaled(0.2))
    fleet.update("a", 2, delta=scaled(0.2))
    assert fleet.moved(1) == pytest.approx(0.1, rel=1e-5)
    assert fleet.moved(2) == pytest.approx(0.1 + 0.1 + 0.05, rel=1e-5)


def test_an_update_that_is_too_late_expires_and_says_so():
    fleet = Fleet("a", "b", buffer_size=1, max_staleness=1)
    for sequence in (1, 2):
        fleet.update("b", sequence)
    effects = fleet.update("a")
    assert fleet.acks(effects) == [("a", "expired")]
    assert len(fleet.commits) == 2


def test_the_time_of_a_buffer_makes_a_version_of_fewer_updates():
    fleet = Fleet("a", "b", buffer_size=10, buffer_s=30.0)
    assert not any(timer.key == fleet.core.CLOSE for timer in tiny.of_kind(fleet.effects, SetTimer))
    effects = fleet.update("a", delta=scaled(0.1))
    fleet.update("a", 2, delta=scaled(0.2))
    assert [timer for timer in tiny.of_kind(fleet.effects, SetTimer) if timer.key == fleet.core.CLOSE] == [
        SetTimer(fleet.core.CLOSE, 30.0)
    ]
    assert SetTimer(fleet.core.CLOSE, 30.0) in effects
    fleet.wait(30.0, fleet.core.CLOSE)
    assert fleet.moved(1) == pytest.approx(0.15, rel=1e-5)


def test_a_full_buffer_does_not_wait_for_its_time():
    fleet = Fleet("a", "b", buffer_s=30.0)
    fleet.update("a")
    assert CancelTimer(fleet.core.CLOSE) in fleet.update("b")
    assert fleet.wait(30.0, fleet.core.CLOSE) == []
    assert len(fleet.commits) == 1


def test_the_run_ends_with_its_last_buffer():
    fleet = Fleet("a", "b", config={"num_rounds": 2})
    for sequence in (1, 2):
        fleet.update("a", sequence)
        fleet.update("b", sequence)
    assert (fleet.core.state, len(fleet.commits)) == ("evaluating", 2)
    assert all(send.base_version < 2 for send in fleet.orders())
    assert len(tiny.of_kind(fleet.core.on_evaluated(2, 0.8, 1.0), Finished)) == 1


def test_another_model_is_trained_by_everybody_at_once_and_updates_of_the_old_one_expire():
    fleet = Fleet("a", "b", "c", buffer_size=3)
    fleet.update("a", delta=scaled(0.1))
    fleet.do(fleet.core.on_model_rollout({name: value + 1 for name, value in WEIGHTS.items()}))
    assert [one.outcome for one in fleet.commits[0].settled] == ["expired"]
    assert [fleet.orders(name)[-1].base_version for name in "abc"] == [1, 1, 1]
    assert fleet.moved(1) == pytest.approx(1.0, rel=1e-5)
    assert fleet.acks(fleet.update("b", base_version=0)) == [("b", "expired")]


# ---------------------------------------------------------------- fairness


def test_with_fairness_devices_move_the_model_alike_however_often_they_report():
    fleet = Fleet("fast", "slow", buffer_size=1, fairness="rate", config={"num_rounds": 1000})
    by = {"fast": scaled(0.01), "slow": scaled(-0.01)}
    sequence = 0
    for turn in range(1, 97):
        for name in ("fast", "slow")[: 1 + (turn % 8 == 0)]:
            sequence += 1
            fleet.update(name, sequence, delta=by[name])
    moved = np.diff([0.0, *(fleet.moved(version) for version in range(1, len(fleet.commits) + 1))])
    up, down = moved[moved > 0].sum(), -moved[moved < 0].sum()
    assert up == pytest.approx(down, rel=0.1)


# ---------------------------------------------------------------- once, and only after the commit


def test_a_device_that_declines_takes_nothing_from_the_others():
    fleet = Fleet("a", "b", "c", fairness="rate", config={"num_rounds": 1000})
    fleet.decline("c")
    for turn in range(1, 21):
        fleet.update("a", turn)
        fleet.update("b", turn)
    assert fleet.moved(20) - fleet.moved(19) == pytest.approx(0.1, rel=0.05)


def test_a_buffer_of_all_devices_does_not_wait_for_those_that_decline():
    fleet = Fleet("a", "b", "c", buffer_size=None)
    fleet.decline("c")
    for turn, name in enumerate("aba", 1):  # all three were to have a part in the first buffer
        fleet.update(name, turn)
    assert len(fleet.commits) == 1
    fleet.update("b", 4)
    fleet.update("a", 5)
    assert len(fleet.commits) == 2


def test_nothing_is_acknowledged_before_its_buffer_is_committed():
    fleet = Fleet("a", "b")
    assert fleet.acks(fleet.update("a")) == []
    fleet.commit_at_once = False
    assert fleet.acks(fleet.update("b")) == []
    effects = fleet.core.on_committed(fleet.now_s, refer(b"weights"))
    assert fleet.acks(effects) == [("a", "applied"), ("b", "applied")]


def restarted(fleet, **config):
    """The coordinator after it was killed: what was committed is all it knows."""
    settled = {
        (one.device, one.boot_epoch, one.sequence): one.outcome
        for commit in fleet.commits
        for one in commit.settled
    }
    last = fleet.commits[-1] if fleet.commits else None
    after = rounds.Fleet(
        devices=2,
        settled=settled,
        strategy=fleet.core.strategy,
        version=last.version if last else 0,
        round=last.round + 1 if last else 1,
        **config,
    )
    after.core.boot_epoch = 2
    return after.join("a", "b")


def test_a_coordinator_killed_between_fold_and_commit_applies_the_update_once_when_it_comes_again():
    fleet = Fleet("a", "b")
    fleet.commit_at_once = False
    fleet.update("a", delta=scaled(0.1))
    fleet.commits.clear()
    after = restarted(fleet)
    for _ in range(2):
        after.update("a", delta=scaled(0.1), base_version=0, order=1)
    after.update("b", delta=scaled(0.3), base_version=0)
    (commit,) = after.commits
    assert [(one.device, one.outcome) for one in commit.settled] == [("a", "applied"), ("b", "applied")]
    np.testing.assert_allclose(commit.weights["a.bias"], WEIGHTS["a.bias"] + 0.2, rtol=1e-5)


def test_a_coordinator_killed_between_commit_and_acknowledgement_knows_the_update():
    fleet = Fleet("a", "b")
    fleet.update("a")
    fleet.commit_at_once = False
    fleet.update("b")
    after = restarted(fleet)
    assert after.core.version == 1
    assert after.acks(after.update("a", base_version=0, order=1)) == [("a", "duplicate")]
    assert after.orders("a")[-1].body.order > fleet.orders("a")[-1].body.order


# ---------------------------------------------------------------- back-pressure


def test_so_many_contents_are_fetched_at_a_time_and_the_others_in_their_turn():
    names = [f"d{number}" for number in range(MAX_FETCHES_IN_ALL + 2)]
    fleet = Fleet(*names, buffer_size=1000)
    contents = [pack(scaled(number / 100)) for number in range(len(names))]
    for name, content in zip(names, contents, strict=True):
        fleet.update(name, content=content, large=True)
    fetches = tiny.of_kind(fleet.effects, Fetch)
    assert [fetch.holder for fetch in fetches] == names[:MAX_FETCHES_IN_ALL]
    effects = fleet.do(fleet.core.on_fetched(fleet.now_s, refer(contents[0]).digest, contents[0]))
    assert [fetch.holder for fetch in tiny.of_kind(effects, Fetch)] == [names[-2]]
    effects = fleet.do(fleet.core.on_fetch_failed(fleet.now_s, refer(contents[1]).digest, "gone"))
    assert [fetch.holder for fetch in tiny.of_kind(effects, Fetch)] == [names[-1]]
    assert fleet.core.intake.aggregator.num_updates == 1


def test_a_device_whose_content_came_in_chunks_is_free_when_it_is_folded():
    fleet = Fleet("a", "b")
    content = pack(scaled(0.1))
    fleet.update("a", content=content, large=True)
    assert len(fleet.orders("a")) == 1
    fleet.do(fleet.core.on_fetched(fleet.now_s, refer(content).digest, content))
    assert len(fleet.orders("a")) == 2
