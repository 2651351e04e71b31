"""Files that were cut off, scribbled over or written for something else, given to the real commands."""

from __future__ import annotations

import contextlib
import signal
import sqlite3

import pytest

pytestmark = pytest.mark.timeout(170)

NOBODY = "mqtt://127.0.0.1:9"
COORDINATOR = ("coordinator", "run", "--broker", NOBODY, "--port", "0", "--exit")
AGENT = ("agent", "run", "--broker", NOBODY, "--id", "device-1")


@pytest.fixture
def damaged(tmp_path, data_file):
    """A function that makes a damaged file."""
    from models.zoo import FOLDER

    makers = {
        "data.npz": lambda: data_file.read_bytes()[:5000],
        "net.onnx": lambda: (FOLDER / "cnn-28.onnx").read_bytes()[:700],
        "table.yaml": lambda: b"format: edgetide-table/1\nmodel: cnn-28\n",
        "policy.yaml": lambda: b"max_cpu_share_fraction: most\n",
        "board.yaml": lambda: b"name: [\n",
        "weights.safetensors": lambda: b"\x10" * 100,
        "coordinator.sqlite": lambda: b"SQLite format 3\0" + b"\xff" * 5000,
    }

    def make(name, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(makers[name]())
        return path

    return make


def assert_one_clear_line(ended, path):
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.errors) == 1, ended.stderr
    assert str(path) in ended.errors[0] or path.name in ended.errors[0]
    assert ended.stderr.splitlines()[-1] == ended.errors[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("data.npz", (*COORDINATOR, "--data")),
        ("net.onnx", (*COORDINATOR, "--model")),
        ("table.yaml", (*COORDINATOR, "--table")),
        ("data.npz", (*AGENT, "--data")),
        ("policy.yaml", (*AGENT, "--policy")),
        ("board.yaml", (*AGENT, "--profile")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_damaged_file_ends_the_command_with_one_line_that_names_it(
    edgetide, damaged, tmp_path, name, arguments
):
    path = damaged(name)
    assert_one_clear_line(edgetide(*arguments, path, "--state", tmp_path / "state"), path)


def test_damaged_weights_cannot_be_exported(edgetide, damaged, tmp_path):
    path = damaged("weights.safetensors")
    ended = edgetide("models", "export", tmp_path / "out.onnx", "--model", "cnn-28", "--weights", path)
    assert_one_clear_line(ended, path)
    assert not (tmp_path / "out.onnx").exists()


def test_up_with_a_damaged_database_says_so_at_once_and_leaves_it_alone(
    edgetide, damaged, data_file, tmp_path
):
    path = damaged("coordinator.sqlite", tmp_path / "coordinator")
    before = path.read_bytes()
    ended = edgetide(
        "up", "--state", tmp_path, "--port", 0, "--broker", "embedded", "--devices", 1, "--data", data_file
    )
    assert_one_clear_line(ended, path)
    assert "--fresh" in ended.errors[0]
    assert "started again" not in ended.stderr
    assert path.read_bytes() == before


def test_up_with_damaged_data_says_so_at_once(edgetide, damaged, tmp_path):
    path = damaged("data.npz")
    ended = edgetide(
        "up", "--state", tmp_path / "up", "--port", 0, "--broker", "embedded", "--devices", 1, "--data", path
    )
    assert_one_clear_line(ended, path)
    assert "started again" not in ended.stderr


def test_a_damaged_outbox_is_moved_aside_and_the_agent_goes_on(start_agent, wait_until, data_file, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "outbox.sqlite").write_bytes(b"\xff" * 9000)
    process, log = start_agent(*AGENT[2:], "--data", data_file, "--state", state)
    wait_until("its start", lambda: "agent device-1 starts" in log.read_text(), explain=log.read_text)
    assert "outbox" in log.read_text().partition("agent device-1 starts")[0]
    with contextlib.closing(sqlite3.connect(f"file:{state / 'outbox.sqlite'}?mode=ro", uri=True)) as outbox:
        assert outbox.execute("SELECT count(*) FROM message").fetchone() == (0,)
    assert any(path.read_bytes() == b"\xff" * 9000 for path in state.iterdir() if path.is_file())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
