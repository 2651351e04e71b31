"""Compressed updates from the bench to the outbox, and what they leave behind."""

from __future__ import annotations

import random
import runpy
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from device_agent.agent import AgentCore, JobRequest, OrderInHand
from device_agent.job_thread import drive
from device_agent.node import AgentNode
from device_agent.outbox import Outbox
from device_agent.residual_store import FileResiduals
from device_agent.wire.chunks import Downloads
from device_agent.wire.codec import encode as encode_message
from device_agent.wire.codec import refer
from device_agent.wire.memory import MemoryBroker
from device_agent.wire.messages import SCHEMA_VERSION, Ack, Envelope, Order, Update
from device_agent.wire.topics import COORDINATOR, down_topic
from device_agent.workbench import Workbench
from firmware_profiles.policy import Policy
from firmware_profiles.profile import load_profile
from models.bundle import encode
from models.compression.codec import decode
from models.compression.settings import CompressionSettings
from models.compression.trained import trained_entries
from models.graph import digest
from models.weights import pack, unpack

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))
DEVICE = "device-1"


def bundle_with(scheme, **compression):
    bundle = tiny.make_bundle()
    compression = CompressionSettings(scheme=scheme, **{"keep_fraction": 0.2, "block": 8, **compression})
    return msgspec.structs.replace(
        bundle, settings=msgspec.structs.replace(bundle.settings, compression=compression)
    )


class Board:
    """A node, its outbox, and a bench whose jobs a test drives; all of it on one folder."""

    def __init__(self, folder, bundle, max_bytes=2**20):
        self.bundle = bundle
        self.outbox = Outbox(folder / "outbox.sqlite", DEVICE, max_bytes=max_bytes)
        self.residuals = FileResiduals(folder / "r", lambda digest: self.outbox.blob(digest) is not None)
        self.bench = Workbench(
            profile=load_profile("generic-linux"),
            policy=Policy(max_cpu_share_fraction=1.0),
            data=tiny.make_data,
            snapshot=lambda: tiny.make_snapshot(memory_available_bytes=8 * 2**30),
            engine=lambda _bundle: tiny.NumpyEngine(),
            num_threads=1,
            residuals=self.residuals,
        )
        broker = MemoryBroker(direct=True)
        self.requests = []
        jobs = SimpleNamespace(
            allowance=lambda: 1.0,
            core_seconds=lambda: 0.0,
            start=self.requests.append,
            stop=lambda: None,
            prepare=lambda: None,
            cpu_share_fraction=lambda: None,
        )
        self.node = AgentNode(
            fleet="test",
            core=AgentCore(tiny.make_hello(device=DEVICE, boot_epoch=self.outbox.boot_epoch)),
            bus=broker.connect(DEVICE),
            outbox=self.outbox,
            downloads=Downloads(random.Random(0)),
            timers=tiny.FakeClock(broker).timers(),
            jobs=jobs,
            snapshot=tiny.make_snapshot,
            residuals=self.residuals,
        )

    def train(self, number):
        """What the bench learns from an order."""
        order = Order(
            order=number,
            round=number,
            strategy="distreal",
            bundle=refer(encode(self.bundle)),
            weights=refer(pack(tiny.make_weights(self.bundle))),
            num_batches=4,
            deadline_s=60.0,
            seed=number,
        )
        self.hear(order, sequence=number)
        in_hand = OrderInHand(
            order=order,
            run="run-a",
            base_version=0,
            base_digest="0" * 64,
            deadline_at_s=time.monotonic() + 60.0,
        )
        request = JobRequest(
            in_hand=in_hand, bundle=encode(self.bundle), weights=pack(tiny.make_weights(self.bundle))
        )
        worked = drive(self.bench.open(request, report=lambda _news: None), threading.Event())
        assert worked is not None
        return worked.result

    def hear(self, body, sequence):
        """The coordinator says something."""
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run="run-a",
            sender=COORDINATOR,
            boot_epoch=1,
            sequence=sequence,
            body=body,
            base_version=0,
            base_digest="0" * 64,
        )
        self.node.received(down_topic("test", DEVICE), encode_message(envelope))

    def do(self, number):
        """Train an order and put its update in the outbox; what was learned, and what the update says."""
        result = self.train(number)
        self.node.job_done(result, 1.0, 1.0)
        update = self.outbox.due(10.0**9 * number)[-1].body
        assert isinstance(update, Update)
        return result.delta, self.read(update)

    def read(self, update):
        mask = trained_entries(
            self.bundle,
            update.vectors,
            update.step_vectors,
            seed=update.seed,
            round_number=update.round,
            weights=None,
        )
        content = self.outbox.blob(update.delta.digest)
        return decode(content, self.bundle.graph.parameters, seed=update.seed, mask=mask)

    def in_force(self):
        belongs = {"run": "run-a", "network": digest(self.bundle.graph)}
        return self.residuals.load(belongs, self.bundle.graph.parameters)


