from __future__ import annotations

import numpy as np
import pytest
from sklearn import cluster

from models.prototypes.clustering import by_density, by_means, dbscan, kmeans, merged, proportional
from models.prototypes.prototype_set import PrototypeSet, empty, of_samples


def floats(values):
    return np.array(values, np.float32)


def a_set(num, num_features=3, seed=0, num_classes=3):
    random = np.random.default_rng(seed)
    return PrototypeSet(
        random.standard_normal((num, num_features)).astype(np.float32),
        random.integers(0, num_classes, num),
        random.integers(1, 100, num).astype(np.float32),
        random.integers(0, 1000, num).astype(np.float32),
    )


def by_union_find(rows, labels, eps):
    """The cluster of each row, the slow and plain way."""
    parent = list(range(len(rows)))

    def find(one):
        while parent[one] != one:
            one = parent[one]
        return one

    for first in range(len(rows)):
        for second in range(first):
            if labels[first] == labels[second] and np.linalg.norm(rows[first] - rows[second]) <= eps:
                parent[find(first)] = find(second)
    names = {}
    return [names.setdefault(find(one), len(names)) for one in range(len(rows))]


def inertia(rows, clusters):
    return sum(
        ((rows[clusters == one] - rows[clusters == one].mean(axis=0)) ** 2).sum() for one in set(clusters)
    )


# ---------------------------------------------------------------- what becomes of a cluster


def test_a_cluster_becomes_its_mean_by_weight_with_the_sum_of_weights_and_the_lowest_age():
    found = merged(
        PrototypeSet(
            floats([[0, 0], [4, 8], [1, 1]]),
            np.array([1, 1, 0]),
            floats([3, 1, 7]),
            floats([9, 2, 5]),
        ),
        np.array([0, 0, 1]),
    )
    assert found.vectors.tolist() == [[1, 2], [1, 1]]
    assert found.labels.tolist() == [1, 0]
    assert found.weights.tolist() == [4, 7]
    assert found.ages.tolist() == [2, 5]
    assert [one.dtype for one in (found.vectors, found.labels, found.weights, found.ages)] == [
        np.float32, np.int64, np.float32, np.float32
    ]  # fmt: skip


def test_prototypes_without_weight_become_their_plain_mean():
    weightless = PrototypeSet(
        floats([[0], [4]]), np.array([0, 0]), np.zeros(2, np.float32), np.zeros(2, np.float32)
    )
    assert merged(weightless, np.array([0, 0])).vectors.tolist() == [[2]]


@pytest.mark.parametrize("shrink", [by_density, lambda ours: by_means(ours, 30, seed=1)])
def test_each_class_keeps_its_weight_exactly_and_is_not_lost(shrink):
    ours = a_set(100)
    found = shrink(ours)
    assert len(found) < 100
    for label in range(3):
        assert found.weights[found.labels == label].sum() == ours.weights[ours.labels == label].sum()
    assert found.ages.min() == ours.ages.min()
    np.testing.assert_allclose(
        found.weights @ found.vectors, ours.weights @ ours.vectors, rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("shrink", [by_density, lambda ours: by_means(ours, 3, seed=1)])
@pytest.mark.parametrize("num", [0, 1])
def test_there_is_nothing_to_join_in_sets_of_none_or_one(shrink, num):
    ours = empty(2) if num == 0 else of_samples(np.ones((1, 2)), np.zeros(1, np.int64))
    assert shrink(ours).vectors.tolist() == ours.vectors.tolist()


@pytest.mark.parametrize("shrink", [by_density, lambda ours: by_means(ours, 10, seed=1)])
def test_huge_and_constant_features_are_joined_without_a_warning(shrink):
    ours = a_set(50)
    vectors = ours.vectors * floats([1e37, 0, 1e-30])
    found = shrink(PrototypeSet(vectors, ours.labels, ours.weights, ours.ages))
    assert np.isfinite(found.vectors).all()
    assert (found.vectors[:, 1] == 0).all()


# ---------------------------------------------------------------- DBSCAN


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("eps", [0.0, 0.2, 0.5, 1.0, 10.0])
def test_clusters_are_those_of_an_independent_union_find(seed, eps):
    random = np.random.default_rng(seed)
    rows, labels = random.standard_normal((40, 2)), random.integers(0, 2, 40)
    rows[5], labels[5] = rows[3], labels[3]  # copies
    assert dbscan(rows, labels, eps).tolist() == by_union_find(rows, labels, eps)


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.6])
def test_clusters_are_those_of_scikit_learn(eps):
    random = np.random.default_rng(1)
    rows, labels = random.standard_normal((200, 3)), random.integers(0, 3, 200)
    found = dbscan(rows, labels, eps)
    for label in range(3):
        ours = found[labels == label]
        theirs = cluster.DBSCAN(eps=eps, min_samples=1).fit_predict(rows[labels == label])
        assert len(set(zip(ours, theirs, strict=True))) == len(set(ours)) == len(set(theirs))


