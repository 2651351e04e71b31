from __future__ import annotations

import queue
import runpy
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from device_agent.agent import JobRequest, OrderInHand
from device_agent.live_jobs import Listener, LiveJobs
from device_agent.wire.codec import refer
from device_agent.wire.messages import Order
from firmware_profiles.errors import PeerError, UserError
from firmware_profiles.policy import Policy
from firmware_profiles.profile import load_profile
from models.bundle import encode
from models.gradients.artifacts import Artifacts
from models.table import dump_table
from models.weights import pack

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

BUNDLE = tiny.make_bundle()
WEIGHTS = tiny.make_weights(BUNDLE)


class HeldEngine(tiny.NumpyEngine):
    """Computes a mini-batch only while `may_go` is set, and says when one is asked for."""

    def __init__(self):
        self.may_go, self.asked = threading.Event(), threading.Event()
        self.may_go.set()
        self.num_steps = 0

    def gradients(self, weights, inputs, targets):
        self.asked.set()
        self.may_go.wait()
        self.num_steps += 1
        return super().gradients(weights, inputs, targets)


class Device:
    """Live jobs with a node's thread that the test plays."""

    def __init__(self, monkeypatch):
        self.engine = HeldEngine()
        self.engines_made = 0
        self.data = tiny.make_data()
        self.snapshot = tiny.make_snapshot(memory_available_bytes=8 * 2**30)
        self.news, self.stored = [], []
        self._posted = queue.SimpleQueue()
        monkeypatch.setattr("device_agent.live_jobs.make_engine", self._make_engine)
        self.jobs = LiveJobs(
            profile=load_profile("generic-linux"),
            policy=Policy(max_cpu_share_fraction=1.0),
            data=lambda: self.data,
            snapshot=lambda: self.snapshot,
            engine_kind="auto",
            num_threads=1,
            listener=Listener(
                progress=lambda cost: self.news.append(("progress", cost)),
                paused=lambda pause: self.news.append(("paused", pause)),
                done=lambda result, busy_s, wall_s: self.news.append(("done", result)),
                failed=lambda reason: self.news.append(("failed", reason)),
            ),
            post=self._posted.put,
            store_policy=self.stored.append,
        )

    def _make_engine(self, kind, graph, loss, num_threads, artifacts):
        self.engines_made += 1
        self.artifacts = artifacts
        return self.engine

    def until(self, kind):
        """Play the node's thread until news of this kind came; returns what it said."""
        while True:
            for known, said in self.news:
                if known == kind:
                    return said
            self._posted.get(timeout=20)()

    def pump(self):
        """Run what was posted so far."""
        while not self._posted.empty():
            self._posted.get()()


@pytest.fixture
def device(monkeypatch):
    device = Device(monkeypatch)
    yield device
    device.engine.may_go.set()
    device.jobs.stop()


def request(bundle=BUNDLE, weights=None, deadline_s=60.0, **order):
    fields = {
        "order": 1,
        "round": 1,
        "strategy": "distreal",
        "bundle": refer(encode(bundle)),
        "weights": refer(pack(weights or WEIGHTS)),
        "num_batches": 3,
        "deadline_s": deadline_s,
        "seed": 1,
    }
    in_hand = OrderInHand(
        order=Order(**{**fields, **order}),
        run="run-a",
        base_version=0,
        base_digest="0" * 64,
        deadline_at_s=time.monotonic() + deadline_s,
    )
    return JobRequest(in_hand=in_hand, bundle=encode(bundle), weights=pack(weights or WEIGHTS))


def test_a_job_trains_the_mini_batches_ordered_and_tells_each(device):
    device.jobs.start(request())
    result = device.until("done")
    assert len(result.step_vectors) == 3
    assert [kind for kind, _ in device.news].count("progress") == 3


def test_the_engine_is_kept_from_order_to_order(device):
    for order in (1, 2):
        device.news.clear()
        device.jobs.start(request(order=order))
        device.until("done")
    assert device.engines_made == 1


