from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from coordinator.database import Run, Version, open_database
from coordinator.effects import Commit, Settled
from coordinator.model_store import ModelStore
from coordinator.run_state import RECENT, DurableRun, make_report
from device_agent.effects import Note
from device_agent.wire.messages import Hello, PeerReport
from device_agent.wire.messages import Run as PublicRun

WEIGHTS = {"a": np.arange(4, dtype=np.float32)}
RUN = Run(id="run-a", strategy="distreal", graph_digest="0" * 64, config={}, seed=0)


class Clock:
    def __init__(self):
        self.time_s = 100.0

    def __call__(self):
        return self.time_s


class Kept:
    """A run on disk."""

    def __init__(self, folder):
        self.database = open_database(folder / "coordinator.sqlite")
        self.database.begin_or_resume_run(RUN)
        self.store = ModelStore(folder / "models")
        self.clock = Clock()
        self.state = self.begin()

    def begin(self, **base):
        return DurableRun(self.database, self.store, "run-a", clock=self.clock, **base)

    def commit(self, version, *settled, round_number=None, weights=WEIGHTS, bytes_sent=0):
        self.state.commit(
            Commit(
                version=version,
                round=version if round_number is None else round_number,
                weights=weights,
                settled=tuple(settled),
            ),
            bytes_sent,
        )

    def report(self):
        return make_report(self.database, "run-a", {"broker": "mosquitto", "engine": "torch"})


@pytest.fixture
def kept(tmp_path):
    kept = Kept(tmp_path)
    yield kept
    kept.database.close()


def settled(device="a", sequence=1, outcome="applied", **more):
    return Settled(device=device, boot_epoch=1, sequence=sequence, outcome=outcome, **more)


def test_a_commit_keeps_the_weights_and_what_became_of_the_updates(kept):
    kept.commit(1, settled("a"), settled("b", outcome="expired", reason="late"))
    version = kept.database.latest_version("run-a")
    assert (version.version, version.round, version.num_updates) == (1, 1, 1)
    np.testing.assert_array_equal(kept.store.get(version.digest).weights["a"], WEIGHTS["a"])
    assert {(one.update.device, one.outcome) for one in kept.database.outcomes("run-a")} == {
        ("a", "applied"),
        ("b", "expired"),
    }


def test_an_update_cannot_be_committed_twice(kept):
    kept.commit(1, settled("a"))
    with pytest.raises(ValueError, match="twice"):
        kept.commit(2, settled("a"))
    assert kept.database.latest_version("run-a").version == 1


def test_an_update_that_changed_no_model_is_remembered(kept):
    kept.state.record(settled("a", outcome="refused", reason="NaN"))
    (outcome,) = kept.database.outcomes("run-a")
    assert (outcome.outcome, outcome.reason) == ("refused", "NaN")


def test_where_a_device_claims_to_be_is_kept_only_if_it_is_a_number(kept):
    reports = [PeerReport(step=3, sketch=sketch) for sketch in ((1.0, float("nan")), (1.0, 2.0))]
    kept.commit(1, *(settled(name, peers=one) for name, one in zip("ab", reports, strict=True)))
    assert [one.peers["sketch"] for one in kept.database.outcomes("run-a")] == [[], [1.0, 2.0]]
    assert kept.report()["peers"]["barriers"] == [3, 3]


def test_time_and_bytes_go_on_after_a_restart(kept):
    kept.clock.time_s += 10.0
    kept.commit(1, bytes_sent=1000)
    latest = kept.database.latest_version("run-a")
    kept.clock.time_s += 5000.0  # switched off
    kept.state = kept.begin(base_bytes=latest.bytes_sent, base_wall_s=latest.wall_s)
    kept.clock.time_s += 7.0
    kept.commit(2, bytes_sent=50)
    after = kept.database.latest_version("run-a")
    assert (after.wall_s, after.bytes_sent) == (17.0, 1050)


def test_accuracy_device_event_and_state_are_kept(kept):
    kept.commit(1)
    kept.state.evaluated(1, 0.75, 0.5)
    kept.state.device(hello("a", "onnx"))
    kept.state.event(Note("device joined", "a", {"round": 1}))
    kept.state.announced(
        PublicRun(run="run-a", strategy="distreal", state="finished", round=1, num_rounds=1, model_version=1)
    )
    assert kept.database.curve("run-a")[-1].accuracy == 0.75
    assert kept.database.devices()["a"]["num_samples"] == 1
    assert kept.database.events("run-a")[0]["event"] == "device joined"
    _, resumed = kept.database.begin_or_resume_run(replace(RUN, id="run-b"))
    assert not resumed, "a finished run is not resumed"


