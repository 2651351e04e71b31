"""Weighted sums beside the same sums in float64."""

import numpy as np
import pytest

from coordinator.sums import MAX_RATIO, PARTIAL_SETS, WeightedSums

SHAPES = {"matrix": (6, 5), "filters": (4, 3, 3, 3), "scale": (), "nothing": (0, 3)}


def tensors(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {name: (generator.normal(size=shape) * scale).astype(np.float32) for name, shape in SHAPES.items()}


def test_the_mean_of_a_thousand_sets_is_that_of_float64_to_a_few_roundings():
    sums, generator = WeightedSums(SHAPES), np.random.default_rng(0)
    factors = generator.integers(1, 5000, 1000).astype(float)
    expected = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    magnitude = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for seed, factor in enumerate(factors):
        found = tensors(seed, 1e-3)
        sums.add(found, factor)
        for name, values in found.items():
            expected[name] += factor * values.astype(np.float64)
            magnitude[name] += factor * np.abs(values)
    for name in SHAPES:
        errors = np.abs(sums.total(name) - expected[name])
        assert (errors <= np.finfo(np.float32).eps * magnitude[name]).all()  # one ulp of the mean magnitude


def test_values_that_float32_adds_exactly_are_summed_exactly():
    sums = WeightedSums({"one": (2,)})
    for value in range(1, 101):
        sums.add({"one": np.array([value, -value], np.float32)}, 3.0)
    assert sums.total("one").tolist() == [3.0 * 5050, -3.0 * 5050]


@pytest.mark.parametrize("factor", [1.0, 2.0**60, 2.0**-60])
def test_factors_far_apart_do_not_lose_the_smaller(factor):
    sums = WeightedSums({"big": (1,), "small": (1,)})
    for factor_of, name in ((factor, "big"), (1.0, "small"), (factor, "big")):
        one = {other: np.array([other == name], np.float32) for other in ("big", "small")}
        sums.add(one, factor_of)
    assert sums.total("big").tolist() == [2 * factor]
    assert sums.total("small").tolist() == [1.0]


def test_large_sets_of_large_factors_do_not_overflow():
    sums = WeightedSums({"one": (1,)})
    for factor in (1.0, MAX_RATIO, 2.0**60):
        sums.add({"one": np.array([1e30], np.float32)}, factor)
    assert sums.total("one") == pytest.approx(1e30 * (1 + MAX_RATIO + 2.0**60))


MASKS = {
    "rows": {"filters": np.array([1, 0, 1, 1], bool).reshape(4, 1, 1, 1)},
    "columns": {"filters": np.array([0, 1, 1], bool).reshape(1, 3, 1, 1)},
    "pairs": {"filters": (np.arange(12) % 5 > 1).reshape(4, 3, 1, 1)},
    "entries": {"matrix": (np.arange(30) % 7 > 2).reshape(6, 5)},
    "short rows": {"matrix": np.array([1, 0, 0, 1, 1], bool).reshape(1, 5)},
    "none": {
        "filters": np.zeros((4, 3, 1, 1), bool),
        "scale": np.zeros((), bool),
        "nothing": np.zeros((1, 1), bool),
    },
    "all": {"filters": np.ones((1, 1, 1, 1), bool)},
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())
def test_masked_entries_keep_their_sum_to_the_bit(masks):
    sums, without = WeightedSums(SHAPES), WeightedSums(SHAPES)
    first, second = tensors(1), tensors(2, 1e8)
    for each in (sums, without):
        each.add(first, 7.0)
    sums.add(second, 5.0, masks)
    for name, shape in SHAPES.items():
        is_added = np.broadcast_to(masks.get(name, np.array(True)), shape)
        expected = 7.0 * first[name].astype(np.float64) + 5.0 * second[name]
        np.testing.assert_array_equal(sums.total(name)[~is_added], without.total(name)[~is_added])
        np.testing.assert_allclose(sums.total(name)[is_added], expected[is_added], rtol=1e-6)


def test_tensors_in_any_order_of_memory_are_added():
    sums = WeightedSums({"matrix": (6, 5)})
    values = np.asfortranarray(tensors(1)["matrix"])
    sums.add({"matrix": values}, 1.0)
    sums.add({"matrix": values}, 1.0, {"matrix": np.ones((6, 1), bool)})
    np.testing.assert_array_equal(sums.total("matrix"), 2 * values.astype(np.float64))


def test_a_total_taken_in_between_changes_nothing():
    sums, undisturbed = WeightedSums(SHAPES), WeightedSums(SHAPES)
    for seed in range(PARTIAL_SETS + 3):
        for each in (sums, undisturbed):
            each.add(tensors(seed), 1.0 + seed)
        sums.total("matrix")[:] = 0.0
    np.testing.assert_array_equal(sums.total("matrix"), undisturbed.total("matrix"))
