"""Agents of a decentralised run on the memory bus; the test plays the coordinator and the training."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from device_agent.agent import AgentCore
from device_agent.node import AgentNode
from device_agent.outbox import Outbox
from device_agent.training import TrainingResult
from device_agent.wire.chunks import Downloads
from device_agent.wire.codec import decode, encode, refer
from device_agent.wire.memory import MemoryBroker, faulty_network, perfect_network
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Answer,
    BlobRef,
    Chunk,
    Decline,
    Envelope,
    Neighbour,
    Offer,
    Order,
    Peering,
    Run,
    Settle,
    Update,
)
from device_agent.wire.topics import COORDINATOR, device_topic, down_topic, fleet_topic
from models.bundle import encode as encode_bundle
from models.peer_settings import PeerSettings
from models.subnet_settings import SubnetSettings
from models.weights import pack, unpack

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "tiny_fleet.py")))

FLEET, BARRIER_S, WINDOW = "test", 1.0, 4
VECTOR = (8,)


class HeldJobs:
    """Units that end when a test says so."""

    def __init__(self):
        self.requests, self.num_stopped, self.is_running = [], 0, False

    def start(self, request):
        self.requests.append(request)
        self.is_running = True

    def stop(self):
        self.num_stopped += self.is_running
        self.is_running = False

    def prepare(self):
        pass

    def install(self, kind, content):
        pass

    def cpu_share_fraction(self):
        return 1.0


class Fleet:
    """Agents that know each other by an order made by hand."""

    def __init__(self, names="ab", network=perfect_network, hidden=8, choice="fixed", **peers):
        bundle = tiny.make_bundle(hidden)
        fields = {"barrier_s": BARRIER_S, "window": WINDOW, "max_age_s": 10.0}
        bundle_settings = msgspec.structs.replace(
            bundle.settings,
            peers=PeerSettings(**{**fields, **peers}),
            subnets=SubnetSettings(choice=choice),
        )
        self.bundle = msgspec.structs.replace(bundle, settings=bundle_settings)
        self.content = encode_bundle(self.bundle)
        self.weights = tiny.make_weights(self.bundle)
        self.broker = MemoryBroker(network=network)
        self.clock = tiny.FakeClock(self.broker)
        self.names, self.nodes, self.jobs = list(names), {}, {}
        self.heard, self.said, self.sequence = [], [], 0
        self.ear = self.broker.connect(COORDINATOR)
        self.ear.subscribe(f"edgetide/v1/{FLEET}/+/up", lambda *message: self.heard.append(message))
        self.ear.subscribe(f"edgetide/v1/{FLEET}/+/peer/+", lambda *message: self.said.append(message))
        for name in names:
            self.boot(name)

    def boot(self, name, boot_epoch=1):
        outbox = Outbox(None, name, clock=lambda: self.clock.time_s, wall_clock=lambda: float(boot_epoch))
        outbox.boot_epoch = boot_epoch
        self.jobs[name] = HeldJobs()
        self.nodes[name] = node = AgentNode(
            fleet=FLEET,
            core=AgentCore(tiny.make_hello(device=name, boot_epoch=boot_epoch)),
            bus=self.broker.connect(name),
            outbox=outbox,
            downloads=Downloads(random.Random(0)),
            timers=self.clock.timers(),
            jobs=self.jobs[name],
            snapshot=tiny.make_snapshot,
        )
        for topic in (down_topic(FLEET, name), fleet_topic(FLEET, "run")):
            node.bus.subscribe(topic, node.received)
        node.start()
        return node

    def order(self, name, number=1, neighbours=None, weights=None, run="run-a"):
        """Have a device begin, or go on, with these neighbours: all others where none are given."""
        others = [one for one in self.names if one != name] if neighbours is None else neighbours
        content = pack(self.weights if weights is None else weights)
        order = Order(
            order=number,
            round=number,
            strategy="distreal",
            bundle=refer(self.content),
            weights=refer(content, inline_bytes=120_000),
            num_batches=100,
            deadline_s=100.0,
            seed=7,
            peering=Peering(
                neighbours=tuple(Neighbour(device=one, degree=max(1, len(others))) for one in others)
            ),
        )
        self.sequence += 1
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run=run,
            sender=COORDINATOR,
            boot_epoch=1,
            sequence=self.sequence,
            body=order,
            base_version=number - 1,
            base_digest=refer(content).digest,
        )
        self.nodes[name].received(down_topic(FLEET, name), encode(envelope))

    def begin(self, **weights):
        for name in self.names:
            self.order(name, weights=weights.get(name))
        self.clock.advance(0.0)

    def finish(self, name, change=0.0):
        """The running unit ends: it added `change` to every entry."""
        start = self.jobs[name].requests[-1].weights
        self.jobs[name].is_running = False
        delta = {key: np.full_like(value, change) for key, value in start.items()}
        result = TrainingResult(
            num_samples=4, vectors=[VECTOR], step_vectors=[0], delta=delta, macs=1, loss_sum=1.0
        )
        self.nodes[name].job_done(result, 0.5, 0.5)

    def session(self, name):
        return self.nodes[name].core.peers

    def value(self, name):
        """An entry of the weights, as it moved since the order."""
        return float(self.session(name).weights["a.bias"][0] - self.weights["a.bias"][0])

    def updates(self):
        bodies = [decode(payload, topic).body for topic, payload in self.heard]
        return [body for body in bodies if isinstance(body, Update)]

    def shifted(self, by):
        return {name: values + np.float32(by) for name, values in self.weights.items()}


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


# ---------------------------------------------------------------- neighbours


def test_neighbours_meet_halfway_at_a_barrier_while_units_run():
    fleet = Fleet("ab")
    fleet.begin(b=fleet_shift(1.0))
    fleet.clock.advance(1.5 * BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    assert fleet.value("b") == pytest.approx(0.5)
    assert not fleet.jobs["a"].num_stopped


def fleet_shift(by):
    return Fleet("").shifted(by)


def test_a_device_listens_to_its_neighbours_alone():
    fleet = Fleet("abc")
    fleet.order("a", neighbours=["b"])
    fleet.order("c", neighbours=["a"])
    fleet.clock.advance(5 * BARRIER_S)
    subscribed = [pattern for pattern, _ in fleet.nodes["a"].bus.subscriptions if "/peer/" in pattern]
    assert subscribed == [device_topic(FLEET, "b", "peer/a")]
    assert fleet.value("a") == 0.0


def offer_from(fleet, sender="b", run="run-a", digest=None, weights=None, **changes):
    """What device b says to a, forged as a test wants it."""
    weights = fleet.shifted(1.0) if weights is None else weights
    ref = weights if isinstance(weights, BlobRef) else refer(pack(weights))
    envelope = Envelope(
        schema=SCHEMA_VERSION,
        run=run,
        sender=sender,
        boot_epoch=1,
        sequence=1,
        body=Offer(**{"nonce": 5, "degree": 1, "step": 0, "weights": ref, **changes}),
        base_digest=refer(fleet.content).digest if digest is None else digest,
    )
    fleet.nodes["a"].received(device_topic(FLEET, "b", "peer/a"), encode(envelope))


ODD = tiny.make_weights(tiny.make_bundle())


@pytest.mark.parametrize(
    "forged",
    [
        {"run": "run-b"},
        {"digest": "0" * 64},
        {"weights": {**ODD, "a.bias": np.zeros(7, np.float32)}},
        {"weights": {**ODD, "a.bias": np.full(8, np.nan, np.float32)}},
        {"weights": {**ODD, "a.bias": np.full(8, 1e30, np.float32)}},
        {"weights": BlobRef(digest="0" * 64, size_bytes=10**9)},
        {"wants_answer": False},
        {"sender": "c"},
    ],
)
def test_an_offer_that_does_not_fit_is_refused_counted_and_changes_nothing(forged):
    fleet = Fleet("ab")
    fleet.order("a")
    offer_from(fleet, **forged)
    assert fleet.nodes["a"].counters.messages_refused == 1
    assert fleet.said == []


def test_an_offer_that_fits_is_answered():
    fleet = Fleet("ab")
    fleet.order("a")
    offer_from(fleet)
    fleet.clock.advance(0.0)
    assert len(fleet.said) == 1


def test_what_a_stranger_says_on_a_topic_that_is_not_heard_is_nothing():
    fleet = Fleet("ab")
    fleet.order("a", neighbours=[])
    offer_from(fleet)
    assert fleet.said == []


def test_weights_too_large_for_a_message_are_fetched_from_the_neighbour():
    fleet = Fleet("ab", hidden=tiny.LARGE_HIDDEN * 3)
    content = pack(fleet.weights)
    assert len(content) > 192 * 1024
    for name in "ab":
        fleet.nodes[name].kept.put(refer(content).digest, content)
        core = fleet.nodes[name].core
        fleet.order(name, weights=None if name == "a" else fleet.shifted(1.0))
        for digest in [digest for digest, data in core.awaited.items() if data is None]:
            data = content if name == "a" else pack(fleet.shifted(1.0))
            assert refer(data).digest == digest
            fleet.nodes[name]._perform(core.on_fetched(digest, data))
    fleet.clock.advance(1.5 * BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    assert fleet.value("b") == pytest.approx(0.5)
    bodies = [decode(payload, topic).body for topic, payload in fleet.said]
    assert any(isinstance(body, Chunk) for body in bodies)
    assert all(body.weights.data is None for body in bodies if isinstance(body, Offer))


def test_weights_that_are_here_only_when_another_run_is_on_are_not_mixed():
    fleet = Fleet("ab", exchange="push")
    fleet.order("a")
    content = pack(fleet.shifted(1.0))
    ref = refer(content, inline_bytes=0)
    offer_from(fleet, weights=ref, wants_answer=False)
    fleet.order("a", number=2, run="run-b")
    chunk = Envelope(
        schema=SCHEMA_VERSION,
        run="run-a",
        sender="b",
        boot_epoch=1,
        sequence=2,
        body=Chunk(digest=ref.digest, index=0, num_chunks=1, data=content),
    )
    fleet.nodes["a"].received(device_topic(FLEET, "b", "peer/a"), encode(chunk))
    fleet.clock.advance(2 * BARRIER_S)
    assert fleet.value("a") == 0.0


def test_the_mean_of_a_fleet_stays_while_everybody_trains_nothing_and_messages_are_lost():
    network = faulty_network(random.Random(3), drop_fraction=0.3, duplicate_fraction=0.3, max_delay_s=0.3)
    fleet = Fleet("abcd")
    fleet.begin(a=fleet.shifted(1.0), b=fleet.shifted(-2.0), c=fleet.shifted(4.0))
    fleet.broker._network = network
    fleet.clock.advance(60 * BARRIER_S)
    fleet.broker._network = perfect_network
    fleet.clock.advance(5 * BARRIER_S)
    values = [fleet.value(name) for name in "abcd"]
    assert np.mean(values) == pytest.approx(0.75, abs=1e-4)
    assert max(values) - min(values) < 0.01


def test_pushed_weights_are_averaged_at_the_barrier_once():
    fleet = Fleet("ab", exchange="push", weight="uniform")
    fleet.begin(b=fleet_shift(1.0))
    fleet.clock.advance(1.5 * BARRIER_S)
    fleet.nodes["b"].core.peers.neighbours.assign(Peering(neighbours=()))
    fleet.clock.advance(1.0 * BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)
    fleet.clock.advance(3.0 * BARRIER_S)
    assert fleet.value("a") == pytest.approx(0.5)


def test_a_device_that_waits_for_nobody_mixes_the_newest_weights_until_they_are_old():
    fleet = Fleet("ab", exchange="push", pace="wait-free", weight="uniform", max_age_s=3.0)
    fleet.begin(b=fleet_shift(1.0))
    fleet.finish("b")
    fleet.clock.advance(0.1)
    for _ in range(2):
        fleet.finish("a")
    assert fleet.value("a") == pytest.approx(0.75)
    fleet.clock.advance(4.0)
    fleet.finish("a")
    assert fleet.value("a") == pytest.approx(0.75)


# ---------------------------------------------------------------- the pace synchronous


@pytest.mark.parametrize("exchange", ["reciprocal", "push"])
def test_a_synchronous_device_waits_for_its_neighbours_gradient(exchange):
    fleet = Fleet("ab", pace="synchronous", exchange=exchange)
    fleet.begin()
    fleet.finish("a", 0.5)
    fleet.clock.advance(3 * BARRIER_S)
    assert len(fleet.jobs["a"].requests) == 1
    fleet.finish("b", 1.5)
    fleet.clock.advance(0.1)
    assert [len(fleet.jobs[name].requests) for name in "ab"] == [2, 2]
    assert [fleet.value(name) for name in "ab"] == [pytest.approx(1.0)] * 2


def test_a_synchronous_device_waits_through_losses():
    network = faulty_network(random.Random(1), drop_fraction=0.4, max_delay_s=0.05)
    fleet = Fleet("abc", pace="synchronous", max_age_s=1000.0)
    fleet.begin(a=fleet.shifted(1.0), b=fleet.shifted(-2.0))
    fleet.broker._network = network
    for _ in range(5):
        for name in "abc":
            if fleet.jobs[name].is_running:
                fleet.finish(name, 0.0)
        fleet.clock.advance(60.0)
    assert [fleet.session(name).step for name in "abc"] == [5, 5, 5]
    assert sum(fleet.value(name) for name in "abc") == pytest.approx(-1.0, abs=1e-4)


def test_a_synchronous_device_goes_on_without_a_neighbour_that_is_gone_for_too_long():
    fleet = Fleet("a", pace="synchronous")
    fleet.order("a", neighbours=["gone"])
    fleet.clock.advance(0.1)
    fleet.finish("a")
    fleet.clock.advance(9.0)
    assert len(fleet.jobs["a"].requests) == 1
    fleet.clock.advance(1.5)
    assert len(fleet.jobs["a"].requests) == 2
    fleet.finish("a")  # and it is not waited for again
    assert len(fleet.jobs["a"].requests) == 3


def test_a_bad_offer_that_had_to_wait_for_its_step_ends_nothing():
    fleet = Fleet("ab", pace="synchronous")
    fleet.order("a")
    fleet.clock.advance(0.1)
    offer_from(fleet, step=1, weights={**ODD, "a.bias": np.full(8, 1e30, np.float32)})
    fleet.finish("a", 0.5)
    assert fleet.session("a").step == 1
    assert fleet.value("a") == pytest.approx(0.5)


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
