from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.agent import TELEMETRY_S, AgentCore
from device_agent.effects import (
    Acknowledged,
    Announce,
    Fetch,
    Install,
    Note,
    Prepare,
    Send,
    SetTimer,
    StartJob,
    StopFetch,
    StopJob,
)
from device_agent.training import StepCost, TrainingResult
from device_agent.wire.codec import encode, encode_public, refer
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Ack,
    Decline,
    Envelope,
    Hello,
    Order,
    RolledOut,
    Rollout,
    Run,
    Status,
    Telemetry,
    Update,
)
from firmware_profiles.resources import Pause

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

BUNDLE, WEIGHTS = b"bundle", b"weights"
LARGE = refer(WEIGHTS, inline_bytes=0)
DELTA = b"delta"


def order_envelope(order=1, run="run-a", age_ms=None, base_version=3, weights=None, **changes):
    fields = {
        "order": order,
        "round": 4,
        "strategy": "distreal",
        "bundle": refer(BUNDLE),
        "weights": weights or refer(WEIGHTS),
        "num_batches": 10,
        "deadline_s": 100.0,
        "seed": 7,
    }
    return envelope_of(
        Order(**{**fields, **changes}), run=run, age_ms=age_ms, base_version=base_version, sequence=order
    )


def envelope_of(body, run="run-a", sequence=99, **more):
    if more.get("base_version") is not None:
        more["base_digest"] = refer(WEIGHTS).digest
    return Envelope(
        schema=SCHEMA_VERSION,
        run=run,
        sender="coordinator",
        boot_epoch=1,
        sequence=sequence,
        body=body,
        **more,
    )


def run_message(run="run-a", state="training"):
    return Run(run=run, strategy="distreal", state=state, round=1, num_rounds=8, model_version=0)


def cost(macs=24, full_macs=96, vector=(2,)):
    return StepCost(vector=vector, macs=macs, full_macs=full_macs, num_samples=4, loss_sum=2.0)


def result(num_steps=3):
    return TrainingResult(
        num_samples=4 * num_steps,
        vectors=[(2,), (8,)],
        step_vectors=[0] * (num_steps - 1) + [1] if num_steps else [],
        macs=24 * num_steps,
        loss_sum=5.0,
    )


def done(core, num_steps=3):
    return core.on_job_done(result(num_steps), refer(DELTA), DELTA, 1.5, 2.5)


def telemetry_of(core):
    (message,) = [
        effect.message
        for effect in core.on_timer("telemetry", tiny.make_snapshot(), 0.25, 0)
        if isinstance(effect, Announce)
    ]
    return message


@pytest.fixture
def core():
    return AgentCore(tiny.make_hello(boot_epoch=5))


@pytest.fixture
def training(core):
    """A core that trains order 1."""
    core.on_message(0.0, order_envelope())
    assert core.state == "training"
    return core


# ---------------------------------------------------------------- starting


def test_an_agent_that_starts_says_it_is_online_and_who_it_is_and_sets_its_telemetry(core):
    effects = core.on_start()
    announced = [effect.message for effect in tiny.of_kind(effects, Announce)]
    assert announced == [Status(online=True, boot_epoch=5), core.hello]
    assert tiny.of_kind(effects, SetTimer) == [SetTimer("telemetry", TELEMETRY_S)]


def test_an_agent_says_it_again_at_every_connect(core):
    announced = [effect.message for effect in core.on_connected()]
    assert announced == [Status(online=True, boot_epoch=5), core.hello]


def test_a_new_run_lets_the_driver_prepare_once(core):
    assert tiny.of_kind(core.on_run(run_message()), Prepare) == [Prepare()]
    assert core.on_run(run_message()) == []


def test_a_finished_run_prepares_nothing(core):
    assert core.on_run(run_message(state="finished")) == []


# ---------------------------------------------------------------- orders


