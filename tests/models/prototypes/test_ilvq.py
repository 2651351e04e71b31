from __future__ import annotations

import math

import numpy as np
import pytest

from models.prototypes.ilvq import Ilvq
from models.prototypes.prototype_set import PrototypeSet, of_samples
from models.prototypes.scaling import LARGEST
from models.prototypes.settings import IlvqSettings


class SlowIlvq:
    """The algorithm as described, with a loop for everything: prototypes and edges by key, in data units."""

    def __init__(self, max_age=400, denoise_every=150):
        self.nodes, self.edges, self.samples, self.max_age = {}, {}, 0, max_age
        self.denoise_every, self.next_key = denoise_every, 0

    def neighbours(self, key):
        return [other for pair in self.edges if key in pair for other in pair - {key}]

    def add(self, x, y):
        self.nodes[self.next_key] = {"x": list(x), "y": y, "wins": 1}
        self.next_key += 1

    def threshold(self, key):
        node, within, between = self.nodes[key], [], []
        for other in self.neighbours(key):
            length = math.dist(node["x"], self.nodes[other]["x"])
            (within if self.nodes[other]["y"] == node["y"] else between).append(length)
        if not within and not between:
            return math.inf
        if not between:
            return max(within)
        if not within:
            return min(between)
        beyond = [length for length in between if length > sum(within) / len(within)]
        return min(beyond) if beyond else max(between)

    def learn(self, x, y):
        self.samples += 1
        if len(self.nodes) < 2 or all(node["y"] != y for node in self.nodes.values()):
            self.add(x, y)
        else:
            self.fit(x, y)
        if self.samples % self.denoise_every == 0:
            mean = sum(node["wins"] for node in self.nodes.values()) / len(self.nodes)
            degree = {key: len(self.neighbours(key)) for key in self.nodes}
            for key, edges in degree.items():
                if edges == 0 or (edges == 1 and self.nodes[key]["wins"] < mean / 2):
                    del self.nodes[key]
                    self.edges = {pair: age for pair, age in self.edges.items() if key not in pair}

    def fit(self, x, y):
        first, second = sorted(self.nodes, key=lambda key: math.dist(self.nodes[key]["x"], x))[:2]
        for key in (first, second):
            if math.dist(self.nodes[key]["x"], x) > self.threshold(key):
                self.add(x, y)
                return
        self.edges[frozenset((first, second))] = 0
        for other in self.neighbours(first):
            self.edges[frozenset((first, other))] += 1
        winner = self.nodes[first]
        winner["wins"] += 1
        rate = 1 / winner["wins"]
        right = winner["y"] == y
        for key in self.neighbours(first):
            node = self.nodes[key]
            if right and node["y"] != y:
                node["x"] = [a - rate / 100 * (b - a) for a, b in zip(node["x"], x, strict=True)]
            if not right and node["y"] == y:
                node["x"] = [a + rate / 100 * (b - a) for a, b in zip(node["x"], x, strict=True)]
        sign = rate if right else -rate
        winner["x"] = [a + sign * (b - a) for a, b in zip(winner["x"], x, strict=True)]
        self.edges = {
            pair: age for pair, age in self.edges.items() if first not in pair or age <= self.max_age
        }

    def predict(self, x, num_classes):
        near = sorted((math.dist(node["x"], x), node["y"]) for node in self.nodes.values())[:5]
        scores = [sum(1 / d for d, y in near if y == label) for label in range(num_classes)]
        return [score / sum(scores) for score in scores]


def stream(num, num_classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num)
    return random.normal(0, 1, (num, 2)) + 2.0 * np.stack([labels, labels % 2], axis=1), labels.tolist()


def raw(**settings):
    return IlvqSettings(scale_memory=None, **settings)