def test_a_model_of_another_shape_gets_an_engine_of_its_own(device):
    device.jobs.start(request())
    device.until("done")
    device.news.clear()
    wider = tiny.make_bundle(hidden=16)
    device.jobs.start(request(wider, tiny.make_weights(wider), order=2))
    device.until("done")
    assert device.engines_made == 2


def test_an_engine_gets_the_graphs_of_its_bundle(device):
    artifacts = Artifacts(training=b"t", evaluation=b"e", loss=b"l")
    device.jobs.start(request(msgspec.structs.replace(BUNDLE, artifacts=artifacts)))
    device.until("done")
    assert device.artifacts == artifacts


def test_other_training_graphs_get_an_engine_of_their_own(device):
    device.jobs.start(request())
    device.until("done")
    device.news.clear()
    artifacts = Artifacts(training=b"t", evaluation=b"e", loss=b"l")
    device.jobs.start(request(msgspec.structs.replace(BUNDLE, artifacts=artifacts), order=2))
    device.until("done")
    assert device.engines_made == 2


def test_an_engine_that_cannot_be_loaded_ahead_is_logged_and_the_agent_goes_on(device, monkeypatch, caplog):
    loaded = threading.Event()

    def load(_kind):
        loaded.set()
        raise UserError("engine 'onnx' needs onnxruntime")

    monkeypatch.setattr("device_agent.live_jobs.load_engine", load)
    device.jobs.prepare()
    assert loaded.wait(20)
    for thread in threading.enumerate():
        if thread.name == "prepare":
            thread.join()
    assert "needs onnxruntime" in caplog.text
    device.jobs.start(request())
    device.until("done")


def test_stop_gives_the_job_up_within_one_mini_batch(device):
    device.jobs.start(request(num_batches=1000))
    device.until("progress")
    device.jobs.stop()
    steps = device.engine.num_steps
    device.pump()
    assert device.engine.num_steps == steps
    assert "done" not in dict(device.news)


def test_the_news_of_a_job_given_up_are_not_told(device):
    device.jobs.start(request())
    while device.engine.num_steps < 3:
        device.engine.asked.wait()
    device.jobs.stop()
    device.news.clear()
    device.pump()
    assert device.news == []


def test_a_hot_board_pauses_with_the_reason_and_goes_on_when_it_has_cooled(device):
    device.jobs.install("policy", b"max_temperature_celsius: 60\nmax_cpu_share_fraction: 1.0\n")
    device.snapshot = tiny.make_snapshot(memory_available_bytes=8 * 2**30, temperature_celsius=75.0)
    device.jobs.start(request())
    assert "75.0 °C" in device.until("paused").reason
    assert device.jobs.cpu_share_fraction() is None
    device.snapshot = tiny.make_snapshot(memory_available_bytes=8 * 2**30, temperature_celsius=30.0)
    assert len(device.until("done").step_vectors) == 3


def test_a_policy_installed_in_mid_job_takes_effect_at_the_next_mini_batch(device):
    device.jobs.start(request(num_batches=1000))
    device.until("progress")
    device.engine.may_go.clear()
    device.jobs.install("policy", b"only_when_charging: true\n")
    device.snapshot = tiny.make_snapshot(
        memory_available_bytes=8 * 2**30, battery_fraction=0.9, charging=False
    )
    steps = device.engine.num_steps
    device.engine.may_go.set()
    pause = device.until("paused")
    assert "external power" in pause.reason
    assert device.engine.num_steps <= steps + 2


def test_an_installed_policy_is_stored(device):
    content = b"max_cpu_share_fraction: 0.5\n"
    device.jobs.install("policy", content)
    assert device.stored == [content]


def test_a_policy_that_does_not_fit_is_refused_and_not_stored(device):
    with pytest.raises(UserError, match="max_cpu_share_fractoin"):
        device.jobs.install("policy", b"max_cpu_share_fractoin: 0.5\n")
    assert device.stored == []


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2]", b"&a [*a]", b""])
def test_a_policy_of_odd_bytes_is_an_error_of_ours_or_the_default(device, content):
    try:
        device.jobs.install("policy", content)
    except UserError:
        assert device.stored == []
    else:
        assert device.stored == [content]


