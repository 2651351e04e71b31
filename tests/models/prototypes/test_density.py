from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from models.prototypes import density
from models.prototypes.density import coordinates, densities, distance, jensen_shannon
from models.prototypes.prototype_set import empty, of_samples


def a_set(num, num_features, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    return of_samples(random.standard_normal((num, num_features)) + shift, random.integers(0, 2, num))


def test_densities_are_those_of_an_independent_implementation_up_to_the_kernels_constant():
    points = [
        [-0.8, -1.32, -0.25],
        [0.42, 1.14, 0.11],
        [-0.55, -0.78, 0.75],
        [1.63, 0.27, -1.23],
        [-0.96, 1.6, 0.2],
        [-1.73, -0.08, -1.16],
    ]
    at = [[-0.99, -1.47, -0.46], [0.59, 1.12, -0.07], [-0.43, -0.53, 0.26], [1.55, -0.02, -1.28], [9, 9, 9]]
    # scikit-learn 1.9.1: KernelDensity(kernel="epanechnikov", bandwidth="scott")
    expected = [0.17764849001844715, 0.19231430924180162, 0.10099275685832843, 0.18111820822494806, 0.0]
    constant = 5 / (2 * 4 / 3 * np.pi)  # (d + 2) / (2 V_d) with V_3 = 4/3 pi
    found = constant * densities(np.array(points), np.array(at, float))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("far", [0.0, 1e7, 1e30])
def test_densities_keep_their_digits_far_from_zero(far):
    points = np.array([[0.0, 0.0], [0.25, 0.0], [far, 0.0]])
    near = densities(points, np.array([[0.125, 0.0]]))
    h = 3 ** (-1 / 6)
    others = 1 if far == 0 else 0
    expected = ((2 + others) * (1 - (0.125 / h) ** 2)) / 3 / h**2
    np.testing.assert_allclose(near, expected, rtol=1e-6)


def test_the_distance_of_two_distributions_is_scipys():
    random = np.random.default_rng(1)
    p, q = random.random(50), random.random(50)
    p[:5], q[3:9] = 0, 0
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2), rel=1e-12)


def test_a_set_is_nowhere_from_itself_and_the_farthest_from_one_it_never_meets():
    ours = a_set(30, 3)
    assert distance(ours, ours, seed=1) == 0
    assert distance(ours, a_set(30, 3, shift=50.0), seed=1) == 1


def test_the_distance_grows_with_the_shift():
    found = [distance(a_set(100, 2), a_set(100, 2, 1, shift), seed=1) for shift in (0, 0.5, 1, 2)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.3


def test_the_label_is_a_coordinate():
    vectors = np.random.default_rng(0).standard_normal((40, 2))
    zeros, threes = np.zeros(40, np.int64), np.full(40, 3)
    assert distance(of_samples(vectors, zeros), of_samples(vectors, threes), seed=1) == 1


def test_equal_seeds_give_equal_distances_and_others_nearly_so():
    ours, theirs = a_set(60, 2), a_set(60, 2, 1, 0.5)
    found = [distance(ours, theirs, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(found[2], abs=0.05)


def test_sets_that_no_drawn_point_meets_are_compared_by_draws_from_themselves():
    far = 1e6 * np.array([[0, 1], [1, 0], [1, 1], [0, 0]], float)
    ours = of_samples(far, np.zeros(4, np.int64))
    assert distance(ours, ours, seed=1, max_points=1000) == 0
    # Half the points in common: 1 of 2 bits of a drawn point says where it is from.
    others = of_samples(np.concatenate([far[:2], far[2:] * 7 + 3e6]), np.zeros(4, np.int64))
    assert distance(ours, others, seed=1, max_points=4000) == pytest.approx(np.sqrt(0.5), abs=0.03)


def test_draws_and_box_estimate_the_same_distance():
    ours, theirs = a_set(100, 1), a_set(50, 1, 1, 1.0)
    by_box = distance(ours, theirs, seed=1)
    rows = coordinates(ours), coordinates(theirs)
    random = np.random.default_rng(2)
    at = np.concatenate([density._drawn(one, 4000, random) for one in rows])
    by_draws = density._of_mixture(densities(rows[0], at), densities(rows[1], at))
    assert by_draws == pytest.approx(by_box, abs=0.03)


def test_empty_sets_are_like_each_other_and_like_nothing_else():
    assert distance(empty(3), empty(3), seed=1) == 0
    assert distance(empty(3), a_set(5, 3), seed=1) == 1
    assert distance(a_set(5, 3), empty(3), seed=1) == 1


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 4)),
        np.ones((20, 4)),
        np.random.default_rng(0).standard_normal((20, 1)) * np.array([[1.0, 0, 0, 0]]),
        np.full((3, 4), 3e38) * np.array([[1], [-1], [0.5]]),
    ],
    ids=["one prototype", "all alike", "constant features", "huge values"],
)
def test_odd_sets_have_distances_too(vectors):
    ours = of_samples(vectors, np.zeros(len(vectors), np.int64))
    assert distance(ours, ours, seed=1, max_points=500) == 0
    theirs = of_samples(vectors / 2 + 1, np.ones(len(vectors), np.int64))
    assert 0 <= distance(ours, theirs, seed=1, max_points=500) <= 1


def test_no_more_points_are_drawn_than_allowed(monkeypatch):
    drawn = []

    def counted(points, at):
        drawn.append(len(at))
        return densities(points, at)

    monkeypatch.setattr("models.prototypes.density.densities", counted)
    distance(a_set(10, 200), a_set(10, 200, 1), seed=1, max_points=77)
    assert max(drawn) <= 78
