"""The plan file, what takes it, and what is shown of it."""

import json

import pytest

from coordinator.planning.plan_file import (
    Compared,
    Cost,
    Plan,
    Point,
    dump_plan,
    fleet_digest,
    load_plan,
    plan_learning,
    plan_overrides,
)
from coordinator.planning.plots import write_html, write_png
from coordinator.planning.report import as_json, recommendation
from coordinator.settings import LearningConfig
from coordinator.twins.scenario import load_scenario
from firmware_profiles.errors import UserError

CHANGES = {
    "strategy": "small",
    "base_width": 0.5,
    "paper": False,
    "table": None,
    "learning_rate": 1e-05,
    "averages": {"server_momentum": 0.5},
}


def make_compared(name, accuracy, behind=0.0):
    curve = tuple(
        Point(round=number, accuracy=accuracy * number / 10, low=0.1, high=0.9) for number in (5, 10)
    )
    return Compared(
        name=name,
        changes=CHANGES,
        curve=curve,
        probability_best=0.5,
        behind=behind,
        behind_low=behind - 1,
        behind_high=behind + 1,
        rounds_simulated=(2, 3),
        macs=1e9,
    )


def make_plan_for(digest, changes=CHANGES):
    return Plan(
        fleet="boards",
        fleet_digest=digest,
        recommended="small: 0.5 # half",
        changes=changes,
        rounds=10,
        num_candidates=7,
        seeds=(0, 1),
        num_validation=20,
        compared=(make_compared("small: 0.5 # half", 0.8), make_compared("full", 0.795, 0.4)),
        cost=Cost(
            macs=1e9, run_macs=1e10, budget_fraction=0.15, fraction=0.1, simulations=4, core_seconds=3.5
        ),
    )


@pytest.fixture
def plan_path(folder, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(dump_plan(make_plan_for(fleet_digest(folder / "fleet.yaml"))))
    return path


def test_a_plan_is_read_as_it_was_written(folder, plan_path):
    assert load_plan(plan_path) == make_plan_for(fleet_digest(folder / "fleet.yaml"))


def test_a_misspelt_key_is_refused(plan_path):
    plan_path.write_text(plan_path.read_text().replace("num_candidates", "num_candidate"))
    with pytest.raises(UserError, match="num_candidate"):
        load_plan(plan_path)


def test_a_simulation_takes_a_plan(folder, plan_path):
    scenario = load_scenario(folder / "fleet.yaml", plan_overrides(folder / "fleet.yaml", plan_path))
    assert (scenario.strategy, scenario.base_width, scenario.learning_rate) == ("small", 0.5, 1e-05)
    assert scenario.averages == {"server_momentum": 0.5}


def test_a_plan_of_another_fleet_is_refused(folder, plan_path, tmp_path):
    other = tmp_path / "fleet.yaml"
    other.write_text((folder / "fleet.yaml").read_text() + "# changed\n")
    with pytest.raises(UserError, match=r"was made for 'boards'.*plan anew"):
        plan_overrides(other, plan_path)


def test_a_real_fleet_takes_a_plan(plan_path):
    config = plan_learning(LearningConfig(model="cnn-28", data="d", table=None, passes=4.0), plan_path)
    assert (config.strategy, config.base_width, config.learning_rate) == ("small", 0.5, 1e-05)
    assert (config.passes, config.averages) == (4.0, {"server_momentum": 0.5})


def test_the_papers_form_is_a_method_of_its_own_to_a_real_fleet(plan_path):
    plan_path.write_text(dump_plan(make_plan_for("0" * 64, {"strategy": "distreal", "paper": True})))
    assert plan_learning(LearningConfig(model="m", data="d"), plan_path).strategy == "distreal-paper"


def test_what_a_real_fleet_does_not_take_from_a_plan_is_refused(plan_path):
    plan_path.write_text(dump_plan(make_plan_for("0" * 64, {"min_devices": 2})))
    with pytest.raises(UserError, match="min_devices"):
        plan_learning(LearningConfig(model="m", data="d"), plan_path)


def test_the_recommendation_is_in_plain_words():
    said = recommendation(make_plan_for("0" * 64))
    assert said.startswith("Run small: 0.5 # half: expected accuracy 0.800 (0.100 to 0.900) after 10 rounds.")
    assert "Runner-up is full: 0.795 (0.100 to 0.900), which may be as good." in said


def test_a_plan_is_json(folder):
    told = json.loads(json.dumps(as_json(make_plan_for("0" * 64))))
    assert told["recommended"] == "small: 0.5 # half"
    assert told["compared"][1]["curve"][-1] == {"round": 10, "accuracy": 0.795, "low": 0.1, "high": 0.9}


def test_the_plots_are_written(tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    plan = make_plan_for("0" * 64)
    write_html(plan, tmp_path / "plan.html")
    write_png(plan, tmp_path / "plan.png")
    page = (tmp_path / "plan.html").read_text()
    assert "expected accuracy" in page
    assert 'src="http' not in page
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_says_so(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="cannot write"):
        write_png(make_plan_for("0" * 64), tmp_path / "missing" / "plan.png")
