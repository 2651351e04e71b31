"""The durable outbox."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.outbox import Outbox, boottime, read_boot_id
from device_agent.wire.codec import digest_of, refer
from device_agent.wire.messages import Decline, RolledOut, Rollout
from firmware_profiles.errors import UserError, WorldError

BODY = Decline(order=1, round=1, reason="hot")


class Board:
    """A board with a clock and a boot id, on which outboxes are opened and closed."""

    def __init__(self, folder):
        self.path = folder / "outbox.sqlite"
        self.now_s = 100.0
        self.boot_id = "boot-1"
        self.unix_s = 1_800_000_000.0
        self._open = []

    def open(self, **arguments):
        outbox = Outbox(
            self.path,
            "pi-1",
            clock=lambda: self.now_s,
            boot_id=lambda: self.boot_id,
            wall_clock=lambda: self.unix_s,
            rng=random.Random(1),
            **arguments,
        )
        self._open.append(outbox)
        return outbox

    def power_cut(self):
        for outbox in self._open:
            outbox.close()
        self._open = []


@pytest.fixture
def board(tmp_path):
    board = Board(tmp_path / "state")
    yield board
    board.power_cut()


def put(outbox, reason="hot", **arguments):
    return outbox.put(run="run-1", body=Decline(order=1, round=1, reason=reason), **arguments)


def names(envelopes):
    return [(envelope.boot_epoch, envelope.sequence) for envelope in envelopes]


def test_what_is_put_is_due_at_once(board):
    outbox = board.open()
    first, second = put(outbox, "a"), put(outbox, "b")
    assert names(outbox.due(0.0)) == names([first, second])


def test_a_message_is_due_again_later_and_later_until_it_is_acknowledged(board):
    outbox = board.open(resend_base_s=5.0, resend_cap_s=40.0)
    message = put(outbox)
    now_s, waits_s = 0.0, []
    for _ in range(5):
        assert names(outbox.due(now_s)) == names([message])
        assert outbox.due(now_s) == []
        waits_s.append(outbox.next_due_s() - now_s)
        now_s = outbox.next_due_s()
    assert all(5.0 <= wait_s <= min(40.0, 5.0 * 2 ** (n + 1)) for n, wait_s in enumerate(waits_s))
    assert outbox.acknowledge(message.boot_epoch, message.sequence)
    assert (outbox.due(1e9), outbox.next_due_s(), len(outbox)) == ([], None, 0)


def test_a_message_keeps_its_name_across_restarts(board):
    message = put(board.open())
    board.power_cut()
    assert names(board.open().due(0.0)) == names([message])


def test_each_start_has_a_higher_boot_epoch(board):
    epochs = []
    for _ in range(3):
        epochs.append(board.open().boot_epoch)
        board.power_cut()
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]


def test_messages_that_are_not_kept_share_the_names_of_those_that_are(board):
    outbox = board.open()
    sequences = [
        outbox.stamp(run="r", body=BODY).sequence,
        put(outbox).sequence,
        outbox.stamp(run="r", body=BODY).sequence,
    ]
    assert len(set(sequences)) == 3
    assert len(outbox) == 1


def test_the_age_is_measured_anew_at_each_sending(board):
    outbox = board.open()
    put(outbox)
    ages_ms = [outbox.due(0.0)[0].age_ms]
    board.now_s += 2.5
    ages_ms.append(outbox.due(1e6)[0].age_ms)
    assert ages_ms == [0, 2500]


def test_the_age_is_known_across_a_restart_of_the_agent(board):
    put(board.open())
    board.power_cut()
    board.now_s += 60.0
    assert board.open().due(0.0)[0].age_ms == 60_000


@pytest.mark.parametrize("boot_id", ["boot-2", None])
def test_the_age_is_unknown_across_a_reboot(board, boot_id):
    put(board.open())
    board.power_cut()
    board.boot_id, board.now_s = boot_id, 500.0
    assert board.open().due(0.0)[0].age_ms is None


def test_the_age_is_unknown_where_the_kernel_never_named_the_boot(board):
    board.boot_id = None
    put(board.open())
    board.power_cut()
    assert board.open().due(0.0)[0].age_ms is None


def test_content_is_served_until_its_last_message_is_acknowledged(board):
    outbox = board.open()
    digest = digest_of(b"delta")
    first, second = (put(outbox, blobs={digest: b"delta"}) for _ in range(2))
    outbox.acknowledge(*names([first])[0])
    assert outbox.blob(digest) == b"delta"
    outbox.acknowledge(*names([second])[0])
    assert outbox.blob(digest) is None


def test_content_survives_a_power_cut(board):
    digest = digest_of(b"delta")
    put(board.open(), blobs={digest: b"delta"})
    board.power_cut()
    assert board.open().blob(digest) == b"delta"


def test_an_acknowledgement_of_something_else_changes_nothing(board):
    outbox = board.open()
    message = put(outbox)
    assert not outbox.acknowledge(message.boot_epoch, message.sequence + 1)
    assert len(outbox) == 1


def test_a_full_outbox_refuses_and_keeps_what_it_has(board):
    outbox = board.open(max_messages=2)
    kept = [put(outbox), put(outbox)]
    with pytest.raises(WorldError, match="is full: 2 messages"):
        put(outbox)
    assert (outbox.num_refused, names(outbox.due(0.0))) == (1, names(kept))


def test_content_beyond_the_limit_is_refused_until_there_is_room(board):
    outbox = board.open(max_bytes=1500)
    message = put(outbox, blobs={digest_of(bytes(1000)): bytes(1000)})
    with pytest.raises(WorldError, match="is full"):
        put(outbox, blobs={digest_of(b"x" * 1000): b"x" * 1000})
    outbox.acknowledge(message.boot_epoch, message.sequence)
    assert put(outbox, blobs={digest_of(b"x" * 1000): b"x" * 1000})


def test_a_full_disk_refuses_and_keeps_what_it_has(board):
    outbox = board.open()
    kept = put(outbox)
    outbox._file._database.execute("PRAGMA max_page_count = 20")  # SQLite's own way to say: no more pages
    content = random.Random(1).randbytes(200_000)
    with pytest.raises(WorldError, match="full"):
        put(outbox, blobs={digest_of(content): content})
    assert outbox.num_refused == 1
    assert outbox.blob(digest_of(content)) is None
    assert names(outbox.due(0.0)) == names([kept])


def test_content_that_does_not_have_its_digest_is_our_own_error(board):
    with pytest.raises(ValueError, match="does not have the SHA-256"):
        put(board.open(), blobs={"0" * 64: b"delta"})


def test_a_message_no_peer_would_take_is_our_own_error(board):
    with pytest.raises(ValueError, match="a peer would refuse"):
        put(board.open(), reason="x" * 501)


def test_a_message_that_could_not_be_sent_with_its_age_is_our_own_error(board):
    outbox = board.open()
    content = refer(b"x" * 196_370, inline_bytes=2**20)
    with pytest.raises(ValueError, match="no room for its age"):
        outbox.put(run="run-1", body=Rollout(kind="policy", content=content))


def test_two_agents_cannot_share_an_outbox(board):
    board.open()
    with pytest.raises(UserError, match="in use by another agent"):
        board.open()


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "text":
        data[:] = b"this is not a database" * 100
    elif how == "middle":
        data[4096 : 4096 + 3000] = random.Random(1).randbytes(3000)
    elif how == "cut":
        del data[len(data) // 2 :]
    elif how == "layout":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
        return
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["text", "middle", "cut", "layout"])
def test_a_damaged_database_is_moved_aside_and_the_epoch_goes_on(board, how, caplog):
    outbox = board.open()
    for _ in range(50):
        put(outbox, "x" * 400)
    board.power_cut()
    damage(board.path, how)
    revived = board.open()
    assert revived.boot_epoch > outbox.boot_epoch
    assert (len(revived), revived.num_lost_databases) == (0, 1)
    assert "is damaged" in caplog.text
    assert board.path.with_name("outbox.sqlite.damaged").exists()
    put(revived)
    assert len(revived.due(0.0)) == 1


def test_an_epoch_is_not_repeated_when_the_whole_folder_is_gone(board):
    epoch = board.open().boot_epoch
    board.power_cut()
    for file in board.path.parent.iterdir():
        file.unlink()
    board.unix_s += 1.0
    assert board.open().boot_epoch > epoch


def test_an_epoch_is_hardly_repeated_by_a_board_with_a_stopped_clock(board):
    epochs = set()
    board.unix_s = 0.0
    for _ in range(3):
        epochs.add(board.open().boot_epoch)
        board.power_cut()
        for file in board.path.parent.iterdir():
            file.unlink()
    assert len(epochs) == 3


@pytest.mark.parametrize("text", ["", "x", "-5", "9" * 30])
def test_a_spoilt_epoch_file_is_ignored(board, text):
    epoch = board.open().boot_epoch
    board.power_cut()
    board.path.with_name("outbox.sqlite.epoch").write_text(text)
    assert board.open().boot_epoch == epoch + 1


def test_a_database_damaged_while_it_is_open_is_replaced_and_names_do_not_repeat(board, caplog):
    outbox = board.open()
    before = put(outbox)
    with sqlite3.connect(board.path) as database:
        database.execute("DROP TABLE message")
    database.close()
    after = put(outbox)
    assert (before.boot_epoch, before.sequence) < (after.boot_epoch, after.sequence)
    assert names(outbox.due(0.0)) == names([after])
    assert "1 messages went with the damaged database" in caplog.text


def test_a_damaged_message_is_dropped_and_the_others_are_sent(board, caplog):
    outbox = board.open()
    spoilt, kept = put(outbox), put(outbox)
    with sqlite3.connect(board.path) as database:
        database.execute("UPDATE message SET envelope = x'00' WHERE sequence = ?", (spoilt.sequence,))
    database.close()
    assert names(outbox.due(0.0)) == names([kept])
    assert len(outbox) == 1


def test_a_reconnect_makes_everything_due_soon(board):
    outbox = board.open(resend_base_s=5.0)
    put(outbox)
    for now_s in (0.0, 100.0, 300.0):
        outbox.due(now_s)
    outbox.on_reconnect(300.0)
    assert len(outbox.due(305.0)) == 1


def test_a_large_backlog_is_sent_in_portions(board):
    outbox = board.open()
    for _ in range(5):
        put(outbox)
    assert [len(outbox.due(0.0, max_messages=3)) for _ in range(3)] == [3, 2, 0]


def test_a_folder_that_cannot_be_made_is_the_worlds_error(board):
    board.path.parent.touch()
    with pytest.raises(WorldError, match="cannot make the outbox"):
        board.open()


def test_a_killed_process_leaves_its_messages(board):
    script = f"""