def test_an_order_with_everything_inside_starts_the_job_at_once(core):
    (start,) = core.on_message(0.0, order_envelope())
    assert isinstance(start, StartJob)
    assert (start.job.bundle, start.job.weights) == (BUNDLE, WEIGHTS)
    assert start.job.in_hand.base_version == 3
    assert core.state == "training"


def test_an_order_with_large_content_fetches_it_and_then_starts(core):
    (fetch,) = core.on_message(0.0, order_envelope(weights=LARGE))
    assert fetch == Fetch("coordinator", LARGE.digest, len(WEIGHTS))
    assert core.state == "fetching"
    (start,) = core.on_fetched(LARGE.digest, WEIGHTS)
    assert isinstance(start, StartJob)
    assert start.job.weights == WEIGHTS
    assert core.state == "training"


def test_an_order_is_fetched_trained_reported_and_acknowledged(core):
    core.on_message(0.0, order_envelope(weights=LARGE))
    core.on_fetched(LARGE.digest, WEIGHTS)
    core.on_progress(cost())
    (send,) = tiny.of_kind(done(core), Send)
    assert core.state == "reporting"
    effects = core.on_message(
        9.0, envelope_of(Ack(boot_epoch=5, sequence=1, outcome="applied"), sequence=100)
    )
    assert isinstance(send.body, Update)
    assert tiny.of_kind(effects, Acknowledged) == [Acknowledged(5, 1)]
    assert core.state == "idle"


def test_an_update_says_what_was_trained_for_which_order_and_from_what(training):
    (send,) = tiny.of_kind(done(training), Send)
    update = send.body
    assert (update.order, update.round, update.seed) == (1, 4, 7)
    assert (update.vectors, update.step_vectors) == (((2,), (8,)), (0, 0, 1))
    assert (update.num_samples, update.macs, update.loss_sum) == (12, 72, 5.0)
    assert (update.busy_s, update.wall_s) == (1.5, 2.5)
    assert (send.base_version, send.base_digest) == (3, refer(WEIGHTS).digest)
    assert (send.run, send.durable, send.blobs) == ("run-a", True, {update.delta.digest: DELTA})


def test_a_peer_accepts_the_update(training):
    (send,) = tiny.of_kind(done(training), Send)
    encode(
        Envelope(
            schema=SCHEMA_VERSION, run=send.run, sender="device-1", boot_epoch=5, sequence=1, body=send.body
        )
    )


def test_the_deadline_counts_from_receipt_less_the_orders_age_and_a_margin_for_the_update(core):
    (start,) = core.on_message(1000.0, order_envelope(age_ms=5000))
    assert start.job.in_hand.deadline_at_s == pytest.approx(1000.0 + 0.95 * 100.0 - 5.0)


def test_an_order_that_was_under_way_longer_than_its_deadline_is_due_now(core):
    (start,) = core.on_message(1000.0, order_envelope(age_ms=10**9))
    assert start.job.in_hand.deadline_at_s == 1000.0


def test_a_newer_order_stops_the_training_and_starts_its_own(training):
    effects = training.on_message(1.0, order_envelope(order=2))
    assert [type(effect) for effect in effects] == [StopJob, StartJob]
    assert training.in_hand.order.order == 2


def test_a_newer_order_stops_a_paused_job_too(training):
    training.on_paused(Pause("hot"))
    assert tiny.of_kind(training.on_message(1.0, order_envelope(order=2)), StopJob)


def test_a_newer_order_while_fetching_makes_the_older_ones_content_useless(core):
    core.on_message(0.0, order_envelope(weights=LARGE))
    newer = refer(b"newer weights", inline_bytes=0)
    core.on_message(1.0, order_envelope(order=2, weights=newer))
    assert core.on_fetched(LARGE.digest, WEIGHTS) == []
    assert tiny.of_kind(core.on_fetched(newer.digest, b"newer weights"), StartJob)


