from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from coordinator.database import Version
from coordinator.runtime import DATABASE, _last_replacement, _on_loop
from device_agent.loop import Loop
from firmware_profiles.errors import UserError


def curve(*rounds):
    return [
        Version(version=index, digest="d", round=round_number) for index, round_number in enumerate(rounds)
    ]


@pytest.mark.parametrize(
    ("rounds", "version"),
    [((), 0), ((0,), 0), ((0, 1, 2), 0), ((0, 0), 1), ((0, 1, 1, 2), 2), ((0, 1, 1, 2, 2, 3), 4)],
)
def test_a_model_that_was_rolled_out_is_known_again_after_a_restart(rounds, version):
    assert _last_replacement(curve(*rounds)) == version


@pytest.fixture
def loop():
    loop = Loop()
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop
    loop.stop()
    thread.join()


def test_what_another_thread_asks_for_is_done_on_the_loops_thread_and_returned(loop):
    name = _on_loop(loop, lambda: threading.current_thread().ident)
    assert name != threading.get_ident()


def test_what_it_raises_is_raised_where_it_was_asked_for_and_the_loop_goes_on(loop):
    def refuse():
        raise UserError("policy:1: unknown key")

    with pytest.raises(UserError, match="unknown key"):
        _on_loop(loop, refuse)
    assert _on_loop(loop, lambda: 7) == 7


@pytest.mark.parametrize("mistake", ["port", "broker"])
def test_a_coordinator_that_cannot_begin_says_one_line_and_leaves_no_run(tmp_path, mistake):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if mistake == "port" else 0
        broker = "http://127.0.0.1" if mistake == "broker" else "mqtt://127.0.0.1"
        options = ["--port", str(port), "--broker", broker, "--state", str(tmp_path)]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from coordinator.cli import main; main()",
                "coordinator",
                "run",
                *options,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    (told,) = done.stderr.strip().splitlines()  # and not that a run begins
    assert mistake in told or broker in told
    assert not (tmp_path / DATABASE).exists()
