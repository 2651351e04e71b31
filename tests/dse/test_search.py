"""The search: seeded, reproducible, resumable, quiet."""

import itertools
import subprocess
import sys

import pytest

from dse.front import Measurement, pareto_front
from dse.search import measurements, open_study, quiet, search
from firmware_profiles.errors import UserError
from models.widths import WidthGroup, WidthPlan

PLAN = WidthPlan(groups=(WidthGroup("a", 8), WidthGroup("b", 16)), axes={}, values={})
FACTS = {"model": "tiny"}


def cost(vector):
    """The second group costs twice and brings little: the front keeps the first one full."""
    a, b = vector
    return Measurement(vector, a + 2 * b * a, 0.1 * a + 0.01 * b - 0.2)


@pytest.fixture
def url(tmp_path):
    with quiet():
        yield f"sqlite:///{tmp_path}/study.db"


def vectors(study):
    return [tuple(trial.params.values()) for trial in study.get_trials() if trial.state.is_finished()]


def test_the_first_vectors_are_uniform_and_the_very_first_drops_nothing(url):
    study = open_study(url, "s", FACTS)
    search(study, PLAN, cost, 4, seed=1)
    assert vectors(study) == [(8, 16), (7, 14), (6, 13), (6, 11)]


def test_the_same_seed_searches_the_same_vectors(url):
    found = []
    for name in ("one", "two"):
        study = open_study(url, name, FACTS)
        search(study, PLAN, cost, 60, seed=7)
        found.append(vectors(study))
    assert found[0] == found[1]


def test_another_seed_searches_other_vectors(url):
    found = []
    for seed in (1, 2):
        study = open_study(url, str(seed), FACTS)
        search(study, PLAN, cost, 30, seed=seed)
        found.append(vectors(study))
    assert found[0] != found[1]


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(url):
    whole = open_study(url, "whole", FACTS)
    search(whole, PLAN, cost, 40, seed=3)
    calls = itertools.count()

    def interrupted(vector):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return cost(vector)

    with pytest.raises(KeyboardInterrupt):
        search(open_study(url, "parts", FACTS), PLAN, interrupted, 40, seed=3)
    resumed = open_study(url, "parts", FACTS)
    assert len(measurements(resumed, PLAN)) == 12
    search(resumed, PLAN, cost, 40, seed=3)
    assert measurements(resumed, PLAN) == measurements(whole, PLAN)


def test_a_finished_study_measures_nothing_more(url):
    search(open_study(url, "s", FACTS), PLAN, cost, 12, seed=0)

    def never(vector):
        raise AssertionError(vector)

    search(open_study(url, "s", FACTS), PLAN, never, 12, seed=0)


def test_a_vector_that_comes_again_is_not_measured_again(url):
    measured = []

    def count(vector):
        measured.append(vector)
        return cost(vector)

    search(open_study(url, "s", FACTS), PLAN, count, 60, seed=0)
    assert len(measured) == len(set(measured)) < 60


def test_the_search_finds_what_no_uniform_vector_reaches(url):
    study = open_study(url, "s", FACTS)
    search(study, PLAN, cost, 9, seed=0)
    uniform = pareto_front(measurements(study, PLAN))
    search(study, PLAN, cost, 60, seed=0)
    searched = pareto_front(measurements(study, PLAN))
    assert any(one.macs < known.macs and one.gain > known.gain for one in searched for known in uniform)


def test_a_study_begun_with_other_settings_is_refused_by_name(url):
    open_study(url, "s", {"model": "tiny", "num_steps": "10"})
    with pytest.raises(UserError, match="'s' was begun with num_steps 10, this command says 20"):
        open_study(url, "s", {"model": "tiny", "num_steps": "20"})


@pytest.mark.parametrize("bad", ["nonsense", "sqlite:////no/such/folder/x.db", "nodb://x"])
def test_a_database_that_cannot_be_used_is_named(bad):
    with quiet(), pytest.raises(UserError, match="cannot be used"):
        open_study(bad, "s", FACTS)


def test_a_damaged_database_is_named(tmp_path):
    (tmp_path / "x.db").write_bytes(b"this is no database" * 100)
    with quiet(), pytest.raises(UserError, match=r"x\.db cannot be used"):
        open_study(f"sqlite:///{tmp_path}/x.db", "s", FACTS)


def test_the_command_line_loads_neither_torch_nor_optuna():
    code = "import sys, dse.cli; print({'torch', 'optuna', 'sqlalchemy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