def test_a_newer_order_stops_fetching_what_it_does_not_need_itself(core):
    shared = refer(BUNDLE, inline_bytes=0)
    core.on_message(0.0, order_envelope(1, weights=LARGE, bundle=shared))
    effects = core.on_message(1.0, order_envelope(2, weights=refer(b"newer", inline_bytes=0), bundle=shared))
    assert [e.digest for e in effects if isinstance(e, StopFetch)] == [LARGE.digest]


def test_the_end_of_a_run_stops_fetching(core):
    core.on_message(0.0, order_envelope(1, weights=LARGE))
    assert StopFetch("coordinator", LARGE.digest) in core.on_run(run_message("run-a", "finished"))


def test_a_repeated_order_changes_nothing(training):
    assert training.on_message(1.0, order_envelope()) == []
    assert training.state == "training"


def test_an_older_order_is_dropped(core):
    core.on_message(0.0, order_envelope(order=2))
    assert core.on_message(1.0, order_envelope(order=1)) == []
    assert core.in_hand.order.order == 2


def test_a_repeat_of_a_reported_order_does_not_train_again(training):
    done(training)
    assert training.on_message(5.0, order_envelope()) == []


def test_the_orders_of_another_run_count_anew(core):
    core.on_message(0.0, order_envelope(order=9))
    effects = core.on_message(1.0, order_envelope(order=1, run="run-b"))
    assert tiny.of_kind(effects, StartJob)


def test_an_order_without_a_base_version_is_dropped(core):
    assert tiny.events(core.on_message(0.0, order_envelope(base_version=None))) == [
        "order without a base version dropped"
    ]
    assert core.in_hand is None


# ---------------------------------------------------------------- when it cannot be done


def test_an_order_is_declined_when_its_content_is_gone(core):
    core.on_message(0.0, order_envelope(weights=LARGE))
    effects = core.on_fetch_failed(LARGE.digest, "the holder does not have it any more")
    (decline,) = tiny.bodies(effects, Decline)
    assert decline.order == 1
    assert "does not have it any more" in decline.reason
    assert core.state == "idle"


def test_an_order_is_declined_when_nothing_was_trained(training):
    (decline,) = tiny.bodies(done(training, num_steps=0), Decline)
    assert "no mini-batch" in decline.reason


def test_a_decline_after_pauses_says_why_it_paused(training):
    training.on_paused(Pause("battery 12 % is below min_battery 30 %"))
    (decline,) = tiny.bodies(done(training, num_steps=0), Decline)
    assert decline.reason == "battery 12 % is below min_battery 30 %"


def test_an_order_is_declined_when_the_job_fails(training):
    (decline,) = tiny.bodies(training.on_job_failed("loss is nan"), Decline)
    assert (decline.order, decline.reason) == (1, "loss is nan")


def test_a_failure_of_no_order_declines_nothing(core):
    assert core.on_job_failed("late news") == []
    assert done(core) == []


def test_a_decline_with_a_long_reason_is_cut_to_what_a_peer_accepts(training):
    (decline,) = tiny.bodies(training.on_job_failed("x" * 5000), Decline)
    assert len(decline.reason) == 500


def test_an_update_that_cannot_be_stored_is_declined(training):
    (send,) = tiny.of_kind(done(training), Send)
    (decline,) = tiny.bodies(training.on_update_lost(send, "the disk is full"), Decline)
    assert (decline.order, decline.round) == (1, 4)
    assert "the disk is full" in decline.reason
    assert training.state == "idle"


def test_an_update_that_was_lost_does_not_disturb_a_newer_order(training):
    (send,) = tiny.of_kind(done(training), Send)
    training.on_message(5.0, order_envelope(order=2))
    training.on_update_lost(send, "the disk is full")
    assert training.state == "training"


# ---------------------------------------------------------------- runs that end