def test_old_models_make_room_and_the_newest_stay(kept):
    for version in range(1, 2 * RECENT + 1):
        kept.commit(version, weights={"a": np.full(4, version, np.float32)})
    newest = {version.digest for version in kept.database.curve("run-a")[-RECENT:]}
    assert kept.store.digests() == newest


def test_a_restart_deletes_no_model_before_it_knows_the_newest(kept):
    kept.commit(1)
    kept.state = kept.begin()
    for version in range(2, RECENT):
        kept.commit(version, weights={"a": np.full(4, version, np.float32)})
    assert len(kept.store.digests()) == RECENT - 1


def test_a_measured_model_keeps_its_statistics(kept):
    statistics = {"norm.mean": np.zeros(2, np.float32)}
    kept.state.keep_measured(WEIGHTS, statistics)
    (digest,) = kept.store.digests()
    assert set(kept.store.get(digest).statistics) == {"norm.mean"}


# ---------------------------------------------------------------- the report


def test_a_report_counts_updates_batches_macs_and_vectors(kept):
    kept.database.commit_round("run-a", Version(version=0, digest="d", round=0))
    kept.state.evaluated(0, 0.1, 2.3)
    kept.clock.time_s += 12.0
    kept.commit(1, settled("a", 1, macs=100, vectors={"8": 3}), settled("b", 1, macs=50, vectors={"2": 1}))
    kept.state.evaluated(1, 0.8, 0.6)
    kept.commit(2, settled("a", 2, macs=100, vectors={"8": 1, "2": 3}), settled("b", 2, "expired"))
    kept.state.record(settled("b", 3, "refused"))
    kept.state.evaluated(2, 0.9, 0.4)
    report = kept.report()
    assert (report["accuracy"], report["rounds"], report["wall_s"]) == (0.9, 2, 12.0)
    assert report["accuracy_curve"] == [[0.0, 0.1], [12.0, 0.8], [12.0, 0.9]]
    assert (report["updates_applied"], report["updates_expired"], report["updates_refused"]) == (3, 1, 1)
    assert report["macs"] == 250
    assert report["vector_shares"] == {"8": 0.5, "2": 0.5}
    assert [(one["id"], one["updates"], one["batches"], one["vectors"]) for one in report["devices"]] == [
        ("a", 2, 7, {"8": 4, "2": 3}),
        ("b", 1, 1, {"2": 1}),
    ]
    assert (report["broker"], report["engine"]) == ("mosquitto", "torch")


def hello(device, engine):
    return Hello(
        device=device,
        boot_epoch=1,
        version="1",
        profile="p",
        engine=engine,
        num_cores=1,
        memory_total_bytes=None,
        num_samples=1,
        input_shape=(3,),
        num_classes=2,
        cpu_share_fraction=1.0,
    )


def test_a_report_says_what_each_device_computed_with(kept):
    for device, engine in (("a", "torch"), ("b", "onnx"), ("c", "onnx"), ("idle", "numpy")):
        kept.state.device(hello(device, engine))
    kept.commit(1, settled("a"), settled("b"), settled("c"))
    report = kept.report()
    assert {one["id"]: one["engine"] for one in report["devices"]} == {"a": "torch", "b": "onnx", "c": "onnx"}
    assert report["engine"] == "onnx, torch"


def test_a_report_has_every_key_that_scripts_rely_on(kept):
    promised = (
        "accuracy accuracy_curve rounds wall_s bytes_sent updates_applied updates_expired broker engine"
    )
    assert {*promised.split(), "devices"} <= set(kept.report())


def test_a_run_that_has_not_begun_has_a_report_without_numbers(kept):
    report = kept.report()
    assert (report["accuracy"], report["rounds"], report["devices"]) == (None, 0, [])


def test_a_report_is_json(kept):
    kept.commit(1, settled("a", vectors={"8": 1}))
    assert json.loads(json.dumps(kept.report())) == kept.report()


def test_a_model_that_was_rolled_out_counts_as_no_round(kept):
    kept.commit(1, settled("a"))
    kept.commit(2, round_number=1)
    assert kept.report()["rounds"] == 1
