from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.experts import metrics, pool_share
from models.prototypes.prototype_set import PrototypeSet, empty, of_samples
from models.prototypes.scaling import Scales
from models.prototypes.settings import LearnerSettings


def test_in_each_metric_two_random_samples_are_one_apart_in_the_mean_square():
    variance = np.array([4.0, 1.0, 0.0])
    weights = metrics(Scales(np.zeros(3), variance, 9.0), np.array([1.0, 2.0, 5.0]))
    np.testing.assert_allclose(2 * variance @ weights, [1, 1, 1])


def test_features_count_by_deviation_as_they_are_and_by_what_separates():
    weights = metrics(Scales(np.zeros(2), np.array([4.0, 1.0]), 9.0), np.array([1.0, 2.0]))
    np.testing.assert_allclose(weights[1] / weights[0], [4, 1, 16])


def test_where_nothing_is_known_no_feature_moves_a_distance():
    assert not metrics(Scales(np.zeros(2), np.zeros(2), 0.0), np.zeros(2)).any()


def share(pool, x, y, **settings):
    weights = np.ones((1, 3), np.float32)
    return pool_share(pool, np.array([x], np.float32), y, weights, LearnerSettings(**settings), 2)


def test_an_empty_pool_gives_nothing_to_the_true_label():
    assert share(empty(1), 0.0, 1) == 0.0


def test_a_pool_gives_a_label_the_votes_of_its_nearest():
    pool = of_samples(np.array([[0.0], [0.1], [9.0]]), np.array([1, 1, 0]))
    assert share(pool, 0.0, 1, neighbours=2) == pytest.approx(5 / 6)
    assert share(pool, 9.0, 1, neighbours=1) == pytest.approx(1 / 4)


def test_old_prototypes_are_further():
    pool = of_samples(np.array([[0.0], [1.0]]), np.array([1, 0]))
    aged = PrototypeSet(pool.vectors, pool.labels, pool.weights, np.array([40.0, 0.0], np.float32))
    assert share(pool, 0.0, 1, neighbours=1, pool_fade=20.0) > 0.5
    assert share(aged, 0.0, 1, neighbours=1, pool_fade=20.0) < 0.5
