from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.scaling import LARGEST, Scales, Scaling, checked, merged, of_arrays, unknown


def scaling_of(samples, memory=1e9, start=None):
    scaling = Scaling(start or unknown(len(samples[0])), memory)
    for sample in samples:
        scaling.learn(np.array(sample, np.float64))
    return scaling.scales()


def test_before_older_samples_fade_it_is_the_plain_mean_and_variance():
    scales = scaling_of([[1, 5], [2, 5], [6, 5]])
    np.testing.assert_allclose(scales.mean, [3, 5])
    np.testing.assert_allclose(scales.variance, [14 / 3, 0])
    assert scales.count == 3


def test_the_scales_of_a_stream_that_changed_are_those_of_its_latest_part():
    scales = scaling_of([[0]] * 100 + [[7], [9]] * 100, memory=20)
    np.testing.assert_allclose([scales.mean[0], scales.variance[0]], [8, 1], atol=0.1)


def test_a_constant_feature_moves_no_distance():
    inverse = scaling_of([[0.1, 1], [0.1, 3]] * 500).inverse_variance()
    assert inverse[0] == 0
    assert inverse[1] == pytest.approx(1)


def test_what_devices_saw_put_together_is_what_one_device_would_have_seen():
    samples = np.random.default_rng(0).normal(3, 2, (50, 4))
    together = merged([scaling_of(samples[:7]), scaling_of(samples[7:30]), scaling_of(samples[30:])])
    np.testing.assert_allclose(together.mean, samples.mean(axis=0))
    np.testing.assert_allclose(together.variance, samples.var(axis=0))
    assert together.count == 50


def test_devices_that_saw_nothing_change_nothing():
    seen = scaling_of([[1], [3]])
    assert merged([unknown(1), seen, unknown(1)]).mean == seen.mean
    assert merged([unknown(1), unknown(1)]).count == 0


def test_a_stream_goes_on_from_the_scales_of_others():
    scales = scaling_of([[4]], start=Scales(np.zeros(1), np.zeros(1), 1.0))
    assert (scales.mean[0], scales.variance[0], scales.count) == (2, 4, 2)


def test_scales_survive_being_sent():
    scales = scaling_of([[1, 2], [3, 5]])
    again = of_arrays(scales.arrays(), 2)
    np.testing.assert_array_equal(again.variance, scales.variance)
    assert again.count == scales.count


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean", [1.0], "2 features"),
        ("variance", [1.0, np.nan], "not finite"),
        ("variance", [1.0, -1.0], "negative"),
        ("count", [-1.0], "negative"),
    ],
)
def test_scales_that_cannot_be_are_refused(name, value, message):
    arrays = unknown(2).arrays() | {name: np.array(value)}
    with pytest.raises(ValueError, match=message):
        of_arrays(arrays, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2 * LARGEST, -1e300])
def test_the_feature_that_cannot_be_learned_from_is_named(value):
    with pytest.raises(ValueError, match="feature 1 of a sample"):
        checked(np.array([0, value, 0]), 3)


def test_a_sample_of_other_features_is_refused():
    with pytest.raises(ValueError, match="3 features"):
        checked(np.zeros(4), 3)


def test_nothing_is_no_scales_to_merge():
    with pytest.raises(ValueError, match="no scales"):
        merged([])
