from __future__ import annotations

import random
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.agent import AgentCore
from device_agent.kept_content import KeptContent
from device_agent.node import DISK_RETRY_S, AgentNode
from device_agent.outbox import Outbox
from device_agent.training import TrainingResult
from device_agent.wire.chunks import Downloads
from device_agent.wire.codec import decode, decode_hello, decode_status, encode, encode_public, refer
from device_agent.wire.memory import MemoryBroker
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Ack,
    Chunk,
    ChunkRequest,
    Decline,
    Envelope,
    Order,
    RolledOut,
    Rollout,
    Run,
    Update,
)
from device_agent.wire.topics import COORDINATOR, device_topic, down_topic, fleet_topic
from firmware_profiles.errors import UserError, WorldError
from firmware_profiles.resources import Pause
from models.weights import pack

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

FLEET, DEVICE = "test", "device-1"
DOWN = down_topic(FLEET, DEVICE)
BUNDLE = tiny.make_bundle()
WEIGHTS = pack(tiny.make_weights(BUNDLE))


class FakeJobs:
    """Remembers what it is told; refuses rollouts where a test says so."""

    def __init__(self):
        self.calls, self.refusal = [], None

    def start(self, request):
        self.calls.append(("start", request.in_hand.order.order))

    def stop(self):
        self.calls.append("stop")

    def prepare(self):
        self.calls.append("prepare")

    def install(self, kind, content):
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(("install", kind, content))

    def cpu_share_fraction(self):
        return 0.25

    def allowance(self):
        return 1.0

    def core_seconds(self):
        return 0.0


class Board:
    """An agent's node on the memory bus, and the ear of a coordinator that a test plays."""

    def __init__(self, outbox, kept=None):
        self.broker = MemoryBroker(direct=True)
        self.clock = tiny.FakeClock(self.broker)
        self.outbox, self.jobs = outbox, FakeJobs()
        self.heard = []
        self.ear = self.broker.connect(COORDINATOR)
        self.ear.subscribe(
            device_topic(FLEET, DEVICE, "#"), lambda topic, data: self.heard.append((topic, data))
        )
        self.bus = self.broker.connect(DEVICE)
        self.node = AgentNode(
            fleet=FLEET,
            core=AgentCore(tiny.make_hello(device=DEVICE, boot_epoch=outbox.boot_epoch)),
            bus=self.bus,
            outbox=outbox,
            downloads=Downloads(random.Random(0)),
            timers=self.clock.timers(),
            jobs=self.jobs,
            snapshot=tiny.make_snapshot,
            kept=kept,
        )
        self.sequence = 0

    def tell(self, body, run="run-a", sequence=None, boot_epoch=1, topic=DOWN):
        self.sequence += 1
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run=run,
            sender=COORDINATOR,
            boot_epoch=boot_epoch,
            sequence=self.sequence if sequence is None else sequence,
            body=body,
            base_version=0,
            base_digest=refer(WEIGHTS).digest,
        )
        self.node.received(topic, encode(envelope))
        return envelope

    def bodies(self, kind):
        return [
            envelope.body
            for topic, data in self.heard
            if topic.endswith(("up", "up/bulk"))
            for envelope in [decode(data, topic)]
            if isinstance(envelope.body, kind)
        ]

    def done(self, delta=0.5):
        weights = tiny.make_weights(BUNDLE)
        result = TrainingResult(
            num_samples=8,
            vectors=[(8,)],
            step_vectors=[0, 0],
            delta={name: 0 * value + tiny.np.float32(delta) for name, value in weights.items()},
            macs=1,
            loss_sum=1.0,
        )
        self.node.job_done(result, 1.0, 2.0)


@pytest.fixture
def outbox(tmp_path):
    with Outbox(tmp_path / "outbox.sqlite", DEVICE, rng=random.Random(0)) as outbox:
        yield outbox


@pytest.fixture
def board(outbox):
    return Board(outbox)


def order(number=1, **changes):
    fields = {
        "order": number,
        "round": 1,
        "strategy": "distreal",
        "bundle": refer(b"bundle"),
        "weights": refer(WEIGHTS),
        "num_batches": 2,
        "deadline_s": 100.0,
        "seed": 1,
    }
    return Order(**{**fields, **changes})


def test_who_the_agent_is_stays_at_the_broker_for_those_who_come_later(board):
    board.node.start()
    status = decode_status(board.broker.retained(device_topic(FLEET, DEVICE, "status")))
    hello = decode_hello(board.broker.retained(device_topic(FLEET, DEVICE, "hello")))
    assert (status.online, status.boot_epoch) == (True, board.outbox.boot_epoch)
    assert hello.device == DEVICE