@pytest.mark.parametrize(("max_age", "denoise_every"), [(400, 75), (5, 20)])
def test_it_does_what_the_loops_do(max_age, denoise_every):
    fast = Ilvq(2, 3, raw(max_prototypes=500, max_age=max_age, denoise_every=denoise_every))
    slow = SlowIlvq(max_age, denoise_every)
    for x, y in zip(*stream(200), strict=True):
        if len(fast) > 1:
            np.testing.assert_allclose(fast.predict_proba(x), slow.predict(x, 3), rtol=1e-6)
        fast.learn(x, y)
        slow.learn(x, y)
        assert len(fast) == len(slow.nodes)
    found = fast.prototypes()
    np.testing.assert_allclose(found.vectors, [node["x"] for node in slow.nodes.values()], rtol=1e-5)
    assert found.labels.tolist() == [node["y"] for node in slow.nodes.values()]
    assert found.weights.tolist() == [node["wins"] for node in slow.nodes.values()]


def of_line(samples, **settings):
    learner = Ilvq(1, 2, raw(**settings))
    for x, y in samples:
        learner.learn(np.array([x], np.float64), y)
    return learner


def test_without_edges_any_sample_of_a_known_class_moves_the_winner():
    found = of_line([(0, 0), (10, 1), (2, 0)]).prototypes()
    assert found.vectors[:, 0].tolist() == [1, pytest.approx(10 + 8 / 2 / 100)]


def test_a_winner_of_another_class_moves_away_and_its_neighbours_of_the_samples_class_closer():
    found = of_line([(0, 0), (10, 1), (4, 1)]).prototypes()
    assert found.vectors[:, 0].tolist() == [-2, pytest.approx(10 - 6 / 2 / 100)]


def test_a_sample_beyond_a_threshold_becomes_a_prototype():
    found = of_line([(0, 0), (10, 1), (0, 0), (-11, 0)]).prototypes()
    assert found.vectors[:, 0].tolist() == [0, pytest.approx(10.05), -11]


def test_a_new_class_becomes_a_prototype_wherever_it_is():
    assert len(of_line([(0, 0), (10, 0), (5, 1)])) == 3


def test_a_prototype_of_no_edge_goes_when_noise_is_removed():
    found = of_line([(0, 0), (10, 1), (0, 0), (-11, 0), (0, 0), (0, 0)], denoise_every=5).prototypes()
    assert -11 not in found.vectors


def test_at_a_prototype_its_class_is_certain():
    assert of_line([(0, 0), (10, 1)]).predict_proba(np.zeros(1)).tolist() == [1, 0]


def test_nearer_prototypes_count_more():
    np.testing.assert_allclose(of_line([(0, 0), (10, 1)]).predict_proba(np.array([2.0])), [0.8, 0.2])


def test_before_the_first_sample_all_classes_are_as_likely():
    assert Ilvq(1, 4).predict_proba(np.zeros(1)).tolist() == [0.25] * 4


def test_when_full_who_won_least_and_longest_ago_goes_but_not_the_last_of_a_class():
    learner = of_line([(0, 0), (10, 1), (0, 0), (-11, 0), (-30, 0)], max_prototypes=3)
    assert sorted(learner.prototypes().vectors[:, 0].tolist()) == [-30, 0, pytest.approx(10.05)]


def test_there_are_never_more_than_the_most_and_it_goes_on_learning():
    learner = Ilvq(2, 3, IlvqSettings(max_prototypes=10))
    right = 0
    for x, y in zip(*stream(400), strict=True):
        right += int(learner.predict_proba(x).argmax()) == y
        learner.learn(x, y)
        assert len(learner) <= 10
    assert right / 400 > 0.7


def test_units_of_the_features_do_not_matter_where_distances_are_in_deviations():
    first, second = Ilvq(2, 3), Ilvq(2, 3)
    for x, y in zip(*stream(200), strict=True):
        first.learn(x, y)
        second.learn(x * [1024, 1 / 1024], y)
    np.testing.assert_allclose(second.prototypes().vectors, first.prototypes().vectors * [1024, 1 / 1024])


