"""The law that foretells full runs from short ones."""

import math

import numpy as np
import pytest

from dse.halving import Outcome, Trial
from dse.scaling_law import ScalingLaw, Traits


def traits(family="full", width=1.0, steps=400.0, share=1.0, rate=0.8):
    return Traits(
        family=family,
        width=width,
        rate=rate,
        shares=np.array([share]),
        steps=np.array([[steps]]),
        class_weights=np.array([1.0]),
    )


def expected(candidates, outcomes=(), length=1.0):
    """Expected accuracy of each candidate."""
    return 1 - np.exp(-ScalingLaw(candidates, 100).at(outcomes, length).mean)


def outcome(candidate, num_steps, accuracy, rung=0):
    return Outcome(Trial(rung, candidate, num_steps, rung), accuracy, 1.0)


def test_a_wider_network_of_as_many_steps_ends_higher():
    low, high = expected([traits("a", 0.3), traits("b", 1.0)])
    assert low < high


def test_more_steps_end_higher():
    low, high = expected([traits("a", steps=100.0), traits("b", steps=400.0)])
    assert low < high


def test_steps_with_smaller_subnetworks_count_less():
    low, high = expected([traits("a", share=0.3), traits("b", share=0.8)])
    assert low < high


def test_classes_that_nobody_trains_are_lost():
    one = Traits(
        family="a",
        width=1.0,
        rate=0.8,
        shares=np.array([1.0]),
        steps=np.array([[1e6], [0.0]]),
        class_weights=np.array([0.6, 0.4]),
    )
    assert expected([one])[0] < 0.6


def test_a_short_run_moves_what_is_expected_of_all():
    candidates = [traits("a"), traits("b", 0.5)]
    poor = expected(candidates, [outcome(0, 10, 0.3)])
    good = expected(candidates, [outcome(0, 10, 0.8)])
    assert (poor < good).all()


def test_a_short_run_makes_the_forecast_surer():
    law = ScalingLaw([traits("a"), traits("b", 0.5)], 100)
    before, after = law([]), law([outcome(0, 10, 0.7)])
    assert (np.diag(after.covariance) < np.diag(before.covariance)).all()
    paired = law([outcome(one, 40, 0.75) for one in (0, 1)])
    assert paired.difference(0, 1)[1] < before.difference(0, 1)[1]


def test_a_full_run_is_nearly_believed():
    assert expected([traits()], [outcome(0, 100, 0.7), outcome(0, 100, 0.7, rung=1)])[0] == pytest.approx(
        0.7, abs=0.02
    )


def test_what_a_rung_has_in_common_is_not_taken_for_a_difference():
    candidates = [traits("a"), traits("b")]
    unlucky = [outcome(0, 20, 0.60, rung=0), outcome(1, 20, 0.61, rung=0)]
    one, other = expected(candidates, unlucky)
    assert abs(one - other) < 0.01


def test_rates_are_learned_across_families():
    candidates = [traits("a", rate=0.2), traits("a", rate=3.2), traits("b", rate=0.2), traits("b", rate=3.2)]
    low, high = expected(candidates, [outcome(0, 20, 0.8), outcome(1, 20, 0.5)])[2:]
    assert low > high


def test_curves_that_crossed_are_foretold_from_their_early_part():
    """A full network and a small one of a first look, after a third of the run: equal then, not later."""
    full, small = traits("full", 1.0, 242.0, rate=1.0), traits("small", 0.45, 1199.0, rate=1.0)
    early = [Outcome(Trial(0, one, 30, 0), 0.804, 1.0) for one in (0, 1)]
    forecast = ScalingLaw([full, small], 90)(early)
    accuracy = 1 - np.exp(-forecast.mean)
    assert accuracy == pytest.approx([0.832, 0.813], abs=0.01)


def test_the_forecast_does_not_depend_on_the_order_of_outcomes():
    candidates = [traits("a"), traits("b", 0.5)]
    told = [outcome(0, 10, 0.7), outcome(1, 10, 0.72)]
    assert expected(candidates, told) == pytest.approx(expected(candidates, told[::-1]))


def test_parameters_without_evidence_are_the_priors():
    assert ScalingLaw([traits()], 100).parameters([])["beta"] == (pytest.approx(0.45), pytest.approx(0.1))
    assert math.isfinite(ScalingLaw([traits(steps=0.0)], 100)([]).mean[0])