def test_telemetry_comes_every_second_and_is_not_kept_by_the_broker(board):
    board.node.start()
    board.clock.advance(5.0)
    topic = device_topic(FLEET, DEVICE, "telemetry")
    assert len([1 for heard, _ in board.heard if heard == topic]) == 5
    assert board.broker.retained(topic) is None


def test_an_order_starts_the_job_and_its_result_becomes_an_update(board):
    board.tell(order())
    assert board.jobs.calls == [("start", 1)]
    board.done()
    (update,) = board.bodies(Update)
    assert update.order == 1
    assert len(board.outbox) == 1


def test_an_update_is_sent_again_until_it_is_acknowledged(board):
    board.tell(order())
    board.done()
    board.clock.advance(300.0)
    sent = board.bodies(Update)
    assert len(sent) > 2
    assert len({update.delta.digest for update in sent}) == 1
    (envelope,) = board.outbox.due(10**9)
    board.tell(Ack(boot_epoch=envelope.boot_epoch, sequence=envelope.sequence, outcome="applied"))
    assert len(board.outbox) == 0
    board.heard.clear()
    board.clock.advance(300.0)
    assert board.bodies(Update) == []


def test_no_copies_of_an_update_pile_up_while_the_broker_is_away(board):
    board.node.disconnected()
    board.tell(order())
    board.done()
    board.clock.advance(3600.0)
    assert board.bodies(Update) == []
    board.node.connected()
    board.clock.advance(5.0)
    assert len(board.bodies(Update)) == 1


def test_no_requests_for_content_pile_up_while_the_broker_is_away(board):
    board.tell(order(weights=refer(bytes(100), inline_bytes=0)))
    asked = len(board.bodies(ChunkRequest))
    board.node.disconnected()
    board.clock.advance(600.0)
    assert len(board.bodies(ChunkRequest)) == asked
    board.node.connected()
    assert len(board.bodies(ChunkRequest)) == asked + 1


def test_a_repeated_message_is_dealt_with_once(board):
    rollout = Rollout(kind="policy", content=refer(b"{}"))
    board.tell(rollout, sequence=5)
    board.tell(rollout, sequence=5)
    assert board.jobs.calls == [("install", "policy", b"{}")]


def test_the_same_sequence_in_another_run_is_another_message(board):
    board.tell(order(1), run="run-a", sequence=1)
    board.tell(order(1), run="run-b", sequence=1)
    assert [call for call in board.jobs.calls if call != "stop"] == [("start", 1), ("start", 1)]


def test_a_large_delta_is_served_in_chunks_while_it_waits(board):
    board.tell(order())
    board.done()
    (update,) = board.bodies(Update)
    board.tell(ChunkRequest(digest=update.delta.digest, index=0))
    (topic, data) = board.heard[-1]
    assert topic == device_topic(FLEET, DEVICE, "up/bulk")
    assert decode(data, topic).body.digest == update.delta.digest


LARGE_BUNDLE = b"bundle" * 1000
LARGE_REF = refer(LARGE_BUNDLE, inline_bytes=0)


def serve_what_is_asked_for(board, content):
    """Play the coordinator: one chunk has it all."""
    (digest,) = {request.digest for request in board.bodies(ChunkRequest)}
    board.tell(
        Chunk(digest=digest, index=0, num_chunks=1, data=content),
        topic=down_topic(FLEET, DEVICE, bulk=True),
    )


def test_a_bundle_is_fetched_once_for_all_orders(board):
    board.tell(order(1, bundle=LARGE_REF))
    serve_what_is_asked_for(board, LARGE_BUNDLE)
    board.heard.clear()
    board.tell(order(2, bundle=LARGE_REF))
    assert board.bodies(ChunkRequest) == []
    assert [call for call in board.jobs.calls if call != "stop"] == [("start", 1), ("start", 2)]


def test_a_bundle_is_not_fetched_again_after_a_restart(outbox, tmp_path):
    before = Board(outbox, KeptContent(tmp_path / "bundles"))
    before.tell(order(1, bundle=LARGE_REF))
    serve_what_is_asked_for(before, LARGE_BUNDLE)
    after = Board(outbox, KeptContent(tmp_path / "bundles"))
    after.tell(order(2, bundle=LARGE_REF))
    assert after.bodies(ChunkRequest) == []
    assert after.jobs.calls == [("start", 2)]


def test_weights_are_not_kept(board):
    ref = refer(WEIGHTS, inline_bytes=0)
    board.tell(order(1, weights=ref))
    serve_what_is_asked_for(board, WEIGHTS)
    board.heard.clear()
    board.tell(order(2, weights=ref))
    assert len(board.bodies(ChunkRequest)) == 1


