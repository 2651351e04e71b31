"""Durable state: one transaction a round, nothing lost, nothing applied twice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import count

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from coordinator import database, database_schema
from coordinator.database import Outcome, Run, UpdateId, Version, move_aside, open_database
from firmware_profiles.errors import UserError, WorldError

CONFIG = {"learning": {"model": "cnn-28", "data": "mine.npz"}}
RUN = Run(id="run-1", strategy="distreal", graph_digest="a" * 64, config=CONFIG, seed=7)
UPDATE = UpdateId("board-1", 3, 14)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "edgetide.db"


@pytest.fixture
def store(path):
    ticks = count(1000)
    opened = open_database(path, clock=lambda: float(next(ticks)))
    yield opened
    opened.close()


@pytest.fixture
def running(store):
    store.begin_or_resume_run(RUN)
    store.commit_round("run-1", Version(version=0, digest="b" * 64, round=0, accuracy=0.1))
    return store


def reopened(path):
    return closing(open_database(path))


def test_a_first_run_begins(store):
    run, resumed = store.begin_or_resume_run(RUN)
    assert (run.id, run.config, resumed) == ("run-1", CONFIG, False)


def test_an_unfinished_run_is_resumed_under_its_old_id(running, path):
    running.set_run_state("run-1", "training")
    running.close()
    with reopened(path) as store:
        longer = {**CONFIG, "rounds": 9}
        again = Run(**{**vars(RUN), "id": "run-2", "config": longer})
        run, resumed = store.begin_or_resume_run(again)
        assert (run.id, run.state, run.config, resumed) == ("run-1", "training", longer, True)
        assert store.latest_version("run-1").digest == "b" * 64


def test_after_a_finished_run_the_next_one_begins(running):
    running.set_run_state("run-1", "finished")
    run, resumed = running.begin_or_resume_run(Run(**{**vars(RUN), "id": "run-2"}))
    assert (run.id, resumed) == ("run-2", False)
    assert running.latest_version("run-2") is None


def test_fresh_begins_a_new_run_beside_an_unfinished_one_of_something_else(running):
    other = Run(**{**vars(RUN), "id": "run-2", "strategy": "full"})
    run, resumed = running.begin_or_resume_run(other, fresh=True)
    assert (run.id, resumed) == ("run-2", False)
    assert running.begin_or_resume_run(other)[0].id == "run-2"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"strategy": "full"}, "strategy 'distreal'"),
        ({"seed": 8}, "seed 7"),
        ({"graph_digest": "c" * 64}, "model 'cnn-28 aaaaaaaaaaaa'"),
        ({"config": {"learning": {"model": "cnn-28", "data": "other.npz"}}}, "data 'mine.npz'"),
    ],
)
def test_an_unfinished_run_of_something_else_is_not_resumed_silently(running, other, named):
    with pytest.raises(UserError, match=f"{named}.*--fresh"):
        running.begin_or_resume_run(Run(**{**vars(RUN), **other}))


def test_a_committed_round_holds_the_version_and_its_updates(running):
    other = UpdateId("board-2", 1, 0)
    running.commit_round(
        "run-1",
        Version(version=1, digest="d" * 64, round=1, accuracy=0.5, loss=1.25, wall_s=9.5, num_updates=2),
        [Outcome(update=UPDATE), Outcome(update=other)],
    )
    latest = running.latest_version("run-1")
    assert (latest.version, latest.digest, latest.accuracy, latest.loss) == (1, "d" * 64, 0.5, 1.25)
    assert running.outcome_of("run-1", UPDATE) == running.outcome_of("run-1", other) == "applied"
    assert [point.accuracy for point in running.curve("run-1")] == [0.1, 0.5]
    assert running.outcome_counts("run-1") == {"applied": 2}


def test_a_round_with_an_update_that_was_applied_before_changes_nothing(running):
    running.commit_round("run-1", Version(version=1, digest="d" * 64, round=1), [Outcome(update=UPDATE)])
    fresh = UpdateId("board-9", 1, 1)
    with pytest.raises(ValueError, match="twice"):
        running.commit_round(
            "run-1",
            Version(version=2, digest="e" * 64, round=2),
            [Outcome(update=fresh), Outcome(update=UPDATE)],
        )
    assert running.latest_version("run-1").version == 1
    assert running.outcome_of("run-1", fresh) is None


def test_a_version_is_recorded_once(running):
    with pytest.raises(ValueError, match="twice"):
        running.commit_round("run-1", Version(version=0, digest="d" * 64, round=0))


def test_updates_of_another_boot_epoch_sequence_or_run_are_other_updates(running):
    running.commit_round("run-1", Version(version=1, digest="d" * 64, round=1), [Outcome(update=UPDATE)])
    assert running.outcome_of("run-1", UpdateId("board-1", 4, 14)) is None
    assert running.outcome_of("run-1", UpdateId("board-1", 3, 15)) is None
    assert running.outcome_of("run-2", UPDATE) is None


def test_the_first_outcome_of_an_update_stays_in_force(running):
    assert (
        running.record_outcome("run-1", Outcome(update=UPDATE, outcome="expired", reason="two rounds late"))
        == "expired"
    )
    assert running.record_outcome("run-1", Outcome(update=UPDATE, outcome="refused")) == "expired"
    assert running.outcome_counts("run-1") == {"expired": 1}


def test_a_round_may_hold_updates_that_were_not_applied(running):
    late = Outcome(update=UPDATE, outcome="expired", reason="late", macs=2**53, vectors={"8-16": 3})
    running.commit_round("run-1", Version(version=1, digest="d" * 64, round=1), [late])
    assert running.outcomes("run-1") == [late]


def test_what_is_measured_of_a_version_later_joins_its_curve(running):
    running.commit_round("run-1", Version(version=1, digest="d" * 64, round=1, bytes_sent=5000))
    assert running.curve("run-1")[1].accuracy is None
    running.record_accuracy("run-1", 1, 0.5, 1.25)
    point = running.curve("run-1")[1]
    assert (point.accuracy, point.loss, point.bytes_sent, point.digest) == (0.5, 1.25, 5000, "d" * 64)
    assert running.curve("run-1")[0].accuracy == 0.1


def test_every_start_of_the_coordinator_has_its_own_epoch(running, path):
    first = running.next_boot_epoch("run-1")
    running.close()
    with reopened(path) as store:
        assert store.next_boot_epoch("run-1") == first + 1


def test_outcomes_need_a_run(running):
    with pytest.raises(ValueError, match="run-9"):
        running.record_outcome("run-9", Outcome(update=UPDATE, outcome="expired"))


def test_the_largest_counts_of_the_wire_fit(running):
    huge = UpdateId("a" * 64, 2**53, 2**53)
    running.record_outcome("run-1", Outcome(update=huge, outcome="refused", reason="x" * 500))
    assert running.outcome_of("run-1", huge) == "refused"


def test_a_hostile_device_id_is_only_text(running):
    hostile = UpdateId("'; DROP TABLE runs; --", 1, 1)
    running.record_outcome("run-1", Outcome(update=hostile, outcome="refused"))
    assert running.outcome_of("run-1", hostile) == "refused"


def test_the_last_hello_of_a_device_is_kept(running):
    running.record_device("board-1", {"profile": "pi3"})
    running.record_device("board-1", {"profile": "pi4"})
    assert running.devices() == {"board-1": {"profile": "pi4"}}


def test_events_come_newest_first_and_old_ones_make_room(running, monkeypatch):
    monkeypatch.setattr(database, "MAX_EVENTS", 3)
    for number in range(5):
        running.record_event("run-1", "device paused", "board-1", {"number": number})
    assert [line["details"]["number"] for line in running.events("run-1")] == [4, 3, 2]
    assert len(running.events("run-1", limit=2)) == 2


def test_a_commit_survives_a_killed_process(path):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from coordinator.database import *\n"
        "store = open_database(Path(sys.argv[1]))\n"
        "store.begin_or_resume_run(Run(id='r', strategy='s', graph_digest='a', config={}, seed=0))\n"
        "done = [Outcome(update=UpdateId('d', 1, 2))]\n"
        "store.commit_round('r', Version(version=0, digest='b', round=0), done)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    with reopened(path) as store:
        assert store.latest_version("r").digest == "b"
        assert store.outcome_of("r", UpdateId("d", 1, 2)) == "applied"


@pytest.mark.parametrize("damage", ["junk", "overwritten pages"])
def test_a_damaged_file_is_named_and_left_in_place(running, path, damage):
    for number in range(400):
        running.record_event("run-1", "device paused", "board-1", {"number": number})
    running.close()
    content = bytearray(path.read_bytes())
    if damage == "junk":
        content = bytearray(b"certainly not a database" * 500)
    else:
        content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"edgetide\.db is damaged.*--fresh"):
        open_database(path)
    assert path.read_bytes() == content


def test_a_damaged_file_moved_aside_makes_room_for_a_new_one(path):
    path.parent.mkdir()
    path.write_bytes(b"junk" * 1000)
    aside = move_aside(path)
    assert aside.read_bytes() == b"junk" * 1000
    with reopened(path) as store:
        assert store.begin_or_resume_run(RUN)[1] is False


def test_files_moved_aside_do_not_replace_each_other(path):
    path.parent.mkdir()
    names = set()
    for content in ("one", "two", "three"):
        path.write_text(content)
        names.add(move_aside(path))
    assert {name.read_text() for name in names} == {"one", "two", "three"}


def test_moving_nothing_aside_does_nothing(path):
    assert move_aside(path) is None


def test_a_newer_schema_is_refused(store, path):
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE edgetide_schema SET version = 99")
        connection.commit()
    with pytest.raises(UserError, match=f"schema 99, this edgetide knows {database_schema.SCHEMA_VERSION}"):
        open_database(path)


def test_an_older_schema_is_migrated_step_by_step(store, path, monkeypatch):
    store.close()
    steps = []
    now = database_schema.SCHEMA_VERSION
    monkeypatch.setattr(database_schema, "SCHEMA_VERSION", now + 2)
    monkeypatch.setattr(
        database_schema,
        "MIGRATIONS",
        {now: lambda _c: steps.append(1), now + 1: lambda _c: steps.append(2)},
    )
    open_database(path).close()
    open_database(path).close()
    assert steps == [1, 2]


def test_the_first_schema_gets_a_place_for_exchanges_lateness_and_streams(running, path):
    running.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE outcomes DROP COLUMN peers")
        connection.execute("ALTER TABLE outcomes DROP COLUMN staleness")
        connection.execute("ALTER TABLE outcomes DROP COLUMN stream")
        connection.execute("UPDATE edgetide_schema SET version = 1")
        connection.commit()
    told = {"round": 3, "step": 30}
    with reopened(path) as store:
        store.record_outcome("run-1", Outcome(update=UpdateId("board-1", 1, 1), peers=told, staleness=2))
        store.record_outcome("run-1", Outcome(update=UpdateId("board-1", 1, 2), stream=told))
        kept = [(outcome.peers, outcome.staleness, outcome.stream) for outcome in store.outcomes("run-1")]
        assert kept == [(told, 2, None), (None, None, told)]


def test_somebody_elses_database_is_not_written_to(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (marathon TEXT)")
    with pytest.raises(UserError, match="not edgetide's"):
        open_database(path)


def test_a_malformed_url_is_refused():
    with pytest.raises(UserError, match="sqlite:///FILE"):
        open_database("not a url")


def test_an_unknown_driver_says_what_to_install():
    with pytest.raises(UserError, match="pip install"):
        open_database("nosuch://host/name")


def test_a_server_that_is_down_is_the_worlds_fault(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorldError, match="does not answer"):
        open_database(tmp_path / "folder")


def test_passwords_stay_out_of_messages():
    with pytest.raises(UserError) as caught:
        open_database("nosuch://user:secret@host/name")
    assert "secret" not in str(caught.value)


def test_every_table_can_be_made_on_postgresql():
    for table in database_schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


def test_sqlite_writes_ahead_and_syncs_every_commit(store):
    with store._engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2
