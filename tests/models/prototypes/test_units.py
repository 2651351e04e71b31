from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.prototype_set import empty, of_samples
from models.prototypes.units import Units, from_halves, to_halves, units_for


def floats(values):
    return np.array(values, np.float32)


def test_scales_fit_each_feature_to_the_middle_and_half_its_range():
    ours = of_samples(np.array([[0.0, 7], [10, 7]]), np.zeros(2, np.int64))
    found = units_for(ours)
    assert found.offsets.tolist() == [5, 7]
    assert found.factors.tolist() == [5, 1]


def test_features_come_back_within_a_4096th_of_their_range():
    random = np.random.default_rng(0)
    unit, offset = floats([1e-30, 1, 1e30]), floats([0, 1e4, -1e30])
    vectors = random.standard_normal((200, 3)).astype(np.float32) * unit + offset
    ours = of_samples(vectors, np.zeros(200, np.int64))
    units = units_for(ours)
    found = from_halves(to_halves(vectors, units), units)
    assert (np.abs(found - vectors) <= np.ptp(vectors.astype(float), axis=0) * 2.0**-12).all()


def test_the_largest_floats_and_no_prototypes_have_scales_too():
    largest = np.finfo(np.float32).max
    ours = of_samples(np.array([[largest], [-largest]]), np.zeros(2, np.int64))
    units = units_for(ours)
    found = from_halves(to_halves(ours.vectors, units), units)
    np.testing.assert_allclose(found, ours.vectors, rtol=1e-3)
    assert units_for(empty(2)).factors.tolist() == [1, 1]


def test_values_beyond_float16_saturate():
    units = Units(floats([0]), floats([2]))
    assert from_halves(to_halves(floats([[1e9]]), units), units).tolist() == [[2 * 65504]]


def test_rounding_never_leads_beyond_float32():
    largest = np.finfo(np.float32).max
    units = Units(floats([0]), floats([largest / 4095]))
    found = from_halves(to_halves(floats([[largest]]), units), units)
    assert np.isfinite(found.astype(np.float32)).all()


def test_other_scales_have_another_fingerprint():
    one = Units(floats([0, 1]), floats([1, 2]))
    assert one.fingerprint() == Units(one.offsets.copy(), one.factors.copy()).fingerprint()
    assert one.fingerprint() != Units(floats([0, 1]), floats([1, 3])).fingerprint()


@pytest.mark.parametrize(
    ("offsets", "factors", "message"),
    [
        ([0, np.nan], [1, 1], "offset of feature 1"),
        ([0, 0], [1, 0], "factor of feature 1"),
        ([0, 0], [-1, 1], "factor of feature 0"),
        ([0, 0], [1, np.inf], "factor of feature 1"),
        ([0, 0], [1], "not both"),
    ],
)
def test_scales_that_cannot_be_are_an_error(offsets, factors, message):
    with pytest.raises(ValueError, match=message):
        Units(floats(offsets), floats(factors))
