"""Sets as changes of others: what goes in comes out nearly, in fewer bytes; damage is the peer's fault."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import PeerError
from models.prototypes import changes
from models.prototypes.changes import pack_change, unpack_change
from models.prototypes.packing import from_levels, pack, to_levels
from models.prototypes.prototype_set import PrototypeSet, joined, of_samples
from models.prototypes.units import units_for

NUM_CLASSES = 3


def a_set(num, num_features=6, seed=0):
    rng = np.random.default_rng(seed)
    return PrototypeSet(
        rng.normal(size=(num, num_features)).astype(np.float32),
        rng.integers(0, NUM_CLASSES, num),
        from_levels(rng.integers(64, 120, num).astype(np.uint8)),
        np.zeros(num, np.float32),
    )


def moved(base, by, rows=None, seed=1):
    """The same prototypes, some of them elsewhere; by deviations of the features."""
    rows = np.arange(len(base)) if rows is None else rows
    vectors = base.vectors.copy()
    shift = np.random.default_rng(seed).normal(size=base.vectors.shape) * by
    vectors[rows] += shift[rows].astype(np.float32)
    return PrototypeSet(vectors, base.labels, base.weights, base.ages)


def in_order(prototypes):
    order = np.lexsort([*prototypes.vectors.T, prototypes.labels])
    return prototypes[order]


def through(base, own):
    return unpack_change(pack_change(base, own, NUM_CLASSES), base, NUM_CLASSES)


def whole_bytes(own):
    return len(pack(own, NUM_CLASSES, units=units_for(own), with_ages=False))


def assert_near(found, own, base):
    """Each of the one set is near one of the other, of its label and weight."""
    # Outside of the base's range a float16 is less fine.
    half = np.ptp(base.vectors.astype(np.float64), axis=0) / 2
    middle = (base.vectors.max(axis=0) + base.vectors.min(axis=0)) / 2
    beyond = np.exp2(np.ceil(np.log2(np.maximum(1, np.abs(own.vectors - middle) / half))))
    limit = half / 2048 * beyond * 1.001 + 1e-6
    gaps = np.abs(found.vectors[:, None].astype(np.float64) - own.vectors) / limit
    is_far = (gaps.max(axis=2, initial=0) > 1) | (found.labels[:, None] != own.labels)
    is_far |= to_levels(found.weights)[:, None] != to_levels(own.weights)
    assert len(found) == len(own)
    assert not is_far.all(axis=0).any()
    assert not is_far.all(axis=1).any()


@pytest.mark.parametrize("by", [0.0, 0.001, 0.05, 1.0])
@pytest.mark.parametrize(("num", "num_features"), [(9, 2), (100, 6), (60, 32)])
def test_prototypes_that_moved_come_back_within_a_4096th_of_the_range(num, num_features, by):
    base = a_set(num, num_features)
    own = moved(base, by)
    assert_near(through(base, own), own, base)


def test_what_did_not_change_is_next_to_nothing():
    base = a_set(100)
    assert len(pack_change(base, base, NUM_CLASSES)) <= 40
    found = through(base, base)
    np.testing.assert_array_equal(found.vectors, base.vectors)
    np.testing.assert_array_equal(found.weights, base.weights)


def test_few_changes_take_few_bytes_and_small_ones_fewer_than_large_ones():
    base = a_set(100)
    few = pack_change(base, moved(base, 0.1, rows=[3, 50]), NUM_CLASSES)
    sizes = [len(pack_change(base, moved(base, by), NUM_CLASSES)) for by in (0.001, 0.01, 0.1)]
    assert len(few) < 70
    assert sizes == sorted(sizes)
    assert sizes[0] < whole_bytes(base) / 3
    assert sizes[2] < whole_bytes(base) * 0.7


def test_one_that_went_far_does_not_make_the_others_longer():
    base = a_set(100)
    own = moved(base, 0.005)
    before = len(pack_change(base, own, NUM_CLASSES))
    own.vectors[7] += 3
    assert len(pack_change(base, own, NUM_CLASSES)) < before + 30
    assert_near(through(base, own), own, base)


def test_those_that_are_gone_or_new_in_whatever_order():
    base = a_set(40)
    own = joined([a_set(5, seed=9), moved(base, 0.01)[np.arange(39, 9, -1)]])
    assert_near(through(base, own), own, base)


def test_a_prototype_of_another_label_is_another_one():
    base = a_set(10)
    own = PrototypeSet(base.vectors, (base.labels + 1) % NUM_CLASSES, base.weights, base.ages)
    assert_near(through(base, own), own, base)


def test_weights_alone_may_change():
    base = a_set(50)
    own = PrototypeSet(base.vectors, base.labels, 2 * base.weights, base.ages)
    found = through(base, own)
    np.testing.assert_array_equal(found.vectors, base.vectors)
    np.testing.assert_allclose(found.weights, own.weights, rtol=1e-6)


def test_a_feature_that_is_the_same_in_all_stays_so_exactly():
    base = a_set(20)
    base.vectors[:, 2] = 5.1
    own = moved(base, 0.01)
    own.vectors[:, 2] = 5.1
    np.testing.assert_array_equal(through(base, own).vectors[:, 2], own.vectors[:, 2])


@pytest.mark.parametrize(
    ("base", "own"),
    [
        ([[5.0, 0], [5, 9]], [[5.0, 0], [6, 9]]),  # a feature that was the same in all
        ([[0.0], [10.0], [1e4]], [[0.0], [10.0], [20.0]]),  # one far off that is no more
        ([[20.0, 1e9]], [[20.0, 1e9], [21.0, 1.1e9]]),
        ([[0.0]], [[5e-9]]),
    ],
)
def test_where_ranges_are_unlike_there_is_no_change_that_would_be_exact(base, own):
    assert pack_change(of_samples(base, [0] * len(base)), of_samples(own, [0] * len(own)), 1) is None


def test_two_near_the_same_one_are_two():
    base = of_samples([[0.0], [10.0]], [0, 0])
    own = of_samples([[0.01], [0.02], [10.0]], [0, 0, 0])
    np.testing.assert_allclose(np.sort(through(base, own).vectors[:, 0]), [0.01, 0.02, 10.0], atol=0.01)


def test_sets_too_large_to_compare_and_bases_of_nothing_have_no_change(monkeypatch):
    assert pack_change(a_set(0), a_set(3), NUM_CLASSES) is None
    monkeypatch.setattr(changes, "MOST_PAIRS", 99)
    assert pack_change(a_set(10), a_set(10), NUM_CLASSES) is None
    assert pack_change(a_set(9), a_set(10), NUM_CLASSES) is not None


values = st.floats(-999999986991104.0, 999999986991104.0, width=32)
rows = st.lists(st.tuples(values, values, st.integers(0, 2)), min_size=1, max_size=12)


def of_rows(found):
    return of_samples([row[:2] for row in found], [row[2] for row in found])


@settings(deadline=None, derandomize=True)
@given(rows, rows)
def test_a_change_is_at_least_half_as_exact_as_the_whole_set(base, own):
    base, own = of_rows(base), of_rows(own)
    assert_half_as_exact(base, own)
    assert_half_as_exact(base, joined([base, own[:1]]))
    assert_half_as_exact(joined([own, base]), own)


def assert_half_as_exact(base, own):
    change = pack_change(base, own, NUM_CLASSES)
    if change is None:
        return
    found = unpack_change(change, base, NUM_CLASSES)
    ranges = np.ptp(own.vectors.astype(np.float64), axis=0)
    # A rounding of float32 comes on top, of the base and of the set.
    limits = ranges / 2048 * 1.001 + np.abs(own.vectors).max(axis=0).astype(np.float64) * 2**-22 + 1e-44
    gaps = np.abs(found.vectors[:, None].astype(np.float64) - own.vectors) / limits
    is_near = (gaps.max(axis=2) <= 1) & (found.labels[:, None] == own.labels)
    assert is_near.any(axis=0).all()
    assert is_near.any(axis=1).all()
    np.testing.assert_array_equal(np.sort(found.labels), np.sort(own.labels))


# ------------------------------------------------------------ hostile bytes

BASE = a_set(12)
CHANGE = pack_change(BASE, joined([moved(BASE, 0.01)[:9], a_set(3, seed=4)]), NUM_CLASSES)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header"),
        (b"\x02" + CHANGE[1:], "format 2"),
        (b"\x01\x0d" + CHANGE[2:], "13 prototypes, 12 are here"),
        (CHANGE[:5], "ends within its bits"),
        (CHANGE + b"\x00", "came"),
    ],
)
def test_what_is_no_change_of_the_base_is_refused(data, reason):
    with pytest.raises(PeerError, match=reason):
        unpack_change(data, BASE, NUM_CLASSES)


def test_every_cut_is_refused():
    for end in range(len(CHANGE)):
        with pytest.raises(PeerError):
            unpack_change(CHANGE[:end], BASE, NUM_CLASSES)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(CHANGE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_are_read_or_refused_as_the_peers_fault(changes):
    data = bytearray(CHANGE)
    for place, value in changes:
        data[place] = value
    try:
        found = unpack_change(bytes(data), BASE, NUM_CLASSES)
    except PeerError:
        return
    assert np.isfinite(found.vectors).all()