def test_a_long_chain_is_one_cluster():
    order = np.random.default_rng(0).permutation(500)
    rows = order[:, None].astype(float)
    assert dbscan(rows, np.zeros(500, np.int64), 1.0).max() == 0
    assert dbscan(rows, np.zeros(500, np.int64), 0.9).max() == 499


@pytest.mark.parametrize("num", [10, 37, 100, 1000])
def test_eighty_to_ninety_percent_are_kept_unless_said_otherwise(num):
    assert 0.8 * num <= len(by_density(a_set(num))) <= 0.9 * num


@pytest.mark.parametrize("num_kept", [99, 90, 50, 20, 4])
def test_as_many_are_kept_as_asked_for(num_kept):
    assert len(by_density(a_set(100), num_kept)) == num_kept


def test_the_nearest_are_joined_first():
    ours = of_samples(np.array([[0.0], [1.0], [5.0], [5.5], [9.0]]), np.zeros(5, np.int64))
    assert by_density(ours, 4).vectors[:, 0].tolist() == [0, 1, 5.25, 9]
    assert by_density(ours, 3).vectors[:, 0].tolist() == [0.5, 5.25, 9]


def test_pairs_equally_near_are_joined_together():
    ours = of_samples(np.array([[0.0], [1.0], [2.0], [9.0]]), np.zeros(4, np.int64))
    assert by_density(ours, 3, spreads=floats([1])).vectors[:, 0].tolist() == [1, 9]


def test_the_nearest_of_two_classes_stay_apart():
    ours = of_samples(np.array([[0.0], [0.0], [3.0]]), np.array([0, 1, 0]))
    assert len(by_density(ours, 1)) == 2


def test_given_spreads_say_which_are_near():
    ours = of_samples(np.array([[0.0, 0], [1, 0], [0, 2]]), np.zeros(3, np.int64))
    assert by_density(ours, 2, spreads=floats([1, 1])).vectors.tolist() == [[0.5, 0], [0, 2]]
    assert by_density(ours, 2, spreads=floats([1, 10])).vectors.tolist() == [[0, 1], [1, 0]]


# ---------------------------------------------------------------- k-means


def test_classes_share_the_centroids_by_their_sizes():
    assert proportional(np.array([50, 30, 20]), 10).tolist() == [5, 3, 2]
    assert proportional(np.array([97, 2, 1]), 10).tolist() == [8, 1, 1]
    assert proportional(np.array([3, 3]), 100).tolist() == [3, 3]
    assert proportional(np.array([5, 5, 5]), 1).tolist() == [1, 1, 1]
    assert len(by_means(a_set(100), 30, seed=1)) == 30


def test_clear_groups_are_found():
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    rows = np.repeat(centres, 10, axis=0) + random.standard_normal((40, 2)) * 0.1
    clusters = kmeans(rows, np.ones(40), 4, random)
    assert [len(set(clusters[start : start + 10])) for start in (0, 10, 20, 30)] == [1] * 4
    assert inertia(rows, clusters) < 2 * 40 * 0.1**2 * 1.5


@pytest.mark.parametrize("seed", range(5))
def test_inertia_lies_between_that_of_single_points_and_of_one_cluster(seed):
    random = np.random.default_rng(seed)
    rows = random.standard_normal((60, 3))
    found = [inertia(rows, kmeans(rows, np.ones(60), num, random)) for num in (1, 5, 20, 60)]
    assert found[0] == pytest.approx(((rows - rows.mean(axis=0)) ** 2).sum())
    assert found[0] > found[1] > found[2] > found[3] == 0
    # Any cut of the sorted first feature into 20 would be worse than a good clustering.
    slices = np.argsort(np.argsort(rows[:, 0])) // 3
    assert found[2] < inertia(rows, slices)


def test_inertia_is_that_of_scikit_learn():
    random, ratios = np.random.default_rng(0), []
    for seed in range(10):
        rows, weights = random.standard_normal((200, 6)), random.integers(1, 50, 200)
        theirs = cluster.KMeans(20, n_init=1, random_state=seed).fit(rows, sample_weight=weights).inertia_
        found = kmeans(rows, weights.astype(float), 20, np.random.default_rng(seed))
        centres = [np.average(rows[found == one], axis=0, weights=weights[found == one]) for one in range(20)]
        ours = (weights * ((rows - np.array(centres)[found]) ** 2).sum(axis=1)).sum()
        ratios.append(ours / theirs)
    assert 0.95 < np.mean(ratios) < 1.02


def test_heavy_prototypes_draw_the_centroid():
    ours = PrototypeSet(
        floats([[0], [1], [10], [11]]),
        np.zeros(4, np.int64),
        floats([3, 1, 1, 1]),
        np.zeros(4, np.float32),
    )
    assert sorted(by_means(ours, 2, seed=0).vectors[:, 0].tolist()) == [0.25, 10.5]


def test_copies_use_fewer_clusters_than_allowed():
    ours = of_samples(np.zeros((10, 2)), np.zeros(10, np.int64))
    assert len(by_means(ours, 4, seed=1)) == 1


def test_equal_seeds_give_equal_clusters():
    found = [by_means(a_set(100), 20, seed=3).vectors.tolist() for _ in range(2)]
    assert found[0] == found[1]
