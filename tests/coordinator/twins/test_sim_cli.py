"""`edgetide sim run`: what a script and a person get."""

import json

import pytest

from coordinator.twins.sim_cli import run_scenario_command
from firmware_profiles.errors import UserError

CONTRACT = {
    "scenario",
    "strategy",
    "seed",
    "accuracy",
    "accuracy_curve",
    "virtual_s",
    "bytes_sent",
    "messages_sent",
    "macs",
    "client_updates",
    "weights_digest",
    "vector_shares",
    "wall_s",
}


@pytest.fixture
def path(world, make_scenario):
    make_scenario()
    return world / "small.yaml"


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def run(path, capsys, *overrides, seed=None):
    run_scenario_command(path, list(overrides), seed, as_json=True)
    return last_line(capsys)


def test_json_keeps_the_contract(path, capsys):
    told = run(path, capsys, "rounds=1", seed=5)
    assert told.keys() >= CONTRACT
    assert (told["scenario"], told["strategy"], told["seed"]) == ("small", "distreal", 5)
    assert [len(point) for point in told["accuracy_curve"]] == [2, 2]


def test_the_same_seed_gives_the_same_json_but_for_the_wall_clock(path, capsys):
    one, other = (run(path, capsys, "rounds=1", seed=5) for _ in range(2))
    assert one.pop("wall_s") > 0
    del other["wall_s"]
    assert one == other


def test_only_the_json_goes_to_stdout(path, capsys):
    run_scenario_command(path, ["rounds=1"], None, as_json=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_person_gets_tables(path, capsys):
    run_scenario_command(path, ["rounds=1"], None, as_json=False)
    out = capsys.readouterr().out
    assert "accuracy on held-out data" in out
    assert "one-1" in out


def test_a_bad_override_names_itself(path):
    with pytest.raises(UserError, match=r"--set ruonds=1: .* did you mean"):
        run_scenario_command(path, ["ruonds=1"], None, as_json=True)


def test_the_command_line_reaches_the_simulator(path):
    from typer.testing import CliRunner

    from coordinator.cli import app

    told = CliRunner().invoke(app, ["sim", "run", str(path), "--set", "rounds=1", "--seed", "4", "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout.splitlines()[-1])["seed"] == 4
