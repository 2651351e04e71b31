from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import PeerError
from models.prototypes.deltas import NumberedSet, applied, delta, version_of
from models.prototypes.prototype_set import of_samples

SERIALS = st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=20)
FEW_SERIALS = st.lists(st.integers(0, 30), unique=True, max_size=20)


def serials_of(*serials):
    return np.array(serials, np.uint32)


def numbered(*serials, epoch=1):
    """Prototypes that are functions of their serials."""
    values = np.array(serials, np.uint32)
    return NumberedSet(epoch, values, of_samples(values[:, None] * [[1, 2]], values.astype(np.int64) % 3))


def content(one):
    return {
        int(serial): (vector.tolist(), int(label))
        for serial, vector, label in zip(
            one.serials, one.prototypes.vectors, one.prototypes.labels, strict=True
        )
    }


@given(st.one_of(SERIALS, FEW_SERIALS), FEW_SERIALS)
@settings(max_examples=50, derandomize=True)
def test_a_delta_makes_the_senders_set_of_the_acknowledged_one(now, before):
    own, held = numbered(*now), numbered(*before)
    found = applied(held, delta(own, held.serials))
    assert content(found) == content(own)
    assert found.version() == own.version()


@given(FEW_SERIALS, FEW_SERIALS)
@settings(max_examples=50, derandomize=True)
def test_only_what_is_new_travels(now, before):
    change = delta(numbered(*now), serials_of(*before))
    assert sorted(change.added.serials.tolist()) == sorted(set(now) - set(before))
    assert change.dropped.tolist() == sorted(set(before) - set(now))


@given(FEW_SERIALS, FEW_SERIALS, FEW_SERIALS)
@settings(max_examples=50, derandomize=True)
def test_a_receiver_without_the_base_refuses(now, before, held):
    change = delta(numbered(*now), serials_of(*before))
    if set(held) == set(before):
        return
    with pytest.raises(PeerError, match="ask for the whole"):
        applied(numbered(*held), change)


def test_the_whole_is_taken_by_anyone():
    own = numbered(4, 5, 6)
    for held in (None, numbered(), numbered(1, 5), numbered(4, epoch=9)):
        assert content(applied(held, delta(own, None))) == content(own)


def test_a_receiver_that_holds_nothing_refuses_a_change():
    with pytest.raises(PeerError, match="nothing is held: ask for the whole"):
        applied(None, delta(numbered(1, 2), serials_of(1)))


def test_a_change_of_another_epoch_is_refused():
    with pytest.raises(PeerError, match="ask for the whole"):
        applied(numbered(1, epoch=1), delta(numbered(1, 2, epoch=2), serials_of(1)))


def test_a_version_depends_on_epoch_and_serials_and_not_on_their_order():
    assert version_of(1, serials_of(3, 1, 2)) == version_of(1, serials_of(1, 2, 3))
    assert version_of(1, serials_of(1, 2)) != version_of(2, serials_of(1, 2))
    assert version_of(1, serials_of(1, 2)) != version_of(1, serials_of(1, 3))
    assert 0 <= version_of(2**64 - 1, serials_of()) < 2**48


def test_claims_that_do_not_add_up_are_refused():
    held = numbered(1, 2)
    change = delta(numbered(2, 3), held.serials)
    with pytest.raises(PeerError, match="0 are held"):
        applied(held, replace(change, dropped=serials_of(7)))
    with pytest.raises(PeerError, match="held already"):
        applied(held, replace(change, added=numbered(2)))
    with pytest.raises(PeerError, match="were to make"):
        applied(held, replace(change, added=numbered(8)))


def test_each_prototype_needs_a_serial_of_its_own():
    with pytest.raises(ValueError, match="needs its own"):
        numbered(1, 1)
    with pytest.raises(ValueError, match="needs its own"):
        NumberedSet(1, serials_of(1), numbered(1, 2).prototypes)