@pytest.fixture
def make_board(tmp_path):
    boards = []

    def make(scheme="top-k", **options):
        for board in boards:
            board.outbox.close()
        boards.append(Board(tmp_path, bundle_with(scheme), **options))
        return boards[-1]

    yield make
    for board in boards:
        board.outbox.close()


def total(*parts):
    return {name: sum(np.asarray(part[name], np.float64) for part in parts) for name in parts[0]}


def assert_same(one, other):
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)


@pytest.mark.parametrize("scheme", ["int8", "top-k", "random-mask"])
def test_what_two_updates_say_and_what_is_kept_is_what_was_learned(make_board, scheme):
    board = make_board(scheme)
    learned, sent = zip(*(board.do(number) for number in (1, 2)), strict=True)
    assert_same(total(*sent, board.in_force()), total(*learned))
    assert any(one.any() for one in board.in_force().values())


def test_what_was_left_out_goes_with_the_next_update_after_a_restart(make_board):
    learned, sent = make_board().do(1)
    board = make_board()
    more_learned, more_sent = board.do(2)
    assert_same(total(sent, more_sent, board.in_force()), total(learned, more_learned))


def test_an_order_that_was_replaced_leaves_no_trace_in_the_residual(make_board):
    board = make_board()
    board.do(1)
    before = {name: one.copy() for name, one in board.in_force().items()}
    board.train(2)  # and nobody hears of it
    assert_same(before, board.in_force())


def test_an_update_that_the_outbox_refuses_leaves_the_residual_as_it_was(make_board):
    board = make_board(max_bytes=10)
    result = board.train(1)
    board.node.job_done(result, 1.0, 1.0)
    assert len(board.outbox) == 0
    assert board.in_force() == {}


@pytest.mark.parametrize(("outcome", "is_kept"), [("applied", True), ("expired", True), ("refused", False)])
def test_after_an_update_that_was_refused_feedback_begins_anew(make_board, outcome, is_kept):
    board = make_board()
    board.do(1)
    board.hear(Ack(boot_epoch=board.outbox.boot_epoch, sequence=1, outcome=outcome), sequence=2)
    assert bool(board.in_force()) == is_kept


def test_float16_leaves_nothing_behind(make_board):
    board = make_board("float16")
    learned, sent = board.do(1)
    for name, values in learned.items():
        np.testing.assert_allclose(sent[name], values, rtol=2.0**-10, atol=1e-7)
    assert board.in_force() == {}


def test_without_compression_updates_are_the_weights_blob_that_they_always_were(make_board):
    board = make_board("none")
    result = board.train(1)
    assert result.sealed is None
    board.node.job_done(result, 1.0, 1.0)
    (envelope,) = board.outbox.due(10.0**9)
    content = board.outbox.blob(envelope.body.delta.digest)
    assert_same(unpack(content, board.bundle.graph.parameters), result.delta)
