from __future__ import annotations

import random
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_agent.wire.codec import encode, encode_public
from device_agent.wire.memory import faulty_network
from device_agent.wire.messages import SCHEMA_VERSION, Chunk, ChunkRequest, Decline, Envelope
from device_agent.wire.topics import COORDINATOR, device_topic, down_topic, fleet_topic
from models.bundle import encode as encode_bundle
from models.weights import pack

memory = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "memory_world.py")))
tiny, World, FLEET = memory.tiny, memory.World, memory.FLEET


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(**settings):
        worlds.append(World(tmp_path, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def test_a_fleet_goes_through_its_rounds_and_the_run_finishes_once(make_world):
    world = make_world(rounds=2)
    world.clock.advance(60.0)
    assert world.finished == 1
    assert [commit.version for commit in world.state.commits] == [1, 2]
    assert world.outcomes() == {"applied": 4}
    assert all(len(outbox) == 0 for outbox in world.outboxes.values())
    assert world.node.counters.messages_refused == 0


def test_the_model_is_what_the_devices_deltas_make_of_it(make_world):
    world = make_world(rounds=1)
    world.clock.advance(30.0)
    np.testing.assert_allclose(
        world.node.core.weights["a.bias"], world.weights["a.bias"] + (0.1 + 0.2) / 2, rtol=1e-5
    )


def test_weights_and_deltas_larger_than_a_message_travel_in_chunks(make_world):
    world = make_world(hidden=tiny.LARGE_HIDDEN, rounds=2)
    world.clock.advance(60.0)
    assert world.node.core.weights_ref.data is None
    assert world.finished == 1
    assert world.outcomes() == {"applied": 4}


def test_an_agent_is_told_of_the_end_and_is_idle(make_world):
    world = make_world(rounds=1)
    world.clock.advance(60.0)
    assert world.state.run.state == "finished"
    assert {agent.core.state for agent in world.agents.values()} == {"idle"}


def test_the_page_sees_every_device_and_its_telemetry(make_world):
    world = make_world(rounds=1)
    world.clock.advance(10.0)
    assert set(world.node.view.devices) == {"device-1", "device-2"}
    assert all(view.telemetry is not None for view in world.node.view.devices.values())
    assert world.state.devices == {"device-1", "device-2"}


def test_each_version_is_measured_and_kept(make_world):
    world = make_world(rounds=2)
    world.clock.advance(60.0)
    assert world.state.accuracies == {0: 0.5, 1: 0.5, 2: 0.5}


def test_bytes_are_counted_once_on_each_side(make_world):
    world = make_world(rounds=1)
    world.clock.advance(30.0)
    assert world.node.counters.bytes_sent > 0
    assert all(agent.counters.bytes_sent > 0 for agent in world.agents.values())


# ---------------------------------------------------------------- faults


def on_machines_topics(network):
    """Faults strike what is repeated by design; retained topics are repeated at a reconnect only."""

    def choose(delivery):
        if delivery.topic.rpartition("/")[2] in ("up", "down", "bulk"):
            return network(delivery)
        return (0.0,)

    return choose


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hidden", [8, tiny.LARGE_HIDDEN], ids=["inline", "in chunks"])
def test_over_a_faulty_network_every_update_is_settled_exactly_once(make_world, seed, hidden):
    faults = faulty_network(random.Random(seed), drop_fraction=0.15, duplicate_fraction=0.2, max_delay_s=1.5)
    world = make_world(hidden=hidden, rounds=3, network=on_machines_topics(faults), seed=seed)
    world.clock.advance(1500.0)
    assert world.finished == 1
    assert world.outcomes()["refused"] == 0
    # FakeState refuses to keep a key twice; what was put into an outbox was settled and acknowledged.
    assert all(len(outbox) == 0 for outbox in world.outboxes.values())
    applied = [one for commit in world.state.commits for one in commit.settled]
    assert len({(one.device, one.boot_epoch, one.sequence) for one in applied}) == len(applied) >= 3


@pytest.mark.parametrize("seed", range(4))
def test_over_a_faulty_network_with_broken_connections_the_run_still_ends(make_world, seed):
    faults = faulty_network(random.Random(seed), drop_fraction=0.1, duplicate_fraction=0.2, max_delay_s=1.0)
    world = make_world(rounds=3, network=faults, seed=seed)
    for index in range(40):
        world.clock.advance(15.0)
        agent = world.agents[f"device-{index % 2 + 1}"]
        agent.bus.lose_connection()
        world.clock.advance(1.0)
        agent.bus.reconnect()
        agent.connected()
    assert world.finished == 1
    assert all(len(outbox) == 0 for outbox in world.outboxes.values())


def test_an_agent_killed_in_mid_training_comes_back_and_the_run_ends(make_world):
    world = make_world(rounds=2)
    world.clock.advance(1.0)
    world.kill("device-1")
    world.clock.advance(1.0)
    world.add_agent("device-1", step=0.1)
    world.clock.advance(120.0)
    assert world.finished == 1
    assert set(world.outcomes()) <= {"applied", "expired"}


def test_an_update_that_waits_in_the_outbox_of_a_killed_agent_is_applied_once_after_its_restart(make_world):
    world = make_world(rounds=1)
    world.clock.advance(1.0)
    agent = world.agents["device-1"]
    agent.bus.lose_connection()
    world.clock.advance(3.0)
    assert len(world.outboxes["device-1"]) == 1
    world.kill("device-1")
    world.add_agent("device-1", step=0.1)
    world.clock.advance(60.0)
    assert world.finished == 1
    applied = [one for commit in world.state.commits for one in commit.settled if one.outcome == "applied"]
    assert Counter(one.device for one in applied) == {"device-1": 1, "device-2": 1}
    assert len(world.outboxes["device-1"]) == 0


def test_a_second_run_with_the_same_agents_is_not_taken_for_a_repeat_of_the_first(make_world):
    world = make_world(rounds=2)
    world.clock.advance(60.0)
    assert world.finished == 1
    world.node.bus.close()
    world.begin_run(run="run-b", rounds=2)
    world.clock.advance(60.0)
    assert world.finished == 2
    assert world.outcomes() == {"applied": 4}


def test_a_broker_that_forgot_everything_is_told_again_at_the_reconnect(make_world):
    world = make_world(rounds=1)
    world.clock.advance(1.0)
    world.broker._retained.clear()
    world.node.connected()
    assert world.broker.retained(fleet_topic(FLEET, "run")) is not None


# ---------------------------------------------------------------- hostile


def forged(sender, body=None, run="run-a", **more):
    body = body or Decline(order=1, round=1, reason="")
    return encode(
        Envelope(schema=SCHEMA_VERSION, run=run, sender=sender, boot_epoch=9, sequence=9, body=body, **more)
    )


def nan_update(world):
    weights = {name: np.full(value.shape, np.nan, np.float32) for name, value in world.weights.items()}
    return tiny.update_of(pack(weights), vector=(8,))


@pytest.mark.parametrize("leaf", ["status", "hello", "telemetry", "up", "up/bulk", "unknown"])
def test_random_bytes_from_a_device_are_counted_and_the_round_still_finishes(make_world, leaf):
    world = make_world(rounds=1)
    rng = random.Random(3)
    for size in (0, 1, 20, 3000):
        world.node.received(device_topic(FLEET, "device-1", leaf), rng.randbytes(size))
    assert world.node.counters.messages_refused == 4
    world.clock.advance(60.0)
    assert world.outcomes() == {"applied": 2}


@pytest.mark.parametrize("bulk", [False, True])
def test_random_bytes_from_the_coordinator_are_counted_and_the_agent_goes_on(make_world, bulk):
    world = make_world(rounds=1)
    agent = world.agents["device-1"]
    rng = random.Random(3)
    for size in (0, 1, 20, 3000):
        agent.received(down_topic(FLEET, "device-1", bulk=bulk), rng.randbytes(size))
    agent.received(fleet_topic(FLEET, "run"), b"{")
    assert agent.counters.messages_refused == 5
    world.clock.advance(60.0)
    assert world.finished == 1


def test_a_message_that_claims_another_sender_is_refused(make_world):
    world = make_world(rounds=1)
    for claim in ("device-2", COORDINATOR):
        world.node.received(device_topic(FLEET, "device-1", "up"), forged(claim))
    hello = encode_public(tiny.make_hello(device="device-2"))
    world.node.received(device_topic(FLEET, "device-1", "hello"), hello)
    assert world.node.counters.messages_refused == 3
    world.agents["device-1"].received(down_topic(FLEET, "device-1"), forged("device-2"))
    assert world.agents["device-1"].counters.messages_refused == 1


def test_topics_of_nobody_are_refused(make_world):
    world = make_world(rounds=1)
    for topic in ("other/v1/x/y/up", f"edgetide/v1/{FLEET}/BAD_ID/up", "", "edgetide/v1"):
        world.node.received(topic, forged("device-1"))
    assert world.node.counters.messages_refused == 4


def test_the_coordinators_own_messages_are_not_taken_for_a_devices(make_world):
    world = make_world(rounds=1)
    world.node.received(fleet_topic(FLEET, "run"), b"whatever")
    assert world.node.counters.messages_refused == 0
    assert COORDINATOR not in world.node.core.devices


def test_an_unknown_devices_update_is_ignored_and_the_round_finishes(make_world):
    world = make_world(rounds=1)
    update = tiny.update_of(pack(world.weights), vector=(8,))
    world.node.received(device_topic(FLEET, "stranger", "up"), forged("stranger", update, base_version=0))
    world.clock.advance(60.0)
    assert world.outcomes() == {"applied": 2}
    assert world.state.events["update of an unknown device ignored until it says hello"] == 1


def test_a_device_whose_data_do_not_fit_is_not_remembered(make_world):
    world = make_world(rounds=1)
    hello = encode_public(tiny.make_hello(device="stranger", input_shape=(7,)))
    world.node.received(device_topic(FLEET, "stranger", "hello"), hello)
    assert "stranger" not in world.state.devices


def test_nan_in_an_update_is_refused_and_the_round_finishes(make_world):
    world = make_world(rounds=1)
    world.clock.advance(0.5)
    world.node.received(
        device_topic(FLEET, "device-1", "up"), forged("device-1", nan_update(world), base_version=0)
    )
    world.clock.advance(60.0)
    assert world.outcomes() == {"applied": 2, "refused": 1}


def test_an_update_of_another_run_expires_and_the_round_finishes(make_world):
    world = make_world(rounds=1)
    world.clock.advance(0.5)
    update = tiny.update_of(pack(world.weights), vector=(8,))
    world.node.received(
        device_topic(FLEET, "device-1", "up"), forged("device-1", update, run="run-x", base_version=0)
    )
    world.clock.advance(60.0)
    assert world.outcomes() == {"applied": 2, "expired": 1}


def test_a_chunk_nobody_asked_for_and_a_request_for_what_is_not_there_change_nothing(make_world):
    world = make_world(rounds=1)
    for body in (
        Chunk(digest="0" * 64, index=0, num_chunks=1, data=b"x"),
        ChunkRequest(digest="0" * 64, index=2**50),
    ):
        world.node.received(device_topic(FLEET, "device-1", "up/bulk"), forged("device-1", body))
        world.agents["device-1"].received(down_topic(FLEET, "device-1", bulk=True), forged(COORDINATOR, body))
    world.clock.advance(60.0)
    assert world.outcomes() == {"applied": 2}


def test_a_thousand_odd_messages_leave_the_coordinator_running(make_world):
    world = make_world(rounds=1)
    good = forged("device-1", tiny.update_of(b"x" * 10, vector=(8,)), base_version=0)
    rng = random.Random(5)
    for _ in range(1000):
        odd = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            odd[rng.randrange(len(odd))] = rng.randrange(256)
        world.node.received(device_topic(FLEET, "device-1", "up"), bytes(odd[: rng.randint(1, len(odd))]))
    world.clock.advance(60.0)
    assert world.finished == 1


# ---------------------------------------------------------------- rollouts


def test_a_policy_reaches_the_agents_and_is_answered(make_world):
    world = make_world(rounds=2)
    world.clock.advance(1.0)
    world.node.perform(world.node.core.on_policy_rollout(world.blobs.put(b"max_cpu_share_fraction: 0.5\n")))
    world.clock.advance(1.0)
    assert [jobs.installed for jobs in world.jobs.values()] == [
        [("policy", b"max_cpu_share_fraction: 0.5\n")]
    ] * 2
    assert world.state.events["rollout in force"] == 2


def test_a_large_table_travels_in_chunks(make_world):
    world = make_world(rounds=2)
    world.clock.advance(1.0)
    table = random.Random(1).randbytes(200_000)
    refs = world.blobs.put(encode_bundle(world.bundle)), world.blobs.put(table)
    world.node.perform(world.node.core.on_table_rollout(world.bundle, *refs))
    world.clock.advance(5.0)
    assert all(("table", table) in jobs.installed for jobs in world.jobs.values())


def test_a_model_rolled_out_stops_the_jobs_and_starts_them_anew(make_world):
    world = make_world(rounds=1)
    world.clock.advance(1.0)
    other = {name: np.zeros_like(value) for name, value in world.weights.items()}
    world.node.perform(world.node.core.on_model_rollout(other))
    world.clock.advance(60.0)
    assert [len(jobs.started) for jobs in world.jobs.values()] == [2, 2]
    np.testing.assert_allclose(world.node.core.weights["a.bias"], 0.15, rtol=1e-5)
