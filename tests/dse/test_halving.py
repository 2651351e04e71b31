"""Successive halving by forecasts, on synthetic learning curves that cross."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dse.halving import Forecast, Halving, HalvingSettings, Outcome, Trial, pick_batch
from dse.scaling_law import ScalingLaw, Traits

ROUNDS = 100


def traits(family, width, steps, rate=0.8):
    return Traits(
        family=family,
        width=width,
        rate=rate,
        shares=np.array([1.0]),
        steps=np.array([[float(steps)]]),
        class_weights=np.array([1.0]),
    )


CROSSING = [traits("full", 1.0, 1000), traits("small", 0.3, 5000), traits("tiny", 0.1, 20_000)]
"""The smaller, the more steps and the sooner at their limit."""


def accuracy(one, length, limit=0.1):
    """The curve of a candidate, by the law itself with other constants than its priors' means."""
    steps = length * float(one.steps.sum()) * math.exp(-0.5 * (math.log(one.rate) - math.log(0.8)) ** 2)
    return 1.0 - min(0.9, limit * (1 + 0.4 * math.log(1 / one.width)) + 1.2 * steps**-0.5)


def independent(num):
    """A forecast that takes the longest run's score for the full run's."""

    def predict(outcomes):
        mean, sd = np.zeros(num), np.ones(num)
        for one in sorted(outcomes, key=lambda outcome: outcome.trial.num_steps):
            mean[one.trial.candidate] = one.score
            sd[one.trial.candidate] = 0.1 * (1 - one.trial.num_steps / ROUNDS)
        return Forecast(mean, np.diag(sd**2))

    return predict


def run(halving, score, cost, known=()):
    """Answer all that is asked, from what is known where it is; returns the trials made."""
    made, stored = [], {outcome.trial: outcome for outcome in known}
    while trials := halving.ask():
        for trial in trials:
            if trial not in stored:
                made.append(trial)
            outcome = stored.get(trial) or Outcome(trial, score(trial), cost(trial))
            halving.tell(outcome)
    return made


def plan_of(candidates, budget, **changes):
    law = ScalingLaw(candidates, ROUNDS)
    settings = HalvingSettings(num_steps=ROUNDS, min_steps=5, **changes)
    return Halving([1.0] * len(candidates), budget, law, settings)


def test_short_runs_alone_would_pick_the_wrong_one():
    scores = [accuracy(one, 0.05) for one in CROSSING]
    finals = [accuracy(one, 1.0) for one in CROSSING]
    assert (np.argmax(scores), np.argmax(finals)) == (1, 0)


def test_the_forecast_finds_who_overtakes_within_a_small_budget():
    halving = plan_of(CROSSING, 0.3)
    run(halving, lambda trial: accuracy(CROSSING[trial.candidate], trial.num_steps / ROUNDS), _cost)
    assert halving.ranking()[0] == 0
    assert halving.spent <= 0.3


def test_a_hard_task_of_few_rounds_keeps_the_small_network():
    candidates = [traits("full", 1.0, 12), traits("small", 0.3, 150)]
    halving = plan_of(candidates, 0.6)
    run(halving, lambda trial: accuracy(candidates[trial.candidate], trial.num_steps / ROUNDS), _cost)
    assert halving.ranking()[0] == 1


@given(
    costs=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8),
    budget=st.floats(0.0, 5.0),
    dearness=st.floats(0.3, 1.2),
    rungs=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_no_plan_exceeds_its_budget(costs, budget, dearness, rungs, seed):
    settings = HalvingSettings(num_steps=ROUNDS, num_rungs=rungs, margin=1.2)
    halving = Halving(costs, budget, independent(len(costs)), settings)
    scores = np.random.default_rng(seed).random(len(costs))
    run(
        halving,
        lambda trial: float(scores[trial.candidate]),
        lambda trial: dearness * costs[trial.candidate] * trial.num_steps / ROUNDS,
    )
    assert halving.spent <= budget + 1e-9


