"""Figures of a comparison, small enough to check by hand or against scipy."""

import numpy as np
import pytest
from scipy import stats

from coordinator.comparing.curves import newest, seconds_to, smoothed, smoothed_curve
from coordinator.comparing.spread import interval
from coordinator.comparing.summary import summarise
from tests.fixtures.comparison import make_curve, outcome

CURVE = make_curve(0.1, 0.3, 0.5, 0.4, 0.6)
"""At 0, 25, 50, 75 and 100 s."""


def test_the_newest_version_at_a_time_counts():
    assert [newest(CURVE, time_s) for time_s in (0, 24.9, 25, 99, 100, 1e9)] == [0.1, 0.1, 0.3, 0.4, 0.6, 0.6]


def test_smoothing_takes_the_newest_three_without_the_untrained_one():
    assert smoothed(CURVE, 10) == 0.1
    assert smoothed(CURVE, 30) == 0.3
    assert smoothed(CURVE, 50) == pytest.approx((0.3 + 0.5) / 2)
    assert smoothed(CURVE, 100) == pytest.approx((0.5 + 0.4 + 0.6) / 3)


def test_the_smoothed_curve_has_the_smoothed_value_of_each_version():
    assert smoothed_curve(CURVE) == tuple(
        (time_s, pytest.approx(smoothed(CURVE, time_s))) for time_s, _ in CURVE
    )


def test_a_target_is_reached_when_the_curve_first_is_there():
    assert seconds_to(CURVE, 0.5) == 50
    assert seconds_to(CURVE, 0.61) is None


def test_the_interval_is_that_of_a_paired_t_test():
    one, other = np.array([0.5, 0.7, 0.4, 0.65]), np.array([0.45, 0.6, 0.42, 0.5])
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert interval(list(one - other)) == pytest.approx((expected.low, expected.high))
    assert interval([0.3]) is None


def summary_of(finals, **options):
    """Method -> final accuracy by seed; each run has one trained version, at 100 s."""
    runs = {
        method: {seed: outcome(0.1, accuracy) for seed, accuracy in enumerate(by_seed)}
        for method, by_seed in finals.items()
    }
    return summarise(runs, **{"reference": next(iter(finals)), **options})


def final_difference(summary, method):
    return summary.methods[method].differences[-1]


def test_a_method_is_better_if_its_margin_is_sure_and_more_than_half_a_point():
    summary = summary_of(
        {
            "reference": [0.5, 0.6, 0.7],
            "sure": [0.51, 0.611, 0.712],
            "too little": [0.504, 0.604, 0.704],
            "unsure": [0.6, 0.6, 0.71],
        }
    )
    verdicts = {name: final_difference(summary, name).better for name in ("sure", "too little", "unsure")}
    assert verdicts == {"sure": True, "too little": False, "unsure": False}
    assert summary.better_than_reference == {"0.25": (), "0.5": (), "1": ("sure",)}
    assert final_difference(summary, "sure").mean == pytest.approx(1.1)


def test_a_method_that_is_surely_worse_is_said_to_be():
    summary = summary_of({"reference": [0.5, 0.6], "bad": [0.3, 0.4001]})
    assert final_difference(summary, "bad").worse


def test_one_pair_tells_a_difference_but_not_whether_it_is_one():
    difference = final_difference(summary_of({"reference": [0.5], "other": [0.6]}), "other")
    assert difference.mean == pytest.approx(10)
    assert (difference.low, difference.better, difference.num_pairs) == (None, None, 1)


def test_pairs_are_the_seeds_that_both_methods_finished():
    runs = {
        "reference": {0: outcome(0.1, 0.5), 1: outcome(0.1, 0.9)},
        "other": {1: outcome(0.1, 0.8), 2: outcome(0.1, 0.1)},
    }
    difference = final_difference(summarise(runs, reference="reference"), "other")
    assert difference.num_pairs == 1
    assert difference.mean == pytest.approx(-10)


def test_a_reference_without_a_run_leaves_the_others_their_figures():
    summary = summarise({"reference": {}, "other": {0: outcome(0.1, 0.5)}}, reference="reference")
    assert list(summary.methods) == ["other"]
    assert summary.methods["other"].last.mean == 0.5


def test_all_methods_are_read_at_shares_of_the_references_longest_run():
    runs = {
        "slow": {0: outcome(0.1, 0.4, 0.6)},
        "fast": {0: outcome(0.1, 0.5, 0.7, end_s=20.0)},
        "waits": {0: outcome(0.1, 0.5, 0.7, end_s=400.0)},
    }
    summary = summarise(runs, reference="slow")
    assert summary.horizon_s == 100
    assert [at.newest.mean for at in summary.methods["slow"].accuracy] == [0.1, 0.4, 0.6]
    assert [at.newest.mean for at in summary.methods["fast"].accuracy] == [0.7, 0.7, 0.7]
    assert [at.newest.mean for at in summary.methods["waits"].accuracy] == [0.1, 0.1, 0.1]


def test_times_to_targets_are_means_over_the_seeds_that_reached_them():
    runs = {
        "reference": {0: outcome(0.1, 0.2, 0.6), 1: outcome(0.1, 0.2, 0.6)},
        "fast": {0: outcome(0.1, 0.4, 0.4), 1: outcome(0.1, 0.2, 0.2)},
    }
    time, best = summarise(runs, reference="reference", targets=[0.4]).methods["fast"].times
    assert (time.target, time.num_reached, time.num_runs) == ("40 %", 1, 2)
    assert time.seconds.mean == 50
    assert time.ratio.mean == 0.5
    assert time.by_seed == {"0": 50, "1": None}
    assert best.num_reached == 1
    assert best.by_seed == {"0": 50, "1": None}


def test_the_best_final_accuracy_is_that_of_each_seed():
    summary = summary_of({"reference": [0.5, 0.9], "other": [0.48, 0.5]})
    assert summary.methods["other"].times[-1].by_seed == {"0": 100, "1": None}


def test_spread_is_the_sample_standard_deviation_and_unknown_of_one():
    summary = summary_of({"two": [0.4, 0.6]})
    assert summary.methods["two"].last.sd == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert summary_of({"one": [0.4]}).methods["one"].last.sd is None


def test_the_worst_class_and_the_classes_of_a_group_are_told():
    runs = {"one": {seed: outcome(0.1, 0.5, class_accuracy=(0.9, 0.2, 0.4, None)) for seed in (0, 1)}}
    method = summarise(runs, reference="one", own_labels={"weak": (1, 3)}).methods["one"]
    assert (method.worst_class.label, method.worst_class.accuracy.mean) == (1, 0.2)
    (own,) = method.own_classes
    assert own.own.mean == 0.2
    assert own.others.mean == pytest.approx(0.65)


def test_classes_that_were_not_measured_are_absent():
    method = summary_of({"one": [0.5]}, own_labels={"weak": (1,)}).methods["one"]
    assert method.worst_class is None
    assert method.own_classes == ()
