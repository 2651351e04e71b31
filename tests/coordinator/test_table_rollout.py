"""A table on its way from a file to the devices: real nodes, codec and chunks, a broker in memory."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.control import Request
from coordinator.rollout import keep, read_rollout, restore, roll_out
from coordinator.settings import Learning, LearningConfig
from device_agent.wire.codec import refer
from device_agent.wire.messages import Rollout
from firmware_profiles.errors import EdgetideError
from models.bundle import decode as decode_bundle
from models.data.dataset import DataSplit
from models.graph import digest as graph_digest
from models.table import dump_table, parse_table, table_digest

memory = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "memory_world.py")))
tiny = memory.tiny

TABLE = tiny.make_bundle(fractions=(0.5,)).table
OTHER_MODELS_TABLE = tiny.make_bundle(hidden=16).table


@pytest.fixture
def world(tmp_path):
    world = memory.World(tmp_path, rounds=3)
    world.notes = []
    note = world.state.event
    world.state.event = lambda event: (world.notes.append(event), note(event))
    world.clock.advance(1.0)
    yield world
    world.close()


def send(world, tmp_path, table):
    path = tmp_path / "table.yaml"
    path.write_text(f"# Made by hand\n{dump_table(table)}")
    data = DataSplit(train=tiny.make_data(), test=tiny.make_data(), name="tiny")
    learning = Learning(LearningConfig(model="tiny", data="tiny"), world.bundle, world.weights, data)
    return roll_out(world.node, learning, read_rollout(path)), learning


def noted(world, event):
    return [(note.device, note.details["digest"]) for note in world.notes if note.event == event]


def bundle_of_the_last_order(world, device):
    return decode_bundle(world.blobs.get(world.jobs[device].started[-1].bundle.digest))


def test_every_device_gets_the_table_and_reports_the_digest_that_is_in_force(world, tmp_path):
    said, _ = send(world, tmp_path, TABLE)
    world.clock.advance(0.5)
    digest = table_digest(TABLE)
    assert digest[:12] in said
    assert noted(world, "rollout in force") == [("device-1", digest[:12]), ("device-2", digest[:12])]
    for jobs in world.jobs.values():
        ((kind, content),) = jobs.installed
        assert kind == "table"
        assert parse_table(content, graph_digest(world.bundle.graph), world.bundle.plan) == TABLE


def test_a_device_that_joins_later_trains_with_the_table(world, tmp_path):
    send(world, tmp_path, TABLE)
    world.add_agent("late")
    world.clock.advance(1.0)
    assert bundle_of_the_last_order(world, "late").table == TABLE


def test_a_device_that_restarts_trains_with_the_table(world, tmp_path):
    send(world, tmp_path, TABLE)
    world.clock.advance(0.5)
    world.kill("device-1")
    world.add_agent("device-1")
    world.clock.advance(1.0)
    assert bundle_of_the_last_order(world, "device-1").table == TABLE


def test_a_table_of_another_model_is_refused_by_the_coordinator_and_reaches_nobody(world, tmp_path):
    with pytest.raises(EdgetideError, match=r'key "graph_digest": the table was made for another network'):
        send(world, tmp_path, OTHER_MODELS_TABLE)
    world.clock.advance(0.5)
    assert all(jobs.installed == [] for jobs in world.jobs.values())


def test_a_table_of_another_model_is_refused_by_the_device_and_the_coordinator_is_told_why(world):
    def install(kind, content):
        parse_table(content, graph_digest(world.bundle.graph), world.bundle.plan)

    world.jobs["device-1"].install = install
    content = dump_table(OTHER_MODELS_TABLE).encode()
    rollout = Rollout(kind="table", content=refer(content))
    world.node.perform(
        world.node.core.on_table_rollout(world.bundle, world.node.core.bundle_ref, rollout.content)
    )
    world.clock.advance(0.5)
    (refusal,) = [note for note in world.notes if note.event == "rollout refused"]
    assert refusal.device == "device-1"
    assert "the table was made for another network" in refusal.details["reason"]


def test_a_coordinator_that_restarts_has_the_table_in_force_again(world, tmp_path):
    _, learning = send(world, tmp_path, TABLE)
    keep(tmp_path, "run-a", Request("table", dump_table(TABLE).encode()))
    world.begin_run()
    assert world.node.core.bundle.table != TABLE
    restore(tmp_path, "run-a", world.node, learning)
    assert world.node.core.bundle.table == TABLE
