"""A device in a decentralised run: its gradients, orders and reports."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from device_agent.training import TrainingResult
from device_agent.wire.codec import decode, encode
from device_agent.wire.memory import perfect_network
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Answer,
    Decline,
    Envelope,
    Run,
    Settle,
)
from device_agent.wire.topics import device_topic, fleet_topic
from models.bundle import encode as encode_bundle
from models.peer_settings import PeerSettings
from models.weights import unpack

peer_fleet = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "peer_fleet.py")))
Fleet = peer_fleet.Fleet
FLEET, BARRIER_S, WINDOW = peer_fleet.FLEET, peer_fleet.BARRIER_S, peer_fleet.WINDOW
offer_from = peer_fleet.offer_from


# ---------------------------------------------------------------- gradients


def test_a_gradient_waits_for_the_barrier_and_is_applied_there():
    fleet = Fleet("a")
    fleet.begin()
    fleet.finish("a", 0.5)
    assert fleet.value("a") == 0.0
    fleet.clock.advance(BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    assert len(fleet.jobs["a"].requests) == 2


def test_a_late_gradient_goes_on_over_barriers_and_is_applied_however_old():
    fleet = Fleet("a", late="reuse")
    fleet.begin()
    fleet.clock.advance(2.5 * BARRIER_S)
    assert len(fleet.jobs["a"].requests) == 1
    fleet.finish("a", 0.5)
    fleet.clock.advance(1.0 * BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    assert fleet.session("a").window.staleness[2] == 1


def test_a_late_gradient_is_given_up_at_the_barrier_where_late_ones_are_discarded():
    fleet = Fleet("a", late="discard")
    fleet.begin()
    fleet.clock.advance(1.5 * BARRIER_S)
    assert len(fleet.jobs["a"].requests) == 2
    assert fleet.session("a").window.discarded == 1
    fleet.finish("a", 0.5)
    fleet.clock.advance(BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    assert sum(fleet.session("a").window.staleness) == 1


def test_a_device_without_neighbours_trains_on():
    fleet = Fleet("a")
    fleet.order("a", neighbours=[])
    for _ in range(5):
        fleet.clock.advance(BARRIER_S)
        fleet.finish("a", 0.1)
    assert fleet.session("a").step == 5
    assert len(fleet.jobs["a"].requests) == 5


def test_at_the_pace_overlapped_a_gradient_is_applied_at_once_and_the_next_begins():
    fleet = Fleet("a", pace="overlapped")
    fleet.begin()
    fleet.finish("a", 0.5)
    assert fleet.value("a") == pytest.approx(0.5)
    assert len(fleet.jobs["a"].requests) == 2
    assert fleet.session("a").step == 0
    fleet.clock.advance(2.5 * BARRIER_S)
    assert fleet.session("a").step == 2
    fleet.finish("a", 0.25)
    assert fleet.value("a") == pytest.approx(0.75)
    assert fleet.session("a").window.staleness[:3] == [1, 0, 1]


def test_at_the_pace_overlapped_exchanges_begin_at_barriers_while_a_unit_runs():
    fleet = Fleet("ab", pace="overlapped")
    fleet.begin(b=fleet.shifted(1.0))
    fleet.clock.advance(1.5 * BARRIER_S)
    assert fleet.value("a") == pytest.approx(fleet.value("b"))
    assert [len(fleet.jobs[name].requests) for name in "ab"] == [1, 1]


def test_at_the_pace_overlapped_nothing_is_late():
    with pytest.raises(ValueError, match="`late` must be reuse"):
        PeerSettings(pace="overlapped", late="discard")


@pytest.mark.parametrize("pace", ["barrier", "wait-free"])
def test_a_neighbour_that_is_gone_holds_nobody_up(pace):
    fleet = Fleet("a", pace=pace)
    fleet.order("a", neighbours=["gone", "away"])
    fleet.clock.advance(0.1)
    for _ in range(20):
        fleet.finish("a", 0.1)
        fleet.clock.advance(BARRIER_S)
    assert fleet.session("a").step == 20


def test_each_unit_draws_mini_batches_of_its_own_and_starts_from_the_weights_of_the_moment():
    fleet = Fleet("a")
    fleet.begin()
    fleet.finish("a", 0.5)
    fleet.clock.advance(BARRIER_S)
    first, second = fleet.jobs["a"].requests
    assert first.in_hand.order.seed != second.in_hand.order.seed
    assert second.weights is fleet.session("a").weights
    assert first.in_hand.order.num_batches == 1


def test_a_unit_that_cannot_be_trained_is_tried_again_later():
    fleet = Fleet("a")
    fleet.begin()
    fleet.nodes["a"].job_failed("no samples")
    fleet.clock.advance(BARRIER_S)
    assert len(fleet.jobs["a"].requests) == 1
    fleet.clock.advance(BARRIER_S)
    assert len(fleet.jobs["a"].requests) == 2


def test_a_unit_that_is_given_too_little_time_gets_twice_as_much():
    fleet = Fleet("a", choice="live")
    fleet.begin()
    fleet.nodes["a"].job_done(TrainingResult(), 0.0, 1.0)
    fleet.clock.advance(BARRIER_S)
    times = [request.in_hand.deadline_at_s for request in fleet.jobs["a"].requests]
    assert times == [pytest.approx(BARRIER_S), pytest.approx(3 * BARRIER_S)]


# ---------------------------------------------------------------- orders and reports


def test_a_window_ends_with_a_report_of_how_far_the_weights_are_from_the_orders():
    fleet = Fleet("ab")
    fleet.begin()
    for _ in range(WINDOW):
        for name in "ab":
            fleet.finish(name, 0.25)
        fleet.clock.advance(BARRIER_S)
    first, second = fleet.updates()
    delta = unpack(first.delta.data, fleet.bundle.graph.parameters)
    assert delta["a.bias"].tolist() == pytest.approx([1.0] * 8)
    assert len(first.step_vectors) == WINDOW
    assert first.peers.step == WINDOW
    begun = [sum(one.begun for one in update.peers.exchanges.values()) for update in (first, second)]
    assert sorted(begun) == [0, WINDOW]
    assert first.peers.sketch == pytest.approx(second.peers.sketch, abs=1e-5)


def test_the_model_that_is_reported_is_the_mean_of_late_where_that_is_asked_for():
    fleet = Fleet("a", averaged_barriers=2)
    fleet.begin()
    for change in (0.25, 0.25, 0.25, 0.25):  # the mean: .25, .475, .7, .925
        fleet.finish("a", change)
        fleet.clock.advance(BARRIER_S)
    delta = unpack(fleet.updates()[0].delta.data, fleet.bundle.graph.parameters)
    assert delta["a.bias"].tolist() == pytest.approx([0.925] * 8)
    assert fleet.value("a") == pytest.approx(1.0)


@pytest.mark.parametrize("pace", ["barrier", "wait-free"])
def test_a_model_that_is_no_mean_is_the_weights_of_the_moment(pace):
    fleet = Fleet("ab", pace=pace)
    fleet.begin(b=fleet.shifted(1.0))
    for name in "ab":
        fleet.finish(name, 0.25)
    fleet.clock.advance(1.9 * BARRIER_S)  # past the exchange that begins at the first barrier
    session = fleet.session("a")
    assert fleet.value("a") == pytest.approx(0.75)
    assert all(session.model[name] is session.weights[name] for name in session.weights)


def test_without_a_further_order_a_device_goes_on_and_reports_no_more():
    fleet = Fleet("a")
    fleet.begin()
    fleet.clock.advance(3 * WINDOW * BARRIER_S)
    assert fleet.session("a").step == 3 * WINDOW
    assert len({update.order for update in fleet.updates()}) == 1


def test_a_later_order_keeps_the_devices_weights_and_is_what_the_next_report_refers_to():
    fleet = Fleet("a")
    fleet.begin()
    fleet.finish("a", 0.5)
    fleet.clock.advance(WINDOW * BARRIER_S)
    fleet.order("a", number=2, weights=fleet.shifted(10.0))
    fleet.clock.advance(WINDOW * BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    assert fleet.jobs["a"].num_stopped == 0
    last = fleet.updates()[-1]
    assert last.order == 2
    delta = unpack(last.delta.data, fleet.bundle.graph.parameters)
    assert delta["a.bias"].tolist() == pytest.approx([-9.5] * 8)


def test_a_device_that_was_killed_starts_from_the_orders_weights():
    fleet = Fleet("a")
    fleet.begin()
    fleet.finish("a", 0.5)
    fleet.clock.advance(BARRIER_S)
    fleet.boot("a", boot_epoch=2)
    fleet.order("a", number=2, weights=fleet.shifted(0.25))
    fleet.clock.advance(0.1)
    assert fleet.value("a") == pytest.approx(0.25)


def test_a_run_that_is_over_ends_the_session():
    fleet = Fleet("ab")
    fleet.begin()
    run = Run(run="run-a", strategy="dsgd", state="finished", round=1, num_rounds=1, model_version=1)
    fleet.nodes["a"].received(fleet_topic(FLEET, "run"), msgspec.json.encode(run))
    fleet.clock.advance(5 * BARRIER_S)
    assert fleet.session("a") is None
    assert fleet.nodes["a"].core.state == "idle"
    assert fleet.jobs["a"].num_stopped == 1
    assert len(fleet.jobs["a"].requests) == 1


def test_an_order_of_another_run_begins_a_session_of_its_own():
    fleet = Fleet("a")
    fleet.begin()
    fleet.finish("a", 0.5)
    fleet.clock.advance(BARRIER_S)
    fleet.order("a", number=1, run="run-b", weights=fleet.shifted(2.0))
    fleet.clock.advance(0.1)
    assert fleet.value("a") == pytest.approx(2.0)


def test_an_order_whose_bundle_says_nothing_of_neighbours_is_declined():
    fleet = Fleet("a")
    bundle = msgspec.structs.replace(
        fleet.bundle, settings=msgspec.structs.replace(fleet.bundle.settings, peers=None)
    )
    fleet.content = encode_bundle(bundle)
    fleet.order("a")
    fleet.clock.advance(0.1)
    (decline,) = [
        decode(payload, topic).body
        for topic, payload in fleet.heard
        if isinstance(decode(payload, topic).body, Decline)
    ]
    assert "settings" in decline.reason


def test_a_settlement_of_one_who_was_a_neighbour_until_now_still_counts():
    fleet = Fleet("ab")
    fleet.begin(b=fleet.shifted(1.0))
    lost = []
    fleet.broker._network = lambda delivery: (
        () if isinstance(decode_body(delivery), Settle) and not lost.append(delivery) else (0.0,)
    )
    fleet.clock.advance(1.01 * BARRIER_S)
    assert lost
    fleet.broker._network = perfect_network
    for name in "ab":
        fleet.order(name, number=2, neighbours=[])
    fleet.clock.advance(5 * BARRIER_S)
    assert fleet.value("a") == fleet.value("b") == pytest.approx(0.5)


def test_a_settlement_of_a_session_before_this_one_holds_no_offers_up():
    fleet = Fleet("ab")
    fleet.order("a")
    settle = Envelope(
        schema=SCHEMA_VERSION,
        run="run-a",
        sender="b",
        boot_epoch=1,
        sequence=1,
        body=Settle(nonce=1000),
        base_digest="0" * 64,
    )
    fleet.nodes["a"].received(device_topic(FLEET, "b", "peer/a"), encode(settle))
    offer_from(fleet, nonce=5)
    fleet.clock.advance(0.0)
    assert [type(decode(payload, topic).body) for topic, payload in fleet.said] == [Answer]


def decode_body(delivery):
    return decode(delivery.payload, delivery.topic).body if "/peer/" in delivery.topic else None


@pytest.mark.parametrize("pace", ["barrier", "overlapped", "wait-free", "synchronous"])
@pytest.mark.parametrize(("moved", "kept"), [(0.5, 0.5), (1e4, 0.0), (float("inf"), 0.0)])
def test_weights_that_blew_up_are_given_up_for_the_newest_mean(moved, kept, pace):
    fleet = Fleet("a", pace=pace)
    fleet.begin()
    fleet.finish("a", moved)
    fleet.clock.advance(BARRIER_S)
    assert fleet.value("a") == pytest.approx(kept)


# ---------------------------------------------------------------- another bundle in the same run


def test_another_table_in_the_middle_of_a_run_costs_a_device_nothing_it_learned():
    fleet = Fleet("ab")
    fleet.begin()
    for name in "ab":
        fleet.finish(name, 0.5)
    fleet.clock.advance(1.5 * BARRIER_S)
    before = {name: fleet.session(name) for name in "ab"}
    table = msgspec.structs.replace(fleet.bundle.table, source="another search")
    fleet.content = encode_bundle(msgspec.structs.replace(fleet.bundle, table=table))
    fleet.order("a", number=2)  # b has the old one yet, and they go on to mix
    fleet.clock.advance(2 * BARRIER_S)
    assert fleet.session("a") is before["a"]
    assert fleet.value("a") == pytest.approx(0.5)
    counts = [one for name in "ab" for one in fleet.session(name).exchanges.counts.values()]
    assert sum(one.completed for one in counts) >= 3
    fleet.finish("a", 0.0)
    fleet.clock.advance(1.0 * BARRIER_S)
    assert fleet.session("a").bundle.table.source == "another search"
    assert fleet.jobs["a"].requests[-1].bundle == fleet.content


def test_another_network_in_the_same_run_begins_a_session_anew():
    fleet, other = Fleet("a"), Fleet("", hidden=6)
    fleet.begin()
    fleet.finish("a", 0.5)
    fleet.clock.advance(1.5 * BARRIER_S)
    before = fleet.session("a")
    fleet.content = other.content
    fleet.order("a", number=2, weights=other.weights)
    fleet.clock.advance(0.0)
    assert fleet.session("a") is not before
    assert fleet.session("a").step == 0
    assert fleet.jobs["a"].requests[-1].bundle == other.content
