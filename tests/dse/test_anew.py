"""The second measurement as a race: what is clearly behind after some warm starts sees no further one."""

from __future__ import annotations

from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from dse.anew import NUM_FRESH, Unit, fresh_repeats, noise_of_parts, open_units
from dse.anew import _key as key_of
from dse.anew import contenders as contenders_of
from dse.costs import VectorCost
from dse.settings import SearchSettings
from dse.study import quiet

SETTINGS = SearchSettings(stages=(60, 240), num_repeats=2)
CHEAP, MIDDLE, DEAR, FULL = (2,), (5,), (7,), (8,)
ALL = [CHEAP, MIDDLE, DEAR, FULL]


def a_site(**changes):
    run = SimpleNamespace(**{"settings": SETTINGS, "stops_hopeless": True, **changes})
    return SimpleNamespace(run=run, pricing=lambda vector: VectorCost(vector[0], 10, float(vector[0]), None))


@pytest.fixture
def study():
    """Ten trials whose parts have a noise of about 0.01."""
    with quiet():
        made = optuna.create_study(directions=["minimize", "maximize"])
        for number in range(10):
            noise = 0.01 if number % 2 else -0.01
            gains = {"60": [0.1 + noise, 0.1 - noise], "240": [0.1 - noise, 0.1 + noise]}
            made.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    values=[float(number), 0.1],
                    params={"0:a": 1 + number % 8},
                    distributions={"0:a": IntDistribution(1, 8)},
                    user_attrs={"gains": gains},
                )
            )
        yield made


def contenders(site, study, vectors, repeat):
    return contenders_of(site, study, vectors, repeat, noise_of_parts(site, study))


def measured(study, repeat, gains):
    for vector, gain in gains.items():
        study.set_user_attr(key_of(Unit(repeat, vector)), {"vector": list(vector), "gains": [gain, gain]})


def test_nothing_is_left_out_before_anything_is_measured(study):
    assert contenders(a_site(), study, ALL, 2) == ALL


def test_what_is_clearly_behind_a_cheaper_one_or_nothing_is_left_out(study):
    measured(study, 2, {CHEAP: -0.3, MIDDLE: 0.2, DEAR: 0.05, FULL: 0.3})
    assert contenders(a_site(), study, ALL, 3) == [MIDDLE, FULL]


def test_what_may_be_behind_by_chance_and_what_is_cheaper_goes_on(study):
    measured(study, 2, {CHEAP: 0.05, MIDDLE: 0.2, DEAR: 0.195, FULL: 0.3})
    assert contenders(a_site(), study, ALL, 3) == ALL


def test_later_warm_starts_decide_among_those_that_are_left(study):
    measured(study, 2, {CHEAP: -0.3, MIDDLE: 0.2, DEAR: 0.19, FULL: 0.3})
    left = contenders(a_site(), study, ALL, 3)
    measured(study, 3, {MIDDLE: 0.2, DEAR: 0.1, FULL: 0.3})
    assert (left, contenders(a_site(), study, left, 4)) == ([MIDDLE, DEAR, FULL], [MIDDLE, FULL])


def test_one_that_is_out_stays_out_whatever_other_workers_find(study):
    measured(study, 2, {CHEAP: 0.05, MIDDLE: 0.2, DEAR: 0.195, FULL: 0.3})
    measured(study, 3, {CHEAP: 0.05, MIDDLE: 0.2, FULL: 0.3})
    assert contenders(a_site(), study, [CHEAP, MIDDLE, FULL], 4) == [CHEAP, MIDDLE, FULL]


def test_nothing_is_behind_a_vector_that_the_table_would_refuse(study):
    for vector, gains in (
        (CHEAP, [0.45, 0.01]),
        (MIDDLE, [0.2, 0.2]),
        (DEAR, [0.1, 0.3]),
        (FULL, [0.3, 0.3]),
    ):
        study.set_user_attr(key_of(Unit(2, vector)), {"vector": list(vector), "gains": gains})
    assert MIDDLE in contenders(a_site(), study, ALL, 3)


def test_the_full_vector_is_always_measured_to_the_end(study):
    measured(study, 2, {CHEAP: 0.2, MIDDLE: 0.25, DEAR: 0.3, FULL: -0.3})
    assert contenders(a_site(), study, ALL, 3) == ALL


def test_everything_is_measured_where_nothing_may_be_given_up(study):
    measured(study, 2, {CHEAP: -0.3, MIDDLE: 0.2, DEAR: 0.05, FULL: 0.3})
    assert contenders(a_site(stops_hopeless=False), study, ALL, 3) == ALL


def test_dear_vectors_come_first_and_those_that_are_kept_not_again(study):
    site = a_site()
    first, *_ = fresh_repeats(site)
    measured(study, first, {MIDDLE: 0.1})
    units = [Unit(first, vector) for vector in ALL]
    assert [unit.vector for unit in open_units(site, study, units)] == [FULL, DEAR, CHEAP]
    assert list(fresh_repeats(site)) == [2, 3, 4][:NUM_FRESH]
