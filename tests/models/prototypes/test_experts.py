from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.class_gaussians import ClassGaussians
from models.prototypes.experts import Experts, metrics, pool_share
from models.prototypes.memory import Memory
from models.prototypes.nearest import class_shares
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


class Company:
    """Experts over a memory, asked all at once and each by hand."""

    def __init__(self, own, pool, **settings):
        self.settings = LearnerSettings(memory=8, pool=pool, horizons=(3, 8), **settings)
        self.memory = Memory(2, 2, 8, pool)
        self.experts = Experts(self.settings, 2, self.memory)
        self.random = np.random.default_rng(own)
        for _ in range(own):
            self.memory.add(self.random.normal(size=2).astype(np.float32), int(self.random.integers(2)))

    def told(self, peer, num):
        vectors, labels = self.random.normal(size=(num, 2)), self.random.integers(0, 2, num)
        self.memory.receive(peer, of_samples(vectors, labels))

    def at_once(self, x, distrust):
        distances = self.memory.distances(x, WEIGHTS)
        gaussians = ClassGaussians(2, 2, self.settings.class_memories)
        return self.experts.say(distances, x.astype(float), gaussians, np.ones(2), distrust)

    def by_hand(self, x, distrust):
        memory, settings = self.memory, self.settings
        distances, num_pool = memory.distances(x, WEIGHTS), memory.num_pool
        ages = memory.own().ages
        shares = []
        for row in distances:
            ways = [np.where(ages < horizon, 0.0, np.inf) for horizon in settings.horizons]
            ways.append((ages / settings.fade) ** 2)
            for way in ways:
                near = (row[num_pool:] + way).astype(np.float32)[None]
                has_any = near.shape[1] > 0
                votes = memory.votes[num_pool:]
                shares.append(class_shares(near, votes, settings.neighbours)[0] if has_any else [0.5, 0.5])
        pooled = []
        for row in distances if num_pool else ():
            foreign = (memory.pool_ages / settings.pool_fade) ** 2 + distrust[memory.pool_peers]
            near = row + np.concatenate([foreign, (ages / settings.pool_fade) ** 2])
            pooled.append(class_shares(near.astype(np.float32)[None], memory.votes, settings.neighbours)[0])
        return np.array(shares), np.array(pooled)


WEIGHTS = np.array([[1.0, 0.5, 2.0], [1.0, 2.0, 0.1]], np.float32)
DISTRUST = np.linspace(0.0, 2.0, 32)


def check_that_all_say_the_same(company):
    x = company.random.normal(size=2).astype(np.float32)
    said = company.at_once(x, DISTRUST)
    own, pooled = company.by_hand(x, DISTRUST)
    np.testing.assert_allclose(said[: len(own)], own, rtol=1e-5)
    np.testing.assert_allclose(said[company.experts.num_own :], pooled.reshape(-1, 2), rtol=1e-5)
    np.testing.assert_allclose(said.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("own", [0, 1, 2, 5, 8, 13])
@pytest.mark.parametrize("num_told", [0, 1, 6, 20])
@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_asked_all_at_once_experts_say_what_each_would(own, num_told, neighbours):
    company = Company(own, pool=6, neighbours=neighbours)
    company.told(1, num_told)
    check_that_all_say_the_same(company)


def test_experts_say_the_same_while_a_pool_grows_and_is_forgotten():
    company = Company(5, pool=6)
    for peer, num in ((1, 4), (2, 2), (3, 5)):
        company.told(peer, num)
        check_that_all_say_the_same(company)
    company.memory.forget(3)
    check_that_all_say_the_same(company)
    company.memory.forget(1)
    company.memory.forget(2)
    check_that_all_say_the_same(company)
    company.told(4, 3)
    check_that_all_say_the_same(company)


def test_without_a_pool_there_are_own_experts_only():
    company = Company(5, pool=0)
    check_that_all_say_the_same(company)
    assert company.experts.num_all == company.experts.num_own


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
