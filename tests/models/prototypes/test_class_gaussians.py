from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.class_gaussians import ClassGaussians

ONE = np.ones(1)


def learned(samples, memories=(1e12,), num_classes=2):
    gaussians = ClassGaussians(len(samples[0][0]), num_classes, memories)
    for x, y in samples:
        gaussians.learn(np.array(x, np.float64), y)
    return gaussians


def test_a_sample_between_two_equal_classes_may_be_either():
    gaussians = learned([([-1.0], 0), ([1.0], 1)])
    np.testing.assert_allclose(gaussians.predict(np.zeros(1), ONE), [[0.5, 0.5]])


def test_a_class_seen_more_often_is_likelier_where_both_fit():
    gaussians = learned([([-1.0], y) for y in (0, 1, 1, 1)] * 99 + [([1.0], y) for y in (0, 1, 1, 1)] * 99)
    share = gaussians.predict(np.zeros(1), ONE)[0]
    np.testing.assert_allclose(share, [0.95 / 4 + 0.025, 0.95 * 3 / 4 + 0.025], atol=1e-3)


def test_far_from_a_class_another_is_as_sure_as_it_gets():
    share = learned([([-9.0], 0), ([9.0], 1)] * 20).predict(np.array([9.0]), ONE)[0]
    np.testing.assert_allclose(share, [0.025, 0.975])


def test_the_quick_forgets_where_a_class_was_the_slow_does_not():
    gaussians = learned([([-5.0], 0), ([5.0], 1)] * 50 + [([5.0], 0), ([-5.0], 1)] * 20, (10.0, 1e12))
    quick, slow = gaussians.predict(np.array([5.0]), ONE)
    assert quick[0] > 0.9
    assert slow[0] < 0.5


def test_separation_of_two_classes_is_a_quarter_of_fishers():
    samples = [([-2.0, 1.0], 0), ([0.0, 2.0], 0), ([2.0, 1.0], 1), ([4.0, 2.0], 1)]
    np.testing.assert_allclose(learned(samples).separation(), [(3 - -1) ** 2 / 4 / 1, 0], atol=1e-6)


def test_nothing_seen_separates_nothing():
    assert ClassGaussians(2, 3, (1e9,)).separation().tolist() == [0, 0]


@pytest.mark.parametrize("num_classes", [2, 7])
def test_before_the_first_sample_all_classes_are_as_likely(num_classes):
    share = ClassGaussians(2, num_classes, (9.0,)).predict(np.zeros(2), np.ones(2))
    np.testing.assert_allclose(share, np.full((1, num_classes), 1 / num_classes))
