from __future__ import annotations

import numpy as np

from models.prototypes.nearest import class_shares

CLASSES = np.eye(2, dtype=np.float32)


def shares(distances, labels, neighbours):
    return class_shares(np.array([distances], np.float32), CLASSES[labels], neighbours)[0]


def test_the_nearest_vote_and_each_class_has_half_a_vote_beforehand():
    np.testing.assert_allclose(shares([1, 2, 3, 9], [0, 0, 1, 1], 3), [5 / 8, 3 / 8])


def test_as_near_as_the_last_neighbour_votes_too_in_any_order():
    np.testing.assert_allclose(shares([1, 2, 2], [0, 0, 1], 2), [5 / 8, 3 / 8])
    np.testing.assert_allclose(shares([2, 2, 1], [1, 0, 0], 2), [5 / 8, 3 / 8])


def test_those_infinitely_far_do_not_vote_however_few_there_are():
    np.testing.assert_allclose(shares([1, np.inf, np.inf], [0, 1, 1], 3), [3 / 4, 1 / 4])


def test_fewer_vectors_than_neighbours_all_vote():
    np.testing.assert_allclose(shares([1], [1], 5), [1 / 4, 3 / 4])


def test_each_way_of_measuring_has_neighbours_of_its_own():
    both = class_shares(np.array([[1, 2], [2, 1]], np.float32), CLASSES, 1)
    np.testing.assert_allclose(both, [[3 / 4, 1 / 4], [1 / 4, 3 / 4]])