import os, signal
from pathlib import Path
from device_agent.outbox import Outbox
from device_agent.wire.messages import Decline
outbox = Outbox(Path({str(board.path)!r}), "pi-1")
for number in range(3):
    outbox.put(run="run-1", body=Decline(order=number, round=1, reason=""))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [envelope.body.order for envelope in board.open().due(0.0)] == [0, 1, 2]


def test_the_kernel_names_the_boot_and_tells_its_age():
    assert read_boot_id() == read_boot_id()
    assert boottime() > 0


def test_a_system_that_does_not_name_the_boot_gives_none(tmp_path):
    assert read_boot_id(tmp_path) is None


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(["put", "ack", "restart"]), max_size=12))
def test_every_message_is_kept_until_it_is_acknowledged(tmp_path_factory, steps):
    board = Board(tmp_path_factory.mktemp("board"))
    outbox, waiting = board.open(), []
    for step in steps:
        if step == "put":
            waiting += names([put(outbox, blobs={digest_of(b"delta"): b"delta"})])
        elif step == "ack" and waiting:
            outbox.acknowledge(*waiting.pop(0))
        elif step == "restart":
            board.power_cut()
            outbox = board.open()
        assert (outbox.blob(digest_of(b"delta")) is not None) == bool(waiting)
    assert names(outbox.due(0.0)) == waiting
    board.power_cut()


def test_a_rolled_out_answer_needs_no_content(board):
    outbox = board.open()
    body = RolledOut(kind="policy", digest="0" * 64, in_force=True)
    assert outbox.put(run="run-1", body=body, base_version=3).base_version == 3
