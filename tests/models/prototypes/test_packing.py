from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from firmware_profiles.errors import PeerError
from models.prototypes.packing import MAX_PROTOTYPES, pack, units_in, unpack
from models.prototypes.prototype_set import PrototypeSet, empty, of_samples
from models.prototypes.units import Units, units_for

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
COUNTS = st.floats(0, 2**20, width=32)


def floats(values):
    return np.array(values, np.float32)


def a_set(num=5, num_features=3, num_classes=2, seed=0):
    random = np.random.default_rng(seed)
    return PrototypeSet(
        random.standard_normal((num, num_features)).astype(np.float32),
        random.integers(0, num_classes, num),
        random.integers(0, 2000, num).astype(np.float32),
        random.integers(0, 2000, num).astype(np.float32),
    )


def unit(num_features):
    return Units(np.zeros(num_features, np.float32), np.ones(num_features, np.float32))


@st.composite
def sets(draw):
    num, width, classes = draw(st.integers(0, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 300))
    return classes, PrototypeSet(
        draw(hnp.arrays(np.float32, (num, width), elements=FLOATS)),
        draw(hnp.arrays(np.int64, num, elements=st.integers(0, classes - 1))),
        draw(hnp.arrays(np.float32, num, elements=COUNTS)),
        draw(hnp.arrays(np.float32, num, elements=COUNTS)),
    )


def is_valid(found, num_features, num_classes):
    return (
        found.vectors.shape == (len(found), num_features)
        and np.isfinite(found.vectors).all()
        and ((found.labels >= 0) & (found.labels < num_classes)).all()
        and all((np.isfinite(one) & (one >= 0)).all() for one in (found.weights, found.ages))
        and len(found.weights) == len(found.ages) == len(found)
        and [one.dtype for one in (found.vectors, found.labels, found.weights, found.ages)]
        == [np.float32, np.int64, np.float32, np.float32]
    )


# ---------------------------------------------------------------- size


@pytest.mark.parametrize(
    ("num", "num_features", "num_classes", "most_bytes"),
    [(1, 6, 2, 20), (100, 9, 2, 2048), (100, 32, 10, 6800)],
)
def test_messages_are_small(num, num_features, num_classes, most_bytes):
    ours = a_set(num, num_features, num_classes)
    assert len(pack(ours, num_classes, units=unit(num_features), with_units=False)) <= most_bytes


def test_each_part_costs_the_bytes_that_the_table_says():
    ours = a_set(10, 3, 5)
    plain = {"units": unit(3), "with_units": False, "with_weights": False, "with_ages": False}
    assert len(pack(ours, 5, **plain)) == 3 + 2 + 60 + 4
    assert len(pack(ours, 5, **{**plain, "with_units": True})) == 3 + 24 + 60 + 4
    assert len(pack(ours, 5, **{**plain, "units": None})) == 3 + 120 + 4
    assert len(pack(ours, 5, **{**plain, "with_weights": True})) == 3 + 2 + 60 + 4 + 10
    assert len(pack(of_samples(ours.vectors, np.zeros(10, np.int64)), 1, **plain)) == 3 + 2 + 60


def test_the_bytes_stay_as_they_were():
    ours = PrototypeSet(floats([[1.5, -2], [0, 0.25]]), np.array([2, 1]), floats([1, 0]), floats([16, 3]))
    assert pack(ours, 3, units=unit(2)).hex(" ", 1) == (
        "1e 02 00 00 00 00 00 00 00 00 00 00 00 80 3f 00 00 80 3f 00 3e 00 c0 00 00 00 34 90 40 00 60 4d"
    )


# ---------------------------------------------------------------- there and back


@given(sets(), st.booleans(), st.booleans())
@settings(max_examples=50, derandomize=True)
def test_what_is_packed_comes_back_within_its_error(labelled, with_weights, with_ages):
    classes, ours = labelled
    units = units_for(ours)
    data = pack(ours, classes, units=units, with_weights=with_weights, with_ages=with_ages)
    found = unpack(data, ours.vectors.shape[1], classes)
    assert is_valid(found, ours.vectors.shape[1], classes)
    scaled = (ours.vectors.astype(float) - units.offsets) / units.factors
    most = units.factors * np.maximum(np.abs(scaled) * 2.0**-11, 2.0**-25) + np.abs(ours.vectors) * 2.0**-23
    assert (np.abs(found.vectors.astype(float) - ours.vectors) <= most * (1 + 1e-6)).all()
    assert found.labels.tolist() == ours.labels.tolist()
    for there, back, default in (
        (ours.weights if with_weights else None, found.weights, 1),
        (ours.ages if with_ages else None, found.ages, 0),
    ):
        if there is None:
            assert (back == default).all()
        else:
            assert ((back == 0) == (there == 0)).all()
            np.testing.assert_allclose(
                back, np.where(there > 0, np.maximum(there, 2.0**-7.875), 0), rtol=0.045
            )


@given(sets())
@settings(max_examples=50, derandomize=True)
def test_float32_comes_back_bit_for_bit(labelled):
    classes, ours = labelled
    found = unpack(pack(ours, classes, units=None), ours.vectors.shape[1], classes)
    assert found.vectors.tobytes() == ours.vectors.tobytes()
    assert found.labels.tolist() == ours.labels.tolist()


