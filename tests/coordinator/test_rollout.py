from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from coordinator.control import Request
from coordinator.rollout import MAX_BYTES, keep, read_rollout, restore, roll_out
from coordinator.settings import Learning, LearningConfig
from coordinator.strategies.presets import PRESETS
from firmware_profiles.errors import EdgetideError, UserError, WorldError
from models.data.dataset import DataSplit
from models.table import dump_table

memory = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "memory_world.py")))
tiny = memory.tiny


@pytest.fixture
def world(tmp_path):
    world = memory.World(tmp_path, rounds=3)
    world.clock.advance(1.0)
    yield world
    world.close()


def learning_of(world):
    data = DataSplit(train=tiny.make_data(), test=tiny.make_data(), name="tiny")
    return Learning(LearningConfig(model="tiny", data="tiny"), world.bundle, world.weights, data)


def rolled_out(world, kind, content):
    return roll_out(world.node, learning_of(world), Request(kind, content))


def model_file(weights):
    return safetensors.numpy.save(weights)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("policy.yaml", b"max_cpu_share_fraction: 0.5\n", "policy"),
        ("policy.yml", b"{}\n", "policy"),
        ("table.yaml", dump_table(tiny.make_bundle().table).encode(), "table"),
        ("model.safetensors", b"anything", "model"),
    ],
)
def test_a_file_tells_its_kind(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert read_rollout(tmp_path / name) == Request(kind, content)


def test_a_file_of_another_kind_is_refused_and_the_kinds_are_named(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"policy or table \(\.yaml\) or a model \(\.safetensors\)"):
        read_rollout(path)


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read"):
        read_rollout(tmp_path / "gone.yaml")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_rollout(tmp_path / "folder.yaml")


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(UserError, match="512 MiB"):
        read_rollout(path)


# ---------------------------------------------------------------- what fits


def test_a_policy_is_sent_and_said_so_in_words(world):
    said = rolled_out(world, "policy", b"max_cpu_share_fraction: 0.5\n")
    assert said == "policy sent to 2 devices; it takes effect at the next mini-batch"
    world.clock.advance(1.0)
    assert all(
        jobs.installed == [("policy", b"max_cpu_share_fraction: 0.5\n")] for jobs in world.jobs.values()
    )


def test_a_table_is_sent_and_is_in_the_next_orders_bundle(world):
    table = tiny.make_bundle(fractions=(0.5,)).table
    said = rolled_out(world, "table", dump_table(table).encode())
    assert "table of 2 vectors sent to 2 devices" in said
    assert world.node.core.bundle.table == table
    world.clock.advance(10.0)
    assert world.jobs["device-1"].started[-1].bundle == world.node.core.bundle_ref


def test_a_model_is_put_in_force_as_a_version_of_its_own(world):
    zeros = {name: np.zeros_like(value) for name, value in world.weights.items()}
    assert "version 1" in rolled_out(world, "model", model_file(zeros))
    assert not world.node.core.weights["a.bias"].any()


def test_a_models_batch_norm_statistics_are_left_aside(world):
    weights = {**world.weights, "norm.mean": np.zeros(8, np.float32)}
    rolled_out(world, "model", model_file(weights))
    assert set(world.node.core.weights) == set(world.weights)


def test_a_model_for_devices_that_keep_weights_of_their_own_is_refused(world):
    learning = replace(learning_of(world), method=PRESETS["dsgd"])
    with pytest.raises(UserError, match="begin a new run"):
        roll_out(world.node, learning, Request("model", model_file(world.weights)))
    assert world.node.core.version == 0


# ---------------------------------------------------------------- what does not


def snapshot(world):
    core = world.node.core
    return core.version, core.state, core.bundle_ref, core.policy_ref, world.broker.num_delivered


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("policy", b"max_cpu_share_fractoin: 0.5\n"),
        ("policy", b"max_cpu_share_fraction: 7\n"),
        ("policy", b"\xff\xfe\x00"),
        ("policy", b"- 1\n- 2\n"),
        ("table", b"format: edgetide-table/1\n"),
        ("table", dump_table(tiny.make_bundle(hidden=16).table).encode()),
        ("table", b"\xff"),
        ("model", b""),
        ("model", b"\x00" * 100),
        ("model", model_file({"other": np.zeros(3, np.float32)})),
        ("model", model_file(tiny.make_weights(tiny.make_bundle(hidden=16)))),
        (
            "model",
            model_file(
                {
                    name: value.astype(np.float16)
                    for name, value in tiny.make_weights(tiny.make_bundle()).items()
                }
            ),
        ),
        (
            "model",
            model_file(
                {
                    name: np.full_like(value, np.inf)
                    for name, value in tiny.make_weights(tiny.make_bundle()).items()
                }
            ),
        ),
        ("code", b"import os"),
    ],
    ids=[
        "a key unknown",
        "a value out of range",
        "no text",
        "a list",
        "half a table",
        "another network's table",
        "a table that is no text",
        "an empty model",
        "a damaged model",
        "another model",
        "a model of other shapes",
        "a model of half precision",
        "a model that is not finite",
        "an unknown kind",
    ],
)
def test_this_is_refused_in_one_line_and_nothing_changes(world, kind, content):
    before = snapshot(world)
    with pytest.raises(EdgetideError) as refusal:
        rolled_out(world, kind, content)
    assert 0 < len(str(refusal.value)) < 1000
    world.clock.advance(0.0)
    assert snapshot(world) == before


def test_a_model_after_the_run_is_refused_with_the_state(world):
    world.clock.advance(60.0)
    assert world.finished == 1
    with pytest.raises(WorldError, match="the run is finished"):
        rolled_out(world, "model", model_file(world.weights))


# ---------------------------------------------------------------- after a restart


def test_policy_and_table_are_in_force_again_after_a_restart_of_the_same_run(world, tmp_path):
    table = world.bundle.table
    shorter = type(table)(**{**vars_of(table), "entries": table.entries[-1:]})
    keep(tmp_path, "run-a", Request("table", dump_table(shorter).encode()))
    keep(tmp_path, "run-a", Request("policy", b"max_cpu_share_fraction: 0.5\n"))
    restore(tmp_path, "run-a", world.node, learning_of(world))
    assert len(world.node.core.bundle.table.entries) == 1
    assert world.node.core.policy_ref is not None


def test_what_another_run_was_given_is_not_put_in_force(world, tmp_path):
    keep(tmp_path, "run-b", Request("policy", b"max_cpu_share_fraction: 0.5\n"))
    restore(tmp_path, "run-a", world.node, learning_of(world))
    assert world.node.core.policy_ref is None


def test_a_damaged_kept_policy_is_left_out_with_a_warning(world, tmp_path, caplog):
    keep(tmp_path, "run-a", Request("policy", b"nonsense: ["))
    restore(tmp_path, "run-a", world.node, learning_of(world))
    assert world.node.core.policy_ref is None
    assert "left out" in caplog.text


def vars_of(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
