from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from models.prototypes.drift import DriftDetector


def drifts(values, detector=None):
    detector = detector or DriftDetector()
    return [drift for value in values if (drift := detector.observe(float(value)))]


def wrong(rate, num, seed=0):
    return np.random.default_rng(seed).random(num) < rate


def test_errors_that_become_more_are_drift_soon_after():
    found = drifts(np.concatenate([wrong(0.1, 1000), wrong(0.5, 200)]))
    assert 1000 < found[0].at <= 1080
    assert found[0].before < 0.2 < found[0].after


def test_errors_that_become_fewer_are_drift_too():
    found = drifts(np.concatenate([wrong(0.5, 1000), wrong(0.1, 200)]))
    assert found
    assert found[0].before > found[0].after


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_a_stream_that_does_not_change_has_no_drift(rate):
    assert not drifts(wrong(rate, 5000, seed=1))


def test_after_drift_the_window_holds_what_came_since():
    detector = DriftDetector()
    drifts(np.concatenate([np.zeros(1000), np.ones(1000)]), detector)
    assert 900 < detector.length < 1200


def test_memory_grows_with_the_logarithm_of_the_stream():
    detector = DriftDetector()
    drifts(np.zeros(1000), detector)
    tracemalloc.start()
    drifts(np.zeros(9000), detector)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert detector.length == 10_000
    assert kept < 10_000


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_error_rate_is_refused(value):
    with pytest.raises(ValueError, match="0 to 1"):
        DriftDetector().observe(value)
