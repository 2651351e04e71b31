from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
import typer

from coordinator import cli

ROOT = Path(__file__).parents[2]
TRAINS = ("torch", "onnxruntime", "onnx", "scipy", "sqlalchemy")
HEAVY = (*TRAINS, "numpy", "optuna", "fastapi", "uvicorn", "paho")


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def edgetide(monkeypatch, *argv):
    """Run the command line here; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["edgetide", *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def commands(group=None, path=()):
    """Every command and group as its words."""
    group = group or typer.main.get_command(cli.app)
    yield path
    if isinstance(group, click.Group) or hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


def error_line(capsys):
    """What was said on stderr: exactly one line, and the right one."""
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("edgetide: error: ")
    return said[0]


# ---------------------------------------------------------------- help, and how light it is


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "edgetide")
def test_every_command_explains_itself(monkeypatch, capsys, path):
    assert edgetide(monkeypatch, *path, "--help") == 0
    assert "Usage:" in capsys.readouterr().out


def test_the_commands_are_those_that_scripts_rely_on():
    known = {" ".join(path) for path in commands()}
    promised = (
        "up, agent run, agent profile, coordinator run, coordinator rollout, dse run, dse show, "
        "sim run, sim compare, models list, models trace, models check, models export"
    )
    assert set(promised.split(", ")) <= known


def test_help_of_every_command_loads_no_heavy_library():
    paths = [[*path, "--help"] for path in commands()]
    result = run_python(
        f"""
        import contextlib, io, sys
        from coordinator import cli
        for path in {paths!r}:
            sys.argv = ["edgetide", *path]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                cli.main()
        print([name for name in {HEAVY!r} if name in sys.modules])
        """
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("package", ["device_agent", "firmware_profiles", "models", "dse", "coordinator"])
def test_importing_a_package_loads_no_heavy_library(package):
    result = run_python(
        f"""
        import sys
        import {package}
        print([name for name in {HEAVY!r} if name in sys.modules])
        """
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_an_agent_loads_no_library_that_trains_before_there_is_something_to_train():
    result = run_python(
        f"""
        import sys
        import device_agent.runtime
        print([name for name in {TRAINS!r} if name in sys.modules])
        """
    )
    assert result.stdout.strip() == "[]", result.stderr


# ---------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    "argv",
    [
        ["telepathy"],
        ["up", "--telepathy"],
        ["up", "--devices", "0"],
        ["up", "--devices", "many"],
        ["up", "--rounds", "0"],
        ["up", "--port", "70000"],
        ["up", "--seed", "-1"],
        ["up", "--round-seconds", "abc"],
        ["coordinator", "run", "--round-seconds", "abc"],
        ["coordinator", "run", "--round-seconds", "-1"],
        ["coordinator", "run", "--round-seconds", "nan"],
        ["coordinator", "rollout"],
        ["sim", "run"],
        ["agent", "run", "--threads", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_says_what_was_wrong(monkeypatch, capsys, argv):
    assert edgetide(monkeypatch, *argv) == 2
    told = capsys.readouterr()
    assert told.err
    assert told.out == ""


def test_no_command_at_all_shows_the_help(monkeypatch, capsys):
    edgetide(monkeypatch)
    assert "Usage:" in "".join(capsys.readouterr())


# ---------------------------------------------------------------- one clear line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["coordinator", "run", "--strategy", "telepathy"], "strategy 'telepathy' is unknown"),
        (["up", "--strategy", "distreall"], 'did you mean "distreal"'),
        (["up", "--strategy", "full", "--topology", "ring"], "full has no exchange between devices"),
        (["up", "--strategy", "async", "--barrier-seconds", "1"], "async has no exchange between devices"),
        (["up", "--strategy", "gossip", "--gossip", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["coordinator", "run", "--strategy", "full", "--sample-seconds", "1"], "leave gossip out"),
        (["coordinator", "run", "--model", "cnn-29"], "did you mean cnn-28"),
        (["coordinator", "run", "--data", "nowhere.npz"], "nowhere.npz"),
        (["coordinator", "run", "--table", "nowhere.yaml"], "nowhere.yaml"),
        (["coordinator", "run", "--fleet", "No Spaces"], "fleet 'No Spaces'"),
        (["coordinator", "run", "--learning-rate", "0"], "learning_rate"),
        (["coordinator", "rollout", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["coordinator", "run", "--engine", "tensorflow"], "engine 'tensorflow' is unknown"),
        (["agent", "run", "--id", "Bad_Id"], "'Bad_Id'"),
        (["agent", "run", "--id", "coordinator"], "'coordinator'"),
        (["agent", "run", "--shard", "4/4"], "--shard '4/4'"),
        (["agent", "run", "--profile", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_user_got_wrong_is_one_line_and_exit_1(monkeypatch, capsys, tmp_path, argv, message):
    if argv[:2] in (["coordinator", "run"], ["agent", "run"]):
        argv = [*argv, "--state", str(tmp_path)]
    assert edgetide(monkeypatch, *argv) == 1
    assert message in error_line(capsys)


def test_a_rollout_without_a_coordinator_says_what_to_do(monkeypatch, capsys, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("max_cpu_share_fraction: 0.5\n")
    assert edgetide(monkeypatch, "coordinator", "rollout", policy, "--state", tmp_path) == 1
    assert "no coordinator runs on the state folder" in error_line(capsys)


def test_a_busy_port_says_so_and_starts_nothing(monkeypatch, capsys, tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        port = busy.getsockname()[1]
        assert edgetide(monkeypatch, "up", "--port", port, "--state", tmp_path / "up") == 1
    assert f"port {port} is busy" in error_line(capsys)
    assert not (tmp_path / "up").exists()


def test_an_unknown_engine_of_a_mixed_fleet_is_told_and_starts_nothing(monkeypatch, capsys, tmp_path):
    assert edgetide(monkeypatch, "up", "--engine", "torch,tensorflow", "--state", tmp_path / "up") == 1
    assert "engine 'tensorflow' is unknown" in error_line(capsys)
    assert not (tmp_path / "up").exists()


def test_a_state_folder_in_use_says_so(monkeypatch, capsys, tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert edgetide(monkeypatch, "up", "--port", 0, "--state", tmp_path) == 1
    line = error_line(capsys)
    assert str(tmp_path) in line
    assert "--state" in line


def test_a_state_folder_that_cannot_be_made_says_so(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert edgetide(monkeypatch, "up", "--port", 0, "--state", tmp_path / "file" / "up") == 1
    assert "cannot be used" in error_line(capsys)


# ---------------------------------------------------------------- what is passed on


REPORT = {"accuracy": 0.81, "rounds": 8}


def test_up_passes_on_what_it_was_told(monkeypatch, capsys, tmp_path):
    told = []
    monkeypatch.setattr("coordinator.up.run_up", lambda config: told.append(config) or REPORT)
    argv = ["up", "--devices", "3", "--rounds", "5", "--strategy", "full", "--seed", "7", "--exit", "--fresh"]
    assert edgetide(monkeypatch, *argv, "--state", tmp_path, "--partition", "dirichlet:0.3") == 0
    (config,) = told
    assert (config.devices, config.rounds, config.strategy, config.seed) == (3, 5, "full", 7)
    assert (config.exit_when_finished, config.fresh, config.state) == (True, True, tmp_path)
    assert (config.partition, config.round_seconds) == ("dirichlet:0.3", "auto")
    assert capsys.readouterr().out == ""


def test_settings_of_gossip_come_from_a_file_and_from_options(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr("coordinator.runtime.run_coordinator", lambda config: told.append(config) or REPORT)
    file = tmp_path / "gossip.yaml"
    file.write_text("sample_s: 0.5\nsets: {gate: calibrated}\n", encoding="utf-8")
    argv = ["coordinator", "run", "--strategy", "gossip-paper", "--gossip", file, "--state", tmp_path]
    assert edgetide(monkeypatch, *argv) == edgetide(monkeypatch, *argv, "--sample-seconds", "0.2") == 0
    first, second = (config.learning.gossip for config in told)
    assert first == {"sample_s": 0.5, "sets": {"gate": "calibrated"}}
    assert second == {"sample_s": 0.2, "sets": {"gate": "calibrated"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sets: {gates: open}", 'gossip.sets: key "gates" is unknown; did you mean "gate"'),
        ("windows: many", "gossip: "),
        ("- a list", "gossip.yaml:1: "),
    ],
)
def test_settings_of_gossip_that_do_not_fit_are_one_line(monkeypatch, capsys, tmp_path, text, message):
    file = tmp_path / "gossip.yaml"
    file.write_text(text, encoding="utf-8")
    argv = ["up", "--strategy", "gossip", "--gossip", file, "--state", tmp_path / "up"]
    assert edgetide(monkeypatch, *argv) == 1
    assert message in error_line(capsys)


def test_json_is_one_object_and_the_last_line_on_stdout(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("coordinator.up.run_up", lambda config: REPORT)
    assert edgetide(monkeypatch, "up", "--json", "--exit", "--state", tmp_path) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == REPORT


@pytest.mark.parametrize(("text", "seconds"), [("auto", None), ("30", 30.0), ("0.5", 0.5)])
def test_the_coordinator_takes_seconds_or_auto(monkeypatch, tmp_path, text, seconds):
    told = []
    monkeypatch.setattr("coordinator.runtime.run_coordinator", lambda config: told.append(config) or REPORT)
    assert edgetide(monkeypatch, "coordinator", "run", "--round-seconds", text, "--state", tmp_path) == 0
    assert told[0].round_s == seconds


def test_the_brokers_password_is_not_shown_on_the_page(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr("coordinator.runtime.run_coordinator", lambda config: told.append(config) or REPORT)
    broker = "mqtt://user:secret@example.org:1883"
    edgetide(monkeypatch, "coordinator", "run", "--broker", broker, "--state", tmp_path)
    assert "secret" not in told[0].broker_description
    assert told[0].broker == broker
