from __future__ import annotations

import json
import logging
import sys

import pytest

from coordinator import cli
from device_agent.logs import PACKAGES, JsonLines, set_up_logs


@pytest.fixture
def told(monkeypatch):
    """The configurations that `agent run` would have run."""
    told = []
    monkeypatch.setattr("device_agent.service.become", lambda service: told.append(service.config))
    return told


@pytest.fixture(autouse=True)
def _keep_logs():
    """The command sets the process's logs up; the tests after it want them as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in PACKAGES}
    yield
    root.handlers[:], root.level = handlers, level
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def agent_run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["edgetide", "agent", "run", *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def test_an_agent_is_told_what_the_command_line_said(monkeypatch, told, tmp_path):
    argv = ["--id", "kitchen", "--fleet", "home", "--shard", "1/4", "--partition", "shards:2", "--seed", "3"]
    argv += ["--threads", "2", "--engine", "torch", "--state", tmp_path, "--broker", "mqtt://h:1"]
    assert agent_run(monkeypatch, *argv) == 0
    (config,) = told
    assert (config.device, config.fleet, config.broker) == ("kitchen", "home", "mqtt://h:1")
    assert (config.data.shard, config.data.scheme, config.data.seed) == ((1, 4), "shards:2", 3)
    assert (config.num_threads, config.engine, config.state) == (2, "torch", tmp_path)
    assert (config.policy, config.cohort) == (None, None)


@pytest.mark.parametrize(
    ("host", "device"),
    [
        ("raspberrypi", "raspberrypi"),
        ("My_Board.local", "my-board-local"),
        ("-odd-", "odd"),
        ("x" * 200, "x" * 64),
    ],
)
def test_without_an_id_an_agent_is_called_after_its_host(monkeypatch, told, tmp_path, host, device):
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert agent_run(monkeypatch, "--state", tmp_path) == 0
    assert told[0].device == device


@pytest.mark.parametrize("host", ["", "___", "coordinator"])
def test_a_host_name_that_makes_no_id_asks_for_one(monkeypatch, told, capsys, tmp_path, host):
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert agent_run(monkeypatch, "--state", tmp_path) == 1
    assert "is not usable" in capsys.readouterr().err
    assert told == []


def test_two_agents_on_one_machine_get_folders_of_their_own(monkeypatch, told):
    agent_run(monkeypatch, "--id", "one")
    agent_run(monkeypatch, "--id", "two")
    assert told[0].state != told[1].state


def test_a_named_profile_is_loaded(monkeypatch, told, tmp_path):
    agent_run(monkeypatch, "--profile", "raspberry-pi-4", "--state", tmp_path)
    assert told[0].profile.name == "raspberry-pi-4"


# ---------------------------------------------------------------- logs


def test_under_systemd_a_log_line_is_one_json_object(monkeypatch, capsys):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    set_up_logs()
    logging.getLogger("device_agent.node").info("order %d declined", 7)
    try:
        1 // 0  # noqa: B018 - to have an error to log
    except ZeroDivisionError:
        logging.getLogger("device_agent.node").exception("job failed\nbadly")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first == {"level": "info", "logger": "device_agent.node", "message": "order 7 declined"}
    assert "ZeroDivisionError" in second["traceback"]


def test_a_person_reads_plain_lines_on_stderr_and_stdout_stays_free(monkeypatch, capsys):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up_logs()
    logging.getLogger("coordinator.node").info("round opened")
    told = capsys.readouterr()
    assert "INFO" in told.err
    assert "round opened" in told.err
    assert told.out == ""


def test_libraries_speak_up_from_warnings_on(monkeypatch, capsys):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up_logs("DEBUG")
    logging.getLogger("paho").info("chatter")
    logging.getLogger("paho").warning("trouble")
    logging.getLogger("device_agent").debug("detail")
    told = capsys.readouterr().err
    assert "chatter" not in told
    assert "trouble" in told
    assert "detail" in told


def test_an_unknown_log_level_is_an_error_not_a_crash(monkeypatch, capsys, told, tmp_path):
    assert agent_run(monkeypatch, "--log-level", "LOUD", "--state", tmp_path) in (1, 2)
    assert "LOUD" in capsys.readouterr().err
    assert told == []


def test_a_json_line_holds_no_line_break():
    record = logging.LogRecord("a", logging.INFO, "f", 1, "two\nlines", None, None)
    assert "\n" not in JsonLines().format(record)
