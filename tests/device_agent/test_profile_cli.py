"""`edgetide agent profile`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from device_agent.profile_cli import as_json, as_table, look, profile
from device_agent.sensors import Sensors
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, policy_digest
from firmware_profiles.profile import detect_profile

BOARDS = Path(__file__).parents[1] / "fixtures" / "boards"


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(profile)
    runner = CliRunner()

    def invoke(*arguments: str):
        return runner.invoke(app, ["--interval", "0.1", *arguments])

    return invoke


def report(board: str, policy: Policy | None = None):
    root = BOARDS / board
    sensors = Sensors(root, own_pid=1200, hour=lambda: 12.0, own_memory=lambda: 1024)
    return look(detect_profile(root), sensors.read(), policy or Policy())


def shown(found) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(as_table(found))
    return capture.get()


def test_json_is_one_object_on_the_last_line(run):
    result = run("--json", "--root", str(BOARDS / "raspberry-pi-4"))
    assert result.exit_code == 0
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["profile"] == "raspberry-pi-4"
    assert found["snapshot"]["temperature_celsius"] == 48.312
    assert found["budget"]["cpu_share_fraction"] == 0.9
    assert found["pause"] is None


def test_a_pause_has_a_reason_and_no_budget():
    found = as_json(report("laptop", Policy(min_battery_fraction=0.8)))
    assert found["budget"] is None
    assert found["pause"] == "battery 70 % is below min_battery 80 %"


def test_the_report_names_the_policy_by_its_digest():
    assert as_json(report("laptop"))["policy_digest"] == policy_digest(Policy())


def test_the_table_shows_what_is_known_and_what_is_not():
    text = shown(report("raspberry-pi-4"))
    assert "Raspberry Pi 4 Model B" in text
    assert "48.3 °C" in text
    assert "1,500 MHz" in text
    assert "not known" in text


def test_the_table_shows_what_training_may_take():
    assert "90.0 % of the CPU = 3.60 cores" in shown(report("raspberry-pi-4"))


def test_the_table_shows_why_training_pauses():
    assert "external power is not connected" in shown(report("laptop", Policy(only_when_charging=True)))


def test_once_prints_the_table_and_ends(run):
    result = run("--once", "--root", str(BOARDS / "jetson-orin-nano"))
    assert result.exit_code == 0
    assert "Jetson Orin Nano" in result.stdout


def test_a_policy_file_is_weighed(run, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("max_cpu_share_fraction: 0.25\n")
    result = run("--json", "--root", str(BOARDS / "raspberry-pi-4"), "--policy", str(path))
    assert json.loads(result.stdout)["budget"]["cpu_share_fraction"] == 0.25


def test_a_corrupt_policy_is_the_users_error(run, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("max_cpu: 0.25\n")
    result = run("--json", "--policy", str(path))
    assert isinstance(result.exception, UserError)
    assert "policy.yaml:1" in str(result.exception)


def test_a_root_that_is_no_folder_is_the_users_error(run, tmp_path):
    result = run("--json", "--root", str(tmp_path / "none"))
    assert isinstance(result.exception, UserError)


def test_in_a_pipe_it_looks_once_instead_of_showing_nothing(run):
    result = run("--root", str(BOARDS / "raspberry-pi-4"))
    assert result.exit_code == 0
    assert "training" in result.output
