"""A device in a decentralised run: what it says to neighbours, hears of them and mixes."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_agent.wire.codec import decode, encode, refer
from device_agent.wire.memory import faulty_network, perfect_network
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    BlobRef,
    Chunk,
    Envelope,
    Offer,
    Peering,
)
from device_agent.wire.topics import device_topic
from models.weights import pack

peer_fleet = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "peer_fleet.py")))
tiny, Fleet = peer_fleet.tiny, peer_fleet.Fleet
FLEET, BARRIER_S = peer_fleet.FLEET, peer_fleet.BARRIER_S
offer_from = peer_fleet.offer_from


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
