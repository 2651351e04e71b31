from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from models.prototypes.standard import shares_of, squared_distances, standardised


def floats(values):
    return np.array(values, np.float32)


def test_features_get_the_mean_zero_and_the_spread_one_by_weight():
    vectors = floats([[0, 5], [4, 5], [8, 5]])
    weights = floats([1, 0, 1])
    found = standardised(vectors, weights)
    assert found.tolist() == [[-1, 0], [0, 0], [1, 0]]


def test_given_spreads_are_the_units():
    assert standardised(floats([[0], [4]]), np.ones(2, np.float32), floats([0.5])).tolist() == [
        [-4],
        [4],
    ]


@pytest.mark.parametrize("offset", [0.1, 1e30])
def test_a_constant_feature_is_zero_exactly(offset):
    found = standardised(np.full((7, 1), offset, np.float32), floats([1, 2, 3, 4, 5, 6, 7]))
    assert (found == 0).all()


def test_weights_of_zero_count_alike():
    assert shares_of(np.zeros(4, np.float32)).tolist() == [0.25] * 4
    assert shares_of(floats([1, 3])).tolist() == [0.25, 0.75]


def test_squared_distances_are_scipys():
    random = np.random.default_rng(0)
    rows, others = random.standard_normal((5, 3)), random.standard_normal((4, 3))
    np.testing.assert_allclose(
        squared_distances(rows, others), cdist(rows, others, "sqeuclidean"), rtol=1e-12
    )
