from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.hedge import Hedge

GOOD, BAD = [0.9, 0.1], [0.1, 0.9]


def test_weights_follow_the_decayed_log_loss():
    hedge = Hedge(2, 2, decay=0.5, share=0.0)
    hedge.learn(np.array([GOOD, BAD]), 0)
    np.testing.assert_allclose(hedge.weights, [0.9, 0.1])
    hedge.learn(np.array([GOOD, GOOD]), 0)
    np.testing.assert_allclose(hedge.weights, [0.75, 0.25])  # the ratio of 9 has become its root


def test_no_expert_is_ever_given_up_and_the_new_best_is_followed():
    hedge = Hedge(2, 2, decay=0.9, share=0.1)
    for _ in range(500):
        hedge.learn(np.array([GOOD, BAD]), 0)
    assert hedge.weights[1] == pytest.approx(0.05, abs=1e-3)
    for _ in range(30):
        hedge.learn(np.array([BAD, GOOD]), 0)
    assert hedge.weights[1] > 0.9


def test_who_has_not_spoken_has_no_weight_and_begins_with_the_mean_loss():
    hedge = Hedge(3, 2, decay=1.0 - 1e-12, share=0.0)
    hedge.learn(np.array([GOOD, BAD]), 0)
    assert hedge.weights[2] == 0
    hedge.learn(np.array([[0.5, 0.5]] * 3), 0)
    np.testing.assert_allclose(hedge.weights, np.array([9, 1, 3]) / 13)  # losses -log of .9, .1 and of .3


def test_one_certain_mistake_costs_no_more_than_a_probability_of_a_fiftieth():
    hedge = Hedge(2, 2, decay=0.5, share=0.0)
    hedge.learn(np.array([[1.0, 0.0], [0.98, 0.02]]), 1)
    np.testing.assert_allclose(hedge.weights, [0.5, 0.5])


def test_the_best_accuracy_is_that_of_lately():
    hedge = Hedge(2, 2, decay=0.5, share=0.0)
    for y in (0, 0, 0, 1):
        hedge.learn(np.array([GOOD, BAD]), y)
    assert hedge.best(1) == pytest.approx((15 / 16) / 2)
    assert hedge.best(2) == pytest.approx(1 / 16 / 2 + 1 / 2)