@given(finals=st.permutations(range(6)), slopes=st.lists(st.floats(0.0, 0.5), min_size=6, max_size=6))
@hypothesis_settings(max_examples=50, deadline=None)
def test_the_best_wins_where_the_budget_pays_for_full_runs(finals, slopes):
    def score(trial):
        return finals[trial.candidate] - slopes[trial.candidate] * (1 - trial.num_steps / ROUNDS)

    halving = Halving([1.0] * 6, 30.0, independent(6), HalvingSettings(num_steps=ROUNDS))
    run(halving, score, _cost)
    assert halving.ranking()[0] == finals.index(5)


def test_the_order_of_answers_within_a_rung_changes_nothing():
    asked = []
    for is_reversed in (False, True):
        halving, seen = plan_of(CROSSING, 1.0), []
        while trials := halving.ask():
            seen.append(trials)
            for trial in reversed(trials) if is_reversed else trials:
                score = accuracy(CROSSING[trial.candidate], trial.num_steps / ROUNDS)
                halving.tell(Outcome(trial, score, _cost(trial)))
        asked.append((seen, halving.ranking()))
    assert asked[0] == asked[1]


def test_a_plan_goes_on_from_what_is_known():
    def score(trial):
        return accuracy(CROSSING[trial.candidate], trial.num_steps / ROUNDS)

    whole = plan_of(CROSSING, 1.0)
    all_made = run(whole, score, _cost)
    for num_known in (1, len(all_made) - 1):
        again = plan_of(CROSSING, 1.0)
        made = run(again, score, _cost, known=whole.outcomes[:num_known])
        assert made == all_made[num_known:]
        assert again.ranking() == whole.ranking()


def test_all_runs_of_a_rung_have_one_length_and_one_seed():
    halving = plan_of(CROSSING, 1.0, confidence=1.0)
    made = run(halving, lambda trial: accuracy(CROSSING[trial.candidate], trial.num_steps / ROUNDS), _cost)
    for _, rung in itertools.groupby(made, key=lambda trial: trial.rung):
        assert len({(trial.num_steps, trial.seed) for trial in rung}) == 1
    assert len({trial.seed for trial in made}) > 1


def test_a_candidate_that_cannot_run_is_out():
    halving = Halving([1.0, 1.0], 2.0, independent(2), HalvingSettings(num_steps=ROUNDS))
    run(halving, lambda trial: None if trial.candidate == 0 else 0.5, _cost)
    assert halving.failed == {0}
    assert halving.ranking() == (1,)
    assert [one.trial.rung for one in halving.outcomes if one.trial.candidate == 0] == [0]


def test_a_lowered_budget_holds_for_what_is_still_to_come():
    halving = Halving([1.0] * 3, 3.0, independent(3), HalvingSettings(num_steps=ROUNDS, confidence=1.0))
    for trial in halving.ask():
        halving.tell(Outcome(trial, 0.01 * trial.candidate, _cost(trial)))
    halving.rebudget(halving.spent)
    assert halving.ask() == ()


def test_dearer_runs_than_estimated_make_later_ones_shorter():
    lengths = []
    for dearness in (0.5, 1.2):
        halving = Halving([1.0] * 4, 0.8, independent(4), HalvingSettings(num_steps=1000, confidence=1.0))
        for trial in halving.ask():
            halving.tell(Outcome(trial, 0.01 * trial.candidate, dearness * trial.num_steps / 1000))
        lengths.append(halving.ask()[0].num_steps)
    assert lengths[0] > lengths[1]


def test_a_near_twin_is_not_picked_along():
    mean = np.array([1.0, 0.99, 0.8])
    covariance = np.array([[1.0, 0.999, 0.0], [0.999, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert pick_batch(Forecast(mean, covariance), 2, 1.0) == [0, 2]


def test_the_difference_of_two_leaves_out_what_they_share():
    forecast = Forecast(np.array([0.5, 0.3]), np.array([[4.01, 4.0], [4.0, 4.01]]))
    mean, sd = forecast.difference(0, 1)
    assert (mean, sd) == (pytest.approx(0.2), pytest.approx(math.sqrt(0.02)))


def test_an_answer_to_nothing_asked_is_refused():
    halving = Halving([1.0], 1.0, independent(1), HalvingSettings(num_steps=ROUNDS))
    with pytest.raises(ValueError, match="not open"):
        halving.tell(Outcome(Trial(0, 0, 5, 0), 0.5, 0.1))


def _cost(trial):
    return trial.num_steps / ROUNDS
