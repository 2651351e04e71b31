"""`edgetide dse plan` from the command line."""

import json

import pytest
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.planning import plan_cli
from coordinator.planning.evaluate import Evaluation
from coordinator.planning.plan_file import load_plan


@pytest.fixture
def stubbed(monkeypatch, make_outcome):
    """Simulations that end at once."""

    def make_evaluate(*_args, **_options):
        return lambda runs: [Evaluation(run, make_outcome(0.5)) for run in runs]

    monkeypatch.setattr(plan_cli, "make_evaluate", make_evaluate)


def plan(*arguments):
    return CliRunner().invoke(app, ["dse", "plan", *map(str, arguments)], catch_exceptions=False)


def test_the_last_line_is_one_json_object_and_the_plan_file_is_there(folder, tmp_path, stubbed):
    candidates = tmp_path / "candidates.yaml"
    candidates.write_text("a: {strategy: small, base_width: 0.3}\nb: {strategy: small, base_width: 0.5}\n")
    out = tmp_path / "plan.yaml"
    result = plan(
        folder / "fleet.yaml", "--candidates", candidates, "--out", out, "--budget-fraction", 3, "--json"
    )
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["recommended"] == load_plan(out).recommended
    assert told["recommendation"].startswith("Run ")


def test_people_get_a_table_and_a_recommendation(folder, tmp_path, stubbed):
    result = plan(folder / "fleet.yaml", "--out", tmp_path / "plan.yaml", "--budget-fraction", 3)
    assert "Run " in result.stdout
    assert "expected accuracy" in result.stdout


def test_unknown_methods_are_refused(folder):
    with pytest.raises(Exception, match="choose default or all"):
        plan(folder / "fleet.yaml", "--methods", "some")
