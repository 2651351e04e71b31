"""The search: seeded, reproducible, resumable, quiet, and shared by many workers."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dse.costs import VectorCost
from dse.front import pareto_front
from dse.search import Question, SearchOptions, has_stalled, search
from dse.study import fail_lost_trials, finished, measurements, open_study, quiet, vector_of
from firmware_profiles.errors import UserError
from models.widths import WidthGroup, WidthPlan

PLAN = WidthPlan(groups=(WidthGroup("a", 8), WidthGroup("b", 16)), axes={}, values={})
FACTS = {"model": "tiny"}
STAGES = ("60", "240")


def costs(vector):
    a, b = vector
    return VectorCost(a + 2 * b * a, 10 * a, float(a + 2 * b * a), None)


def measure(vector, part):
    """The second group costs twice and brings little: the front keeps the first one full."""
    a, b = vector
    return 0.1 * a + 0.01 * b - 0.2 + 0.01 * (part % 2)


def question(measure=measure, **changes):
    fields = {
        "plan": PLAN,
        "objectives": ("cost", "progress"),
        "stages": STAGES,
        "num_repeats": 2,
        "costs": costs,
        "measure": measure,
        "checksum": "same",
    }
    return Question(**{**fields, **changes})


def options(num_trials, seed=0, **changes):
    return SearchOptions(**{"num_trials": num_trials, "seed": seed, "stops_hopeless": False, **changes})


@pytest.fixture
def url(tmp_path):
    with quiet():
        yield f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def new_study():
    """Studies in memory, where the database is not the point."""
    with quiet():
        yield lambda objectives=("cost", "progress"): optuna.create_study(
            directions=["minimize"] * (len(objectives) - 1) + ["maximize"]
        )


def vectors(study):
    return [vector_of(trial, PLAN) for trial in finished(study)]


def test_the_first_vectors_are_uniform_and_the_very_first_drops_nothing(new_study):
    study = new_study()
    search(study, question(), options(4, seed=1))
    assert vectors(study) == [(8, 16), (7, 14), (6, 13), (6, 11)]


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_the_same_seed_searches_the_same_vectors_with_every_sampler(new_study, sampler):
    found = []
    for _ in range(2):
        study = new_study()
        search(study, question(), options(30, seed=7, sampler=sampler))
        found.append(vectors(study))
    assert found[0] == found[1]
    assert len(set(found[0])) > 15


def test_another_seed_searches_other_vectors(new_study):
    found = []
    for seed in (1, 2):
        study = new_study()
        search(study, question(), options(15, seed=seed))
        found.append(vectors(study))
    assert found[0] != found[1]


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(url):
    whole = open_study(url, "whole", FACTS)
    search(whole, question(), options(16, seed=3))
    calls = itertools.count()

    def interrupted(vector, part):
        if next(calls) == 50:
            raise KeyboardInterrupt
        return measure(vector, part)

    with pytest.raises(KeyboardInterrupt):
        search(open_study(url, "parts", FACTS), question(interrupted), options(16, seed=3))
    resumed = open_study(url, "parts", FACTS)
    assert len(measurements(resumed, PLAN)) == 12
    search(resumed, question(), options(16, seed=3))
    assert measurements(resumed, PLAN) == measurements(whole, PLAN)


def test_a_finished_study_measures_nothing_more(url):
    search(open_study(url, "s", FACTS), question(), options(12))

    def never(vector, part):
        raise AssertionError(vector, part)

    search(open_study(url, "s", FACTS), question(never), options(12))


def test_a_vector_that_comes_again_is_not_measured_again(new_study):
    measured = []

    def count(vector, part):
        measured.append((vector, part))
        return measure(vector, part)

    search(new_study(), question(count), options(60))
    assert len(measured) == len(set(measured)) < 60 * 4


def test_the_search_finds_what_no_uniform_vector_reaches(new_study):
    study = new_study()
    search(study, question(), options(9))
    uniform = pareto_front(measurements(study, PLAN))
    search(study, question(), options(60))
    searched = pareto_front(measurements(study, PLAN))
    assert any(one.macs < known.macs and one.gain > known.gain for one in searched for known in uniform)


def test_a_trial_keeps_the_gain_of_every_stage_and_repeat(new_study):
    study = new_study()
    search(study, question(lambda _vector, part: float(part)), options(1))
    (trial,) = finished(study)
    assert trial.user_attrs["gains"] == {"60": [0.0, 2.0], "240": [1.0, 3.0]}
    assert measurements(study, PLAN)[0].stage_gains == (1.0, 2.0)
    assert trial.values[-1] == 1.5


def test_memory_can_be_an_objective_of_its_own(new_study):
    objectives = ("cost", "memory", "progress")
    study = new_study(objectives)
    search(study, question(objectives=objectives), options(1))
    assert finished(study)[0].values == [264.0, 80.0, pytest.approx(0.765)]


def test_a_hopeless_vector_is_given_up_and_told_without_a_value(new_study):
    def bad_but_for_the_full_one(vector, part):
        return 0.5 if vector[0] >= 6 else -0.5 - 0.001 * (part % 3)

    study = new_study()
    search(study, question(bad_but_for_the_full_one), options(40, stops_hopeless=True))
    stopped = [trial for trial in finished(study) if trial.state == TrialState.PRUNED]
    assert stopped
    for trial in stopped:
        if "again" not in trial.user_attrs:
            num_measured = sum(map(len, trial.user_attrs["gains"].values()))
            assert num_measured + trial.user_attrs["parts_saved"] == 4
        assert trial.values is None
    assert all(one.gain == 0.5 for one in measurements(study, PLAN)[-5:])


def test_a_search_that_no_longer_finds_anything_can_end_early(new_study):
    study = new_study()
    search(study, question(lambda _vector, _part: 0.1), options(100, until_stalled=15))
    assert len(finished(study)) < 100
    assert has_stalled(finished(study), question(), 15)


def test_workers_of_one_study_make_exactly_as_many_trials_as_it_shall_have(url):
    errors = []

    def work():
        try:
            search(open_study(url, "s", FACTS), question(), options(15))
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = open_study(url, "s", FACTS)
    assert not errors
    assert len(finished(study)) == 15
    assert {(8, 16), (7, 14), (6, 13)} <= set(vectors(study))


def test_a_machine_with_other_warm_starts_is_refused(new_study):
    study = new_study()
    search(study, question(), options(2))
    with pytest.raises(UserError, match=r"checksum other, those of trial 0 had same"):
        search(study, question(checksum="other"), options(4))


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_search import *
def die(vector, part):
    if vector[0] == 6:
        os.kill(os.getpid(), 9)
    return measure(vector, part)
with quiet():
    search(open_study(sys.argv[1], "s", FACTS), question(die), options(6))
"""


