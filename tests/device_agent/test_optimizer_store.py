from __future__ import annotations

import logging
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from device_agent.agent import JobRequest, OrderInHand
from device_agent.job_thread import drive
from device_agent.optimizer_store import FileStore, MemoryStore
from device_agent.wire.codec import refer
from device_agent.wire.messages import Order
from device_agent.workbench import Workbench
from firmware_profiles.errors import WorldError
from firmware_profiles.policy import Policy
from firmware_profiles.profile import load_profile
from models.bundle import encode
from models.optim.settings import OptimizerSettings
from models.optim.state import OptimizerState, load_state, save_state
from models.weights import pack

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

BELONGS = {"run": "run-a", "network": "n", "method": "sgd"}
EXPECTED = {"velocity/w": (2, 2)}


def some_state(value=1.0):
    return OptimizerState(3, {"velocity": {"w": np.full((2, 2), value, np.float32)}})


def bundle_with(**optimizer):
    bundle = tiny.make_bundle()
    optimizer = OptimizerSettings(**{"learning_rate": 0.1, "keep_state": True, **optimizer})
    settings = msgspec.structs.replace(bundle.settings, optimizer=optimizer)
    return msgspec.structs.replace(bundle, settings=settings)


ADAMW = bundle_with(method="adamw", learning_rate=0.01)
WEIGHTS = tiny.make_weights(ADAMW)


def make_bench(store, engine=None):
    return Workbench(
        profile=load_profile("generic-linux"),
        policy=Policy(max_cpu_share_fraction=1.0),
        data=tiny.make_data,
        snapshot=lambda: tiny.make_snapshot(memory_available_bytes=8 * 2**30),
        engine=lambda _bundle: engine or tiny.NumpyEngine(),
        num_threads=1,
        store=store,
    )


def open_order(bench, number=1, bundle=ADAMW, run="run-a", **order):
    fields = {
        "order": number,
        "round": number,
        "strategy": "distreal",
        "bundle": refer(encode(bundle)),
        "weights": refer(pack(WEIGHTS)),
        "num_batches": 4,
        "deadline_s": 60.0,
        "seed": number,
    }
    in_hand = OrderInHand(
        order=Order(**{**fields, **order}),
        run=run,
        base_version=0,
        base_digest="0" * 64,
        deadline_at_s=time.monotonic() + 60.0,
    )
    request = JobRequest(in_hand=in_hand, bundle=encode(bundle), weights=pack(WEIGHTS))
    return bench.open(request, report=lambda _news: None)


def train_order(bench, number=1, **order):
    worked = drive(open_order(bench, number, **order), threading.Event())
    assert worked is not None
    return worked.result.delta


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- over orders


@pytest.fixture(params=["adamw", "sgd"])
def bundle(request):
    return ADAMW if request.param == "adamw" else bundle_with(method="sgd")


def test_a_state_that_is_kept_goes_on_after_the_process_is_gone(tmp_path, bundle):
    path = tmp_path / "optimizer.safetensors"
    train_order(make_bench(FileStore(path)), 1, bundle=bundle)
    restarted = train_order(make_bench(FileStore(path)), 2, bundle=bundle)
    lived_on = make_bench(MemoryStore())
    train_order(lived_on, 1, bundle=bundle)
    assert same(restarted, train_order(lived_on, 2, bundle=bundle))
    assert not same(restarted, train_order(make_bench(MemoryStore()), 2, bundle=bundle))


def test_by_default_each_order_begins_anew(tmp_path):
    path = tmp_path / "optimizer.safetensors"
    bundle = bundle_with(method="adamw", keep_state=False)
    bench = make_bench(FileStore(path))
    train_order(bench, 1, bundle=bundle)
    assert same(
        train_order(bench, 2, bundle=bundle), train_order(make_bench(MemoryStore()), 2, bundle=bundle)
    )
    assert not path.exists()


class Failing(tiny.NumpyEngine):
    """Fails once, after so many mini-batches."""

    def __init__(self, after):
        self.left = after

    def gradients(self, weights, inputs, targets):
        self.left -= 1
        if self.left == 0:
            raise WorldError("the engine failed")
        return super().gradients(weights, inputs, targets)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_an_order_that_is_cut_short_leaves_the_state_it_began_with(tmp_path, kind):
    store = FileStore(tmp_path / "o") if kind == "file" else MemoryStore()
    bench = make_bench(store, Failing(after=8))
    train_order(bench, 1)
    with pytest.raises(WorldError, match="the engine failed"):
        train_order(bench, 2)
    other = make_bench(MemoryStore())
    train_order(other, 1)
    assert same(train_order(bench, 3), train_order(other, 3))


def test_another_run_begins_anew(tmp_path):
    bench = make_bench(FileStore(tmp_path / "o"))
    train_order(bench, 1)
    assert same(train_order(bench, 2, run="run-b"), train_order(make_bench(MemoryStore()), 2))


