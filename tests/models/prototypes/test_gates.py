from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.gates import calibrated, paper
from models.prototypes.prototype_set import PrototypeSet, empty, of_samples


def floats(values):
    return np.array(values, np.float32)


def a_set(num, num_features, seed, shift=0.0, num_classes=2):
    """Two classes side by side, each prototype of another weight."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num)
    vectors = random.standard_normal((num, num_features)) + labels[:, None] + shift
    weights = random.exponential(10.0, num)
    return PrototypeSet(
        vectors.astype(np.float32), labels, weights.astype(np.float32), np.zeros(num, np.float32)
    )


# ---------------------------------------------------------------- as in the paper


def test_the_papers_gate_opens_until_the_peer_has_sent_something():
    assert paper(a_set(5, 2, 0), None, seed=1).is_open
    assert not paper(empty(2), None, seed=1).is_open


def test_the_papers_gate_compares_with_one_half():
    ours = a_set(50, 2, 0)
    same, other = paper(ours, ours, seed=1), paper(ours, a_set(50, 2, 1, shift=5.0), seed=1)
    assert (same.is_open, same.distance, same.threshold) == (False, 0.0, 0.5)
    assert other.is_open
    assert other.distance is not None
    assert other.distance > 0.5


def test_the_papers_gate_hardly_closes_for_few_prototypes_of_many_features():
    assert all(
        paper(a_set(25, 9, s), a_set(25, 9, s + 50), seed=s, max_points=4000).is_open for s in range(5)
    )


# ---------------------------------------------------------------- calibrated


@pytest.mark.parametrize("num_features", [2, 9, 32])
@pytest.mark.parametrize("num", [10, 30, 100])
def test_of_two_samples_of_one_source_alpha_of_the_pairs_open_the_gate(num, num_features):
    num_pairs = 150
    opened = sum(
        calibrated(
            a_set(num, num_features, 2 * seed), a_set(num, num_features, 2 * seed + 1), alpha=0.1
        ).is_open
        for seed in range(num_pairs)
    )
    # 15 expected; 4 standard deviations of a binomial either way.
    assert 1 <= opened <= 29


@pytest.mark.parametrize("num_features", [2, 9, 32])
@pytest.mark.parametrize("num", [10, 30, 100])
def test_a_clear_shift_nearly_always_opens_the_gate(num, num_features):
    decisions = [
        calibrated(a_set(num, num_features, 2 * s), a_set(num, num_features, 2 * s + 1, shift=3.0))
        for s in range(20)
    ]
    assert sum(one.is_open for one in decisions) >= 19


def test_classes_that_swapped_places_open_the_gate():
    ours = a_set(100, 9, 0)
    swapped = PrototypeSet(ours.vectors, 1 - ours.labels, ours.weights, ours.ages)
    assert calibrated(ours, swapped).is_open


def test_what_the_peer_has_already_is_not_sent_again():
    ours = a_set(100, 9, 0)
    same = calibrated(ours, ours)
    assert not same.is_open
    assert same.distance == pytest.approx(0.0, abs=1e-2)
    one_moved = ours.vectors.copy()
    one_moved[0] += 1
    assert not calibrated(PrototypeSet(one_moved, ours.labels, ours.weights, ours.ages), ours).is_open


def test_units_of_features_do_not_matter():
    ours, theirs = a_set(30, 3, 0), a_set(30, 3, 1)
    unit = np.array([1e-6, 1.0, 1e9], np.float32)
    scaled = [
        PrototypeSet(one.vectors * unit + unit, one.labels, one.weights, one.ages) for one in (ours, theirs)
    ]
    plain, other = calibrated(ours, theirs), calibrated(*scaled)
    assert plain.distance == pytest.approx(other.distance, rel=1e-3)
    assert plain.is_open == other.is_open


def test_weights_count_and_their_unit_does_not():
    vectors = np.concatenate([np.zeros((50, 1)), np.ones((50, 1))]) + 0.01 * np.arange(100)[:, None]
    even = of_samples(vectors, np.zeros(100, np.int64))
    low = np.where(np.arange(100) < 50, 30.0, 1.0).astype(np.float32)
    uneven = PrototypeSet(even.vectors, even.labels, low, even.ages)
    hundredfold = PrototypeSet(even.vectors, even.labels, even.weights * 100, even.ages)
    same, scaled, weighted = calibrated(even, even), calibrated(hundredfold, even), calibrated(uneven, even)
    assert scaled == same
    assert weighted.distance is not None
    assert same.distance is not None
    assert weighted.distance > same.distance + 0.1


def test_a_peer_that_acknowledged_nothing_or_little_is_sent_to():
    ours = a_set(100, 4, 0)
    assert calibrated(ours, None).is_open
    assert calibrated(ours, empty(4)).is_open
    assert calibrated(ours, ours[:49]).is_open
    assert not calibrated(empty(4), None).is_open


def test_where_there_are_too_few_to_test_any_difference_opens_the_gate():
    two = a_set(2, 3, 0)
    assert calibrated(two, a_set(2, 3, 1)).is_open
    assert not calibrated(two, two).is_open


def test_large_sets_are_compared_too():
    ours = a_set(700, 3, 0)
    assert not calibrated(ours, ours).is_open
    assert calibrated(ours, a_set(700, 3, 1, shift=1.0)).is_open


def test_equal_arguments_give_equal_decisions():
    ours, theirs = a_set(20, 3, 0), a_set(20, 3, 1)
    assert calibrated(ours, theirs, seed=3) == calibrated(ours, theirs, seed=3)


@pytest.mark.parametrize("factor", [0.0, 1e30, 1e37], ids=["constant", "large", "huge"])
def test_constant_and_huge_features_are_compared_without_a_warning(factor):
    ours, theirs = a_set(20, 3, 0), a_set(20, 3, 1)
    scaled = [
        PrototypeSet(one.vectors * np.float32(factor), one.labels, one.weights, one.ages)
        for one in (ours, theirs)
    ]
    found = calibrated(*scaled).distance
    assert found is not None
    assert 0 <= found <= 1


def test_prototypes_without_weight_do_not_count():
    ours, theirs = a_set(20, 3, 0), a_set(20, 3, 1)
    none = PrototypeSet(ours.vectors, ours.labels, np.zeros(20, np.float32), ours.ages)
    ones = PrototypeSet(ours.vectors, ours.labels, np.ones(20, np.float32), ours.ages)
    assert calibrated(none, theirs) == calibrated(ones, theirs)
    half = np.repeat(floats([1, 0]), 10)
    found = calibrated(PrototypeSet(ours.vectors, ours.labels, half, ours.ages), theirs)
    assert found.distance is not None
    assert np.isfinite(found.distance)


def test_weights_of_many_magnitudes_leave_the_distance_a_number():
    ours, theirs = a_set(30, 3, 0), a_set(30, 3, 1)
    wide = np.logspace(-20, 20, 30).astype(np.float32)
    found = calibrated(PrototypeSet(ours.vectors, ours.labels, wide, ours.ages), theirs)
    assert found.distance is not None
    assert 0 <= found.distance <= 1


def test_an_alpha_that_the_splits_cannot_reach_is_an_error():
    with pytest.raises(ValueError, match="at least 99 splits"):
        calibrated(a_set(5, 2, 0), a_set(5, 2, 1), alpha=0.01, num_splits=50)