@pytest.mark.parametrize(
    "message", [run_message(state="finished"), run_message(run="run-b")], ids=["finished", "another run"]
)
def test_a_run_that_ends_drops_the_order(training, message):
    effects = training.on_run(message)
    assert tiny.of_kind(effects, StopJob) == [StopJob()]
    assert "order dropped" in tiny.events(effects)
    assert (training.state, training.in_hand) == ("idle", None)


def test_the_run_of_the_order_going_on_drops_nothing(training):
    assert tiny.of_kind(training.on_run(run_message()), StopJob) == []
    assert training.state == "training"


def test_news_of_a_dropped_job_is_ignored(training):
    training.on_run(run_message(state="finished"))
    assert done(training) == []


def test_an_agent_restarted_in_mid_order_takes_the_order_that_is_sent_again(training):
    restarted = AgentCore(tiny.make_hello(boot_epoch=6))
    restarted.on_start()
    restarted.on_run(run_message())
    effects = restarted.on_message(50.0, order_envelope(order=2))
    assert tiny.of_kind(effects, StartJob)


def test_an_acknowledgement_of_an_earlier_life_is_passed_to_the_outbox(core):
    effects = core.on_message(0.0, envelope_of(Ack(boot_epoch=4, sequence=17, outcome="applied")))
    assert tiny.of_kind(effects, Acknowledged) == [Acknowledged(4, 17)]


def test_an_acknowledgement_that_comes_while_the_next_order_trains_leaves_it_training(training):
    done(training)
    training.on_message(5.0, order_envelope(order=2))
    training.on_message(6.0, envelope_of(Ack(boot_epoch=5, sequence=1, outcome="applied")))
    assert training.state == "training"


def test_a_message_meant_for_the_coordinator_is_dropped_with_a_note(core):
    decline = Decline(order=1, round=1, reason="")
    assert tiny.events(core.on_message(0.0, envelope_of(decline))) == [
        "message without a use for a device dropped"
    ]


# ---------------------------------------------------------------- pauses


def test_a_pause_is_noted_once_with_its_reason(training):
    first = training.on_paused(Pause("battery 12 % is below min_battery 30 %"))
    assert first == [
        Note("training paused", details={"reason": "battery 12 % is below min_battery 30 %"}),
    ]
    assert training.on_paused(Pause("battery 11 % is below min_battery 30 %")) == []
    assert training.reason == "battery 11 % is below min_battery 30 %"


def test_training_that_resumes_is_noted_once(training):
    training.on_paused(Pause("hot"))
    assert tiny.events(training.on_progress(cost())) == ["training resumed"]
    assert training.on_progress(cost()) == []
    assert training.reason == ""


# ---------------------------------------------------------------- rollouts


POLICY = b"max_cpu_share_fraction: 0.5\n"


def test_a_rollout_with_its_content_is_installed_at_once(core):
    effects = core.on_message(0.0, envelope_of(Rollout(kind="policy", content=refer(POLICY))))
    assert effects == [Install("policy", refer(POLICY).digest, POLICY)]


def test_a_large_rollout_is_fetched_and_then_installed(core):
    ref = refer(POLICY, inline_bytes=0)
    effects = core.on_message(0.0, envelope_of(Rollout(kind="table", content=ref)))
    assert effects == [Fetch("coordinator", ref.digest, len(POLICY))]
    assert core.on_fetched(ref.digest, POLICY) == [Install("table", ref.digest, POLICY)]


def test_a_rollout_does_not_stop_the_training(training):
    training.on_message(0.0, envelope_of(Rollout(kind="policy", content=refer(POLICY))))
    assert training.state == "training"


def test_a_rollout_that_is_in_force_is_reported(core):
    core.on_run(run_message())
    effects = core.on_installed("policy", refer(POLICY).digest, None)
    assert tiny.bodies(effects, RolledOut) == [
        RolledOut(kind="policy", digest=refer(POLICY).digest, in_force=True)
    ]
    assert Announce(core.hello) in effects