def table_of(bundle, *vectors):
    entries = tuple(entry for entry in bundle.table.entries if entry.vector in vectors)
    return dump_table(msgspec.structs.replace(bundle.table, entries=entries)).encode()


def test_a_table_installed_in_mid_job_takes_effect_at_the_next_mini_batch(device):
    small_is_best = tuple(
        msgspec.structs.replace(entry, progress=-float(entry.macs)) for entry in BUNDLE.table.entries
    )
    table = dump_table(msgspec.structs.replace(BUNDLE.table, entries=small_is_best)).encode()
    device.jobs.start(request(num_batches=1000, deadline_s=5.0))
    device.until("progress")
    device.jobs.install("table", table)
    while device.news[-1][0] != "progress" or device.news[-1][1].vector != (2,):
        device.news.clear()
        device.until("progress")
    device.jobs.stop()


def test_a_table_of_another_network_is_refused(device):
    device.jobs.start(request())
    device.until("done")
    other = dump_table(tiny.make_bundle(hidden=16).table).encode()
    with pytest.raises(PeerError, match="another network"):
        device.jobs.install("table", other)


def test_a_table_before_the_first_order_is_refused_with_the_reason(device):
    with pytest.raises(PeerError, match="before the first order"):
        device.jobs.install("table", table_of(BUNDLE, (2,), (8,)))


def test_what_is_neither_policy_nor_table_is_refused(device):
    with pytest.raises(PeerError, match="'code'"):
        device.jobs.install("code", b"import os")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": "telepathy"}, "strategy 'telepathy' is unknown"),
        ({"weights": tiny.make_weights(tiny.make_bundle(hidden=16))}, "shape"),
    ],
    ids=["strategy", "weights"],
)
def test_an_order_that_cannot_be_done_is_told_with_the_reason(device, changes, reason):
    device.jobs.start(request(**changes))
    assert reason in device.until("failed")


def test_a_damaged_bundle_is_told_with_the_reason(device):
    broken = request()
    device.jobs.start(JobRequest(in_hand=broken.in_hand, bundle=b"\x81", weights=broken.weights))
    assert "bundle" in device.until("failed")


def test_local_data_that_does_not_fit_the_model_is_told_with_both_shapes(device):
    device.data = tiny.Dataset(tiny.np.zeros((4, 7), "float32"), tiny.np.zeros(4, "int64"), 2)
    device.jobs.start(request())
    assert "(7,)" in device.until("failed")


def test_local_data_that_lacks_an_axis_of_length_1_is_trained_all_the_same(device):
    data = tiny.make_data()
    device.data = tiny.Dataset(data.samples.reshape(-1, 1, 3), data.labels, 2)
    device.jobs.start(request())
    assert len(device.until("done").step_vectors) == 3


def test_local_data_of_more_classes_than_the_model_has_is_told(device):
    device.data = tiny.Dataset(tiny.np.zeros((4, 3), "float32"), tiny.np.arange(4), 4)
    device.jobs.start(request())
    assert "4 classes" in device.until("failed")


def test_no_local_data_at_all_is_told(device):
    device.data = tiny.Dataset(tiny.np.zeros((0, 3), "float32"), tiny.np.zeros(0, "int64"), 2)
    device.jobs.start(request())
    assert "sample" in device.until("failed")


def test_a_deadline_that_is_past_ends_with_nothing_trained(device):
    device.jobs.start(request(deadline_s=-1.0))
    assert device.until("done").step_vectors == []


def test_one_thread_is_granted_one_core_at_most(device):
    device.snapshot = tiny.make_snapshot(num_cores=4, memory_available_bytes=8 * 2**30)
    device.jobs.start(request(num_batches=1000))
    device.until("progress")
    assert device.jobs.cpu_share_fraction() == 0.25


def test_before_the_first_order_no_share_is_granted(device):
    assert device.jobs.cpu_share_fraction() is None
