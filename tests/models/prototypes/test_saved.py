from __future__ import annotations

import numpy as np
import pytest

from models.prototypes import saved


def test_a_copy_does_not_change_with_what_it_was_taken_of():
    live = {"a": np.array([1.0])}
    copy = saved.copied(live)
    live["a"][0] = 2.0
    assert copy["a"].tolist() == [1.0]
    saved.copy_back(live, copy)
    assert live["a"].tolist() == [1.0]


def test_parts_keep_their_names_apart():
    found = saved.joined({"x": {"a": np.zeros(1)}, "y": {"a": np.ones(1)}})
    assert {name: array.tolist() for name, array in found.items()} == {"x.a": [0], "y.a": [1]}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "no 'a'"),
        ({"a": np.zeros(3)}, "other settings"),
        ({"a": np.zeros(2, np.float32)}, "float32"),
        ({"a": np.array([0.0, np.inf])}, "not finite"),
    ],
)
def test_arrays_of_another_learner_are_refused(found, message):
    with pytest.raises(ValueError, match=message):
        saved.check({"a": np.zeros(2)}, found)


def test_numbers_that_point_nowhere_are_refused():
    saved.check_range({"a": np.array([0, 3])}, "a", 0, 3)
    with pytest.raises(ValueError, match="not 0 to 2"):
        saved.check_range({"a": np.array([0, 3])}, "a", 0, 2)