def test_a_rollout_that_is_refused_is_reported_with_the_reason(core):
    effects = core.on_installed("policy", refer(POLICY).digest, "policy:1: unknown key")
    (told,) = tiny.bodies(effects, RolledOut)
    assert (told.in_force, told.reason) == (False, "policy:1: unknown key")


def test_a_rollout_whose_content_is_gone_is_reported_with_the_reason(core):
    ref = refer(POLICY, inline_bytes=0)
    core.on_message(0.0, envelope_of(Rollout(kind="table", content=ref)))
    (told,) = tiny.bodies(core.on_fetch_failed(ref.digest, "nothing came for 60 s"), RolledOut)
    assert (told.kind, told.in_force, told.reason) == ("table", False, "nothing came for 60 s")


def test_content_nobody_waits_for_changes_nothing(training):
    assert training.on_fetched("0" * 64, b"?") == []
    assert training.on_fetch_failed("0" * 64, "gone") == []


# ---------------------------------------------------------------- telemetry


def test_telemetry_of_an_idle_agent_says_so_and_keeps_coming(core):
    effects = core.on_timer("telemetry", tiny.make_snapshot(), None, 2)
    assert tiny.of_kind(effects, SetTimer) == [SetTimer("telemetry", TELEMETRY_S)]
    (announce,) = tiny.of_kind(effects, Announce)
    told = announce.message
    assert (told.state, told.outbox_messages) == ("idle", 2)
    assert (told.round, told.vector, told.macs_fraction, told.mean_macs_fraction) == (None, None, None, None)


def test_telemetry_of_training_says_the_vector_the_progress_and_the_loss(training):
    training.on_progress(cost(macs=24, vector=(2,)))
    told = telemetry_of(training)
    assert (told.state, told.round, told.vector, told.macs_fraction) == ("training", 4, (2,), 0.25)
    assert (told.steps_done, told.steps_planned, told.loss) == (1, 10, 0.5)
    assert told.cpu_share_fraction == 0.25


def test_the_mean_macs_fraction_is_of_the_mini_batches_since_the_last_telemetry(training):
    training.on_progress(cost(macs=24))
    training.on_progress(cost(macs=96, vector=(8,)))
    assert telemetry_of(training).mean_macs_fraction == pytest.approx((24 + 96) / (96 + 96))
    assert telemetry_of(training).mean_macs_fraction is None
    training.on_progress(cost(macs=48, vector=(4,)))
    assert telemetry_of(training).mean_macs_fraction == 0.5


def test_the_progress_of_one_order_does_not_leak_into_the_next(training):
    training.on_progress(cost())
    training.on_message(1.0, order_envelope(order=2))
    told = telemetry_of(training)
    assert (told.steps_done, told.vector, told.loss) == (0, None, None)


def test_telemetry_carries_the_reason_of_a_pause(training):
    training.on_paused(Pause("the board is throttled"))
    told = telemetry_of(training)
    assert (told.state, told.reason) == ("paused", "the board is throttled")


def test_telemetry_passes_on_what_the_sensors_read_and_nothing_else(core):
    snapshot = tiny.make_snapshot(battery_fraction=0.5, temperature_celsius=61.5, memory_own_bytes=1000)
    (announce,) = tiny.of_kind(core.on_timer("telemetry", snapshot, None, 0), Announce)
    told = announce.message
    assert (told.battery_fraction, told.temperature_celsius, told.memory_own_bytes) == (0.5, 61.5, 1000)
    assert (told.charging, told.throttled, told.clock_hz) == (None, None, None)


def test_everything_an_agent_announces_is_accepted_by_a_peer(training):
    training.on_progress(cost())
    messages = [effect.message for effect in training.on_connected()] + [telemetry_of(training)]
    for message in messages:
        assert isinstance(message, (Status, Hello, Telemetry))
        encode_public(message)


def test_a_timer_of_another_name_does_nothing(core):
    assert core.on_timer("other", tiny.make_snapshot(), None, 0) == []