def test_a_rollout_in_force_is_told_with_the_policys_digest(board):
    ref = refer(b"max_cpu_share_fraction: 0.5\n")
    board.tell(Rollout(kind="policy", content=ref))
    (told,) = board.bodies(RolledOut)
    assert (told.in_force, told.digest) == (True, ref.digest)
    hello = decode_hello(board.broker.retained(device_topic(FLEET, DEVICE, "hello")))
    assert hello.policy_digest == ref.digest


def test_a_rollout_the_jobs_refuse_is_told_with_the_reason(board):
    board.jobs.refusal = UserError("policy:1: unknown key")
    board.tell(Rollout(kind="policy", content=refer(b"x: 1\n")))
    (told,) = board.bodies(RolledOut)
    assert (told.in_force, told.reason) == (False, "policy:1: unknown key")
    assert board.node.core.hello.policy_digest == ""


def test_a_pause_and_a_failure_reach_the_core(board):
    board.tell(order())
    board.node.job_paused(Pause("hot"))
    assert board.node.core.state == "paused"
    board.node.job_failed("out of memory")
    assert [decline.reason for decline in board.bodies(Decline)] == ["out of memory"]


def test_new_local_data_is_told(board):
    board.node.data_changed(99)
    hello = decode_hello(board.broker.retained(device_topic(FLEET, DEVICE, "hello")))
    assert hello.num_samples == 99


def test_an_agent_that_leaves_stops_its_job_and_says_goodbye(board):
    board.node.start()
    board.node.leave("stopped")
    assert board.jobs.calls == ["stop"]
    status = decode_status(board.broker.retained(device_topic(FLEET, DEVICE, "status")))
    assert (status.online, status.reason) == (False, "stopped")


def test_a_new_run_prepares_and_its_end_stops_the_job(board):
    run = Run(run="run-a", strategy="distreal", state="training", round=1, num_rounds=1, model_version=0)
    board.node.received(fleet_topic(FLEET, "run"), encode_public(run))
    board.tell(order())
    over = Run(run="run-a", strategy="distreal", state="finished", round=1, num_rounds=1, model_version=1)
    board.node.received(fleet_topic(FLEET, "run"), encode_public(over))
    assert board.jobs.calls == ["prepare", ("start", 1), "stop"]


def test_topics_that_are_not_the_agents_are_ignored(board):
    board.node.received(down_topic(FLEET, "device-2"), b"garbage")
    assert board.node.counters.messages_refused == 0
    assert board.jobs.calls == []


# ---------------------------------------------------------------- a disk in trouble


def test_a_full_disk_is_told_as_a_decline_and_the_agent_goes_on(board, monkeypatch):
    def put(**_message):
        raise WorldError("outbox is full")

    board.tell(order())
    with monkeypatch.context() as disk:
        disk.setattr(board.outbox, "put", put)
        board.done()
    (decline,) = board.bodies(Decline)
    assert decline.order == 1
    assert "outbox is full" in decline.reason
    board.tell(order(2))
    assert board.jobs.calls[-1] == ("start", 2)


def test_a_truly_full_outbox_declines_too(tmp_path):
    with Outbox(tmp_path / "small.sqlite", DEVICE, max_bytes=100) as outbox:
        board = Board(outbox)
        board.tell(order())
        board.done()
        assert "is full" in board.bodies(Decline)[0].reason
        assert outbox.num_refused == 1


def test_a_disk_that_cannot_be_read_is_asked_again_later(board, monkeypatch):
    board.tell(order())

    def due(now_s):
        raise WorldError("disk I/O error")

    with monkeypatch.context() as disk:
        disk.setattr(board.outbox, "due", due)
        board.done()
    assert board.bodies(Update) == []
    board.clock.advance(DISK_RETRY_S)
    assert len(board.bodies(Update)) == 1


def test_an_acknowledgement_that_cannot_be_kept_leaves_the_message_to_the_next_one(board, monkeypatch):
    board.tell(order())
    board.done()
    (envelope,) = board.outbox.due(10**9)
    ack = Ack(boot_epoch=envelope.boot_epoch, sequence=envelope.sequence, outcome="applied")

    def acknowledge(boot_epoch, sequence):
        raise WorldError("disk I/O error")

    with monkeypatch.context() as disk:
        disk.setattr(board.outbox, "acknowledge", acknowledge)
        board.tell(ack)
    assert len(board.outbox) == 1
    board.tell(ack)
    assert len(board.outbox) == 0


def test_content_that_cannot_be_read_is_not_called_gone(board, monkeypatch):
    def blob(digest):
        raise WorldError("disk I/O error")

    monkeypatch.setattr(board.outbox, "blob", blob)
    board.heard.clear()
    board.tell(ChunkRequest(digest="0" * 64, index=0))
    assert board.heard == []