def test_a_state_that_blew_up_is_forgotten(tmp_path):
    class Exploding(tiny.NumpyEngine):
        def gradients(self, weights, inputs, targets):
            return super().gradients(weights, inputs, targets)._replace(loss=float("nan"))

    path = tmp_path / "o"
    train_order(make_bench(FileStore(path)), 1)
    assert path.exists()
    with pytest.raises(WorldError, match="no longer finite"):
        train_order(make_bench(FileStore(path), Exploding()), 2)
    assert not path.exists()


def test_without_a_rate_in_the_order_the_schedule_goes_by_the_round():
    rates = {"method": "sgd", "momentum": 0.0, "keep_state": False}
    halving = bundle_with(**rates, learning_rate=0.1, schedule="step", every=1, factor=0.5)
    third = train_order(make_bench(MemoryStore()), 1, bundle=halving, round=3)
    plain = bundle_with(**rates)
    assert same(third, train_order(make_bench(MemoryStore()), 1, bundle=plain, learning_rate=0.025))
    assert not same(third, train_order(make_bench(MemoryStore()), 1, bundle=halving, round=1))


# ---------------------------------------------------------------- the file


def refused(path, caplog):
    """What the log says of a file that is not used."""
    with caplog.at_level(logging.INFO, "device_agent.optimizer_store"):
        assert FileStore(path).load(BELONGS, EXPECTED) is None
    assert path.with_name(path.name + ".aside").exists() == (not path.exists())
    return caplog.text


def test_a_state_is_read_as_it_was_written(tmp_path):
    store = FileStore(tmp_path / "o")
    store.keep(BELONGS, some_state(2.5))
    state = store.load(BELONGS, EXPECTED)
    assert state is not None
    assert state.num_steps == 3
    assert np.array_equal(state.tensors["velocity"]["w"], np.full((2, 2), 2.5, np.float32))


def test_no_file_is_no_state_and_no_noise(tmp_path, caplog):
    assert FileStore(tmp_path / "o").load(BELONGS, EXPECTED) is None
    assert not caplog.text


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_put_aside(tmp_path, caplog, share):
    path = tmp_path / "o"
    save_state(path, some_state(), BELONGS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "put aside" in refused(path, caplog)
    assert not path.exists()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"velocity": {"w": np.zeros((2, 3), np.float32)}}, r"'velocity/w' has shape \[2, 3\]"),
        ({"velocity": {"v": np.zeros((2, 2), np.float32)}}, "'velocity/w' is missing"),
        ({"velocity": {"w": np.full((2, 2), np.nan, np.float32)}}, "must be finite"),
        ({"velocity": {"w": np.zeros((2, 2), np.float64)}}, "float64, float32 is expected"),
        ({}, "missing"),
    ],
)
def test_tensors_that_are_not_those_expected_are_put_aside(tmp_path, caplog, tensors, says):
    path = tmp_path / "o"
    save_state(path, OptimizerState(1, tensors), BELONGS)
    text = refused(path, caplog)
    assert re.search(says, text), text
    assert not path.exists()


def test_moments_below_zero_are_no_sums_of_squares(tmp_path, caplog):
    path = tmp_path / "o"
    state = OptimizerState(
        1, {kind: {"w": np.full(2, -1.0, np.float32)} for kind in ("first", "second", "count")}
    )
    save_state(path, state, BELONGS)
    with caplog.at_level(logging.WARNING):
        expected = {f"{kind}/w": (2,) for kind in state.tensors}
        assert FileStore(path).load(BELONGS, expected) is None
    assert "below 0" in caplog.text


@pytest.mark.parametrize("about", [{"format": "2"}, {"num_steps": "many"}])
def test_a_file_of_another_format_is_put_aside(tmp_path, caplog, about):
    path = tmp_path / "o"
    save_state(path, some_state(), {**BELONGS, **about})
    assert "not of format 1" in refused(path, caplog)


def test_the_state_of_another_run_is_put_aside_and_not_called_damaged(tmp_path, caplog):
    path = tmp_path / "o"
    save_state(path, some_state(), {**BELONGS, "run": "run-b"})
    assert "run-b" in refused(path, caplog)
    assert caplog.records[0].levelno == logging.INFO


def test_a_disk_that_refuses_costs_the_state_and_not_the_order(tmp_path, caplog):
    FileStore(tmp_path / "missing" / "o").keep(BELONGS, some_state())
    assert "cannot be written" in caplog.text


WRITER = """
import sys
from pathlib import Path
import numpy as np
from models.optim.state import OptimizerState, save_state
number = 0
while True:
    number += 1
    one = np.full((256, 256), number, np.float32)
    save_state(Path(sys.argv[1]), OptimizerState(number, {"velocity": {"w": one}}), {"run": "a"})
    print(number, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_a_whole_state(tmp_path):
    path = tmp_path / "o"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    state = load_state(path, {"velocity/w": (256, 256)})
    assert (state.tensors["velocity"]["w"] == state.num_steps).all()


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    (tmp_path / ".o.123.partial").write_bytes(b"half a state")
    FileStore(tmp_path / "o")
    assert not list(tmp_path.iterdir())
