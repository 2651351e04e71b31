"""The parts of the asynchronous study that decide: readings of curves, choices, checks, theory's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import asynchronous, asynchronous_compression, asynchronous_peers, asynchronous_rounds
from benchmarks.asynchronous_runs import read_at, seconds_until
from benchmarks.asynchronous_theory import Slope, fit_slope, lasting_distance, plain_noise, recursion
from coordinator.comparing.summary import RunOutcome
from models.compression.settings import CompressionSettings


def outcome(*points, **fields):
    """A run whose devices, or whose versions, had these accuracies at these times."""
    return RunOutcome(
        **{
            "accuracy": points[-1][1],
            "accuracy_curve": points,
            "node_accuracy_curve": tuple((at_s, accuracy, 0.0) for at_s, accuracy in points),
            "virtual_s": points[-1][0],
            "macs": 1,
            "bytes_sent": 1,
            "engine": "onnx",
            **fields,
        }
    )


def flat(accuracy, until_s=200.0):
    return outcome(*((at_s, accuracy) for at_s in np.arange(10.0, until_s + 1, 10.0)))


def test_a_curve_is_read_as_the_mean_over_the_last_seconds():
    curve = [(10.0, 0.1), (20.0, 0.2), (30.0, 0.3), (40.0, 0.4)]
    assert read_at(curve, 40.0, 30.0) == pytest.approx(0.3)
    assert read_at(curve, 35.0, 1.0) == pytest.approx(0.3)
    assert read_at(curve, math.inf, 1.0) == pytest.approx(0.4)
    assert math.isnan(read_at(curve, 5.0))


def test_the_time_to_a_target_is_that_of_the_reading_not_of_a_lucky_look():
    curve = [(10.0, 0.1), (20.0, 0.9), (30.0, 0.1), (40.0, 0.9), (50.0, 0.9)]
    assert seconds_until(curve, 0.8, 20.0) == 50.0
    assert seconds_until(curve, 0.95, 20.0) is None


def test_the_rate_whose_run_ended_best_is_chosen_for_each_method():
    runs = {
        "dsgd at 0.1": {100: flat(0.5)},
        "dsgd at 0.4": {100: flat(0.6)},
        "swift at 0.1": {100: flat(0.4)},
    }
    assert asynchronous_peers.best_values(runs, 200.0) == {"dsgd": 0.4, "swift": 0.1}


def test_reuse_is_compared_half_way_and_by_seed():
    early = outcome((40.0, 0.1), (90.0, 0.6), (100.0, 0.6), (150.0, 0.1))
    runs = {
        "reuse": {0: early, 1: flat(0.7)},
        "discard": {0: flat(0.55), 1: flat(0.65)},
        "synchronous": {0: flat(0.4)},
    }
    reuse, discard = asynchronous_peers.report_peers(10, runs).checks
    assert reuse.value == pytest.approx(5.0)
    assert reuse.holds
    assert discard.value == pytest.approx(15.0)


def test_the_time_is_compared_with_the_public_algorithm_that_is_fastest():
    rising = outcome((10.0, 0.1), (100.0, 0.58), (200.0, 0.58))
    late = outcome((10.0, 0.1), (150.0, 0.6), (200.0, 0.6))
    runs = {"dsgd": {0: rising}, "ad-psgd": {0: late}, "swift": {0: flat(0.3)}}
    best, ratio = asynchronous_peers.time_against_public(runs)
    assert (best, ratio) == ("ad-psgd", pytest.approx(100 / 150))


def test_what_loss_costs_is_told_between_none_and_the_most():
    runs = {loss: {"dsgd": {0: flat(0.6 - loss / 10)}} for loss in asynchronous_peers.LOSSES}
    (check,) = asynchronous_peers.report_losses(runs).checks
    assert check.value == pytest.approx(7.0)
    assert not check.holds


def test_rounds_are_overtaken_when_their_own_final_accuracy_is_reached():
    rounds = outcome((10.0, 0.1), (100.0, 0.5))
    fast = outcome((10.0, 0.1), (40.0, 0.6), (100.0, 0.7))
    never = outcome((10.0, 0.1), (100.0, 0.2))
    assert asynchronous_rounds.time_ratios({0: rounds}, {0: fast}) == [pytest.approx(0.4)]
    assert asynchronous_rounds.time_ratios({0: rounds}, {0: never}) == [math.inf]


def test_slow_devices_classes_are_told_apart():
    classes = tuple(0.9 if one in asynchronous_rounds.SLOW_CLASSES else 0.5 for one in range(10))
    one = outcome((1.0, 0.5), class_accuracy=classes)
    assert asynchronous_rounds.slow_accuracy(one) == pytest.approx(0.9)


def test_an_int8_update_has_a_quarter_of_the_bytes():
    percent = asynchronous_compression.bytes_percent(CompressionSettings(scheme="int8"))
    assert percent == pytest.approx(25, abs=2)


def test_a_slope_is_the_exponent_of_its_points():
    assert fit_slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)
    slope = Slope(name="x", points=((1.0, 1.0, 2.0), (2.0, 2.0, 8.0)))
    assert (slope.measured, slope.expected) == (pytest.approx(1.0), pytest.approx(2.0))


def test_theory_of_fresh_gradients_is_that_of_plain_sgd():
    step, seen = 0.1, recursion(4, 0.1, 0, num_barriers=600)
    floor = np.mean([np.square(weights.mean(axis=0)) for weights in seen[100:]])
    assert floor == pytest.approx(plain_noise(step) / 4, rel=0.1)


def test_devices_with_unlike_data_stay_apart_by_step_over_gap():
    near, far = lasting_distance(1e-4, 0.1), lasting_distance(1e-4, 0.05)
    assert far / near == pytest.approx(4.0, rel=0.15)
    assert lasting_distance(2e-4, 0.1) / near == pytest.approx(4.0, rel=0.01)


def test_without_a_folder_for_results_it_says_so(capsys):
    assert asynchronous.main(["--part", "async"]) == 1
    assert "--out" in capsys.readouterr().err