def test_a_worker_that_is_killed_loses_only_the_trial_it_was_at(url):
    here = Path(__file__).parent
    ended = subprocess.run([sys.executable, "-c", KILLED, url, here], check=False, env={**os.environ})
    assert ended.returncode == -9
    study = open_study(url, "s", FACTS)
    assert len(finished(study)) == 2
    search(study, question(), options(6))
    assert vectors(study) == [(8, 16), (7, 14), (6, 13), (6, 11), (5, 10), (4, 8)]


def test_a_trial_of_another_machine_is_not_given_up_while_it_may_live(new_study):
    study = new_study()
    trial = study.ask()
    trial.set_user_attr("worker", {"machine": "elsewhere", "pid": 1, "started": 0.0})
    fail_lost_trials(study, {}, 0.0)
    assert study.get_trials()[0].state == TrialState.RUNNING


def test_a_trial_that_never_said_who_runs_it_is_given_up_after_a_while(new_study):
    study = new_study()
    study.ask()
    first_seen_s = {}
    fail_lost_trials(study, first_seen_s, 1000.0)
    assert study.get_trials()[0].state == TrialState.RUNNING
    fail_lost_trials(study, first_seen_s, 2000.0)
    assert study.get_trials()[0].state == TrialState.FAIL


def test_a_study_begun_with_other_settings_is_refused_by_name(url):
    open_study(url, "s", {"model": "tiny", "num_steps": "10"})
    with pytest.raises(UserError, match="'s' was begun with num_steps 10, this command says 20"):
        open_study(url, "s", {"model": "tiny", "num_steps": "20"})


@pytest.mark.parametrize("bad", ["nonsense", "sqlite:////no/such/folder/x.db", "nodb://x"])
def test_a_database_that_cannot_be_used_is_named(bad):
    with quiet(), pytest.raises(UserError, match="cannot be used"):
        open_study(bad, "s", FACTS)


def test_a_database_that_cannot_be_used_is_named_without_its_password():
    with quiet(), pytest.raises(UserError) as raised:
        open_study("nodb://me:secret@host/x", "s", FACTS)
    assert "secret" not in str(raised.value)


def test_a_damaged_database_is_named(tmp_path):
    (tmp_path / "x.db").write_bytes(b"this is no database" * 100)
    with quiet(), pytest.raises(UserError, match=r"x\.db cannot be used"):
        open_study(f"sqlite:///{tmp_path}/x.db", "s", FACTS)


@pytest.mark.skipif("EDGETIDE_TEST_POSTGRES" not in os.environ, reason="names no PostgreSQL to test with")
def test_workers_share_a_study_on_postgresql():
    url, name = os.environ["EDGETIDE_TEST_POSTGRES"], f"test {os.getpid()}"
    counts = []

    def work():
        study = open_study(url, name, FACTS)
        search(study, question(), options(20))
        counts.append(len(finished(study)))
        study._storage._backend.engine.dispose()

    with quiet():
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [20, 20]


def test_the_command_line_loads_neither_torch_nor_optuna():
    code = "import sys, dse.cli; print({'torch', 'optuna', 'sqlalchemy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