def test_what_was_saved_goes_on_as_if_it_had_not_been():
    first, second = Ilvq(2, 3), Ilvq(2, 3)
    samples, labels = stream(300)
    for x, y in zip(samples[:200], labels[:200], strict=True):
        first.learn(x, y)
    second.restore(first.state())
    for x, y in zip(samples[200:], labels[200:], strict=True):
        np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))
        first.learn(x, y)
        second.learn(x, y)


@pytest.mark.parametrize(("name", "value"), [("labels", 3), ("counts", 101), ("vectors", np.nan)])
def test_a_damaged_state_is_refused(name, value):
    learner = Ilvq(2, 3)
    state = learner.state()
    state[name][:] = value
    with pytest.raises(ValueError, match="saved state"):
        learner.restore(state)


def test_prototypes_that_replace_others_are_those_that_are_kept():
    learner = of_line([(0, 0), (10, 1), (0, 0), (-11, 0), (2, 0), (0, 0)])
    fewer = PrototypeSet(
        np.array([[1], [9], [5]], np.float32),
        np.array([0, 1, 1]),
        *np.array([[4, 2.4, 0], [0, 3, 1]], np.float32),
    )
    learner.replace(fewer)
    found = learner.prototypes()
    np.testing.assert_array_equal(found.vectors, fewer.vectors)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.weights.tolist() == [4, 2, 1]
    assert found.ages.tolist() == [0, 3, 1]


def test_prototypes_that_replace_others_are_joined_to_their_nearest():
    learner = of_line([(0, 0), (10, 1)])
    learner.replace(of_samples([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1]))
    learner.learn(np.array([0.5]), 0)  # as near to 0 and 1 as these are to each other, or nearer
    assert len(learner) == 4
    learner.learn(np.array([3.0]), 0)  # further
    assert len(learner) == 5


def test_a_class_of_none_of_the_replacing_prototypes_is_new_again():
    learner = of_line([(0, 0), (10, 1)])
    learner.replace(of_samples([[0.0], [1.0]], [0, 0]))
    learner.learn(np.array([0.1]), 1)
    assert learner.prototypes().labels.tolist() == [0, 0, 1]


def test_nothing_may_replace_all_prototypes():
    learner = of_line([(0, 0), (10, 1)])
    learner.replace(of_samples(np.zeros((0, 1)), []))
    assert len(learner) == 0
    assert learner.predict_proba(np.zeros(1)).tolist() == [0.5, 0.5]
    learner.learn(np.array([3.0]), 1)
    assert learner.predict_proba(np.zeros(1)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (of_samples([[1.0], [2.0], [3.0], [4.0]], [0, 0, 1, 1]), "4 prototypes are more than the 3"),
        (of_samples([[1.0, 2.0]], [0]), "are not of 1 features"),
        (of_samples([[1.0]], [2]), "class is none"),
        (of_samples([[np.nan]], [0]), "not finite"),
    ],
)
def test_prototypes_that_cannot_replace_are_refused_and_nothing_changes(bad, reason):
    learner = of_line([(0, 0), (10, 1)], max_prototypes=3)
    before = learner.state()
    with pytest.raises(ValueError, match=reason):
        learner.replace(bad)
    for name, array in learner.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_prototype_that_moved_beyond_the_largest_value_can_be_told_and_replace_itself():
    learner = of_line([(LARGEST, 0), (0, 1), (0.9 * LARGEST, 1)])
    assert learner._vectors[0, 0] > LARGEST
    learner.replace(learner.prototypes())
    assert learner.prototypes().vectors[0, 0] == np.float32(LARGEST)


def test_what_cannot_be_learned_is_refused():
    learner = Ilvq(2, 2)
    with pytest.raises(ValueError, match="feature 0"):
        learner.learn(np.array([np.nan, 0.0]), 0)
    with pytest.raises(ValueError, match="class 2"):
        learner.learn(np.zeros(2), 2)
    with pytest.raises(ValueError, match="too few"):
        Ilvq(0, 2)