@given(sets())
@settings(max_examples=50, derandomize=True)
def test_packing_again_what_came_changes_nothing_more(labelled):
    classes, ours = labelled
    width = ours.vectors.shape[1]
    once = unpack(pack(ours, classes, units=None), width, classes)
    twice = unpack(pack(once, classes, units=None), width, classes)
    assert twice.weights.tolist() == once.weights.tolist()
    assert twice.ages.tolist() == once.ages.tolist()


def test_whole_powers_of_two_are_exact_and_larger_weights_saturate():
    weights = floats([0, 1, 2, 64, 2**23, 3e38])
    ours = PrototypeSet(np.zeros((6, 1), np.float32), np.zeros(6, np.int64), weights, weights)
    found = unpack(pack(ours, 1, units=None), 1, 1)
    assert found.weights[:5].tolist() == weights[:5].tolist()
    assert found.ages[5] == np.float32(2**23.875)


def test_scales_travel_along_or_are_known_to_both():
    ours = a_set(4, 3)
    units = units_for(ours)
    whole = pack(ours, 2, units=units)
    found = units_in(whole, 3)
    assert found is not None
    assert found.packed() == units.packed()
    later = pack(ours, 2, units=units, with_units=False)
    assert units_in(later, 3) is None
    assert unpack(later, 3, 2, found).vectors.tolist() == unpack(whole, 3, 2).vectors.tolist()


def test_no_prototypes_are_a_message_too():
    assert len(unpack(pack(empty(4), 2, units=units_for(empty(4))), 4, 2)) == 0


@pytest.mark.parametrize(
    ("ours", "fields"),
    [
        (a_set(), {"num_classes": 1}),
        (of_samples(np.zeros((1, 3)), np.array([-1])), {}),
        (empty(1)[np.zeros(0, np.int64)], {"units": unit(3)}),
        (of_samples(np.zeros((MAX_PROTOTYPES + 1, 1)), np.zeros(MAX_PROTOTYPES + 1, np.int64)), {}),
    ],
    ids=["label too large", "label below 0", "units of other features", "too many"],
)
def test_sets_that_nobody_would_take_are_an_error(ours, fields):
    with pytest.raises(ValueError):
        pack(ours, **{"num_classes": 2, "units": None, **fields})


# ---------------------------------------------------------------- hostile bytes


@given(st.integers(0, 6), st.integers(1, 3), st.integers(1, 300), st.booleans(), st.data())
@settings(max_examples=150, derandomize=True)
def test_any_mutation_is_refused_or_a_valid_set(num, width, classes, with_units, data):
    ours = a_set(num, width, classes)
    units = units_for(ours)
    mutant = bytearray(pack(ours, classes, units=units, with_units=with_units))
    for _ in range(data.draw(st.integers(1, 3))):
        kind, at = data.draw(st.sampled_from(["set", "cut", "add"])), data.draw(st.integers(0, len(mutant)))
        mutant[at : at + (kind != "add")] = (
            b"" if kind == "cut" else data.draw(st.binary(min_size=1, max_size=1))
        )
    try:
        found = unpack(bytes(mutant), width, classes, units)
    except PeerError:
        return
    assert is_valid(found, width, classes)


@given(st.binary(max_size=64), st.integers(1, 4), st.integers(1, 70_000))
@settings(max_examples=200, derandomize=True)
def test_any_bytes_are_refused_or_a_valid_set(data, num_features, num_classes):
    with contextlib.suppress(PeerError):
        found = unpack(data, num_features, num_classes, unit(num_features))
        assert is_valid(found, num_features, num_classes)
    with contextlib.suppress(PeerError):
        units_in(data, num_features)


def test_a_claim_of_many_prototypes_allocates_nothing():
    claim = bytes([0x1C, 0xFF, 0xFF]) + bytes(100)
    tracemalloc.start()
    try:
        with pytest.raises(PeerError, match="65535 prototypes of 1000 features"):
            unpack(claim, 1000, 2, unit(1000))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_no_more_than_a_few_times_the_bytes_is_allocated():
    data = pack(a_set(20_000, 4, 2), 2, units=unit(4))
    tracemalloc.start()
    try:
        unpack(data, 4, 2)
        assert tracemalloc.get_traced_memory()[1] < 15 * len(data)
    finally:
        tracemalloc.stop()


def altered(at, value):
    data = bytearray(pack(a_set(3, 2, 3), 3, units=unit(2)))
    data[at : at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header alone"),
        (altered(0, b"\x2e"), "format 2, known is 1"),
        (altered(0, b"\x1f"), "only float16"),
        (altered(1, b"\x04"), "4 prototypes of 2 features and 3 classes take"),
        (altered(3, b"\x00\x00\xc0\x7f"), "offset of feature 0"),
        (altered(11, b"\x00\x00\x00\x00"), "factor of feature 0"),
        (altered(19, b"\x00\x7c"), "feature 0 of prototype 0 is inf"),
        (altered(21, b"\x00\x7e"), "feature 1 of prototype 0 is nan"),
        (altered(31, b"\xf0"), "label 3, classes are 0 to 2"),
        (altered(31, b"\x01"), "bits after the last label"),
    ],
)
def test_a_refusal_says_what_was_wrong(data, message):
    with pytest.raises(PeerError, match=message):
        unpack(data, 2, 3)


def test_scales_that_are_unknown_or_others_are_named():
    data = pack(a_set(3, 2), 2, units=unit(2), with_units=False)
    with pytest.raises(PeerError, match="none are known"):
        unpack(data, 2, 2)
    with pytest.raises(PeerError, match="ask for the whole"):
        unpack(data, 2, 2, Units(floats([1, 1]), floats([1, 1])))
