from __future__ import annotations

import numpy as np

from models.prototypes.memory import Memory
from models.prototypes.prototype_set import PrototypeSet, of_samples
from models.prototypes.trust import UNKNOWN

PLAIN = np.ones((1, 1), np.float32)


def value(number):
    return np.array([number], np.float32)


def distances(memory, number=0):
    return memory.distances(value(number), PLAIN)[0].tolist()


def prototypes(values, labels, ages=None):
    found = of_samples(np.array(values, np.float32)[:, None], np.array(labels))
    return found if ages is None else PrototypeSet(found.vectors, found.labels, found.weights, np.array(ages))


def test_the_latest_sample_replaces_the_oldest():
    memory = Memory(1, 2, own=3, pool=0)
    for number in range(5):
        memory.add(value(number), 0)
    assert sorted(distances(memory)) == [4, 9, 16]


def test_ages_belong_to_the_samples_whether_the_ring_is_full_or_not():
    memory = Memory(1, 2, own=3, pool=0)
    for number in range(8):
        memory.add(value(number), 0)
        ages = memory.ages_round[memory.places]
        np.testing.assert_array_equal(number - ages, np.sqrt(distances(memory)))


def test_prototypes_come_before_own_samples_and_vote_for_their_classes():
    memory = Memory(1, 2, own=3, pool=3)
    memory.add(value(1), 0)
    memory.receive(0, prototypes([2, 3], [1, 1]))
    assert distances(memory) == [9, 4, 1]
    assert memory.votes.tolist() == [[0, 1], [0, 1], [1, 0]]


def test_a_full_pool_keeps_the_youngest():
    memory = Memory(1, 2, own=9, pool=2)
    memory.receive(0, prototypes([1, 2], [0, 0], [7.0, 3.0]))
    memory.receive(0, prototypes([3, 4], [0, 0], [5.0, 9.0]))
    assert sorted(distances(memory)) == [4, 9]


def test_prototypes_age_by_the_samples_learned_since():
    memory = Memory(1, 2, own=2, pool=2)
    memory.receive(0, prototypes([1], [0], [4.0]))
    for _ in range(3):
        memory.add(value(0), 0)
    assert memory.pool_ages.tolist() == [7]


def test_each_peers_nearest_prototype_speaks_for_it():
    memory = Memory(1, 3, own=2, pool=5)
    memory.receive(0, prototypes([5, 1], [0, 1]))
    memory.receive(2, prototypes([4, 6], [2, 0]))
    near = memory.distances(value(0), PLAIN)[0]
    assert memory.nearest_labels(near, 3).tolist() == [1, UNKNOWN, 2]


def test_forgetting_a_peer_leaves_what_others_sent():
    memory = Memory(1, 2, own=2, pool=4)
    memory.receive(0, prototypes([1, 2], [0, 0]))
    memory.receive(1, prototypes([3], [1]))
    memory.add(value(9), 0)
    memory.forget(0)
    assert distances(memory) == [9, 81]
    assert memory.pool_peers.tolist() == [1]
