"""The hypervolume against areas counted by hand, cell by cell, and against Optuna's."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.hypervolume import dominated_volume, hypervolume, running_hypervolume

SIDE = 6
REFERENCE = (SIDE, 0)
points = st.lists(st.tuples(st.integers(-1, SIDE + 1), st.integers(-1, SIDE + 1)), max_size=12)


def unit_cells(found):
    """The area as a count of unit squares, each dominated by some point or by none."""
    top = SIDE + 1
    return sum(
        any(cost <= x and gain >= y + 1 for cost, gain in found) for x in range(-1, SIDE) for y in range(top)
    )


@given(found=points)
def test_the_area_is_that_of_the_dominated_cells(found):
    assert hypervolume(found, REFERENCE) == unit_cells(found)


@given(found=points, more=points)
def test_more_points_never_lower_it(found, more):
    assert hypervolume(found + more, REFERENCE) >= hypervolume(found, REFERENCE)


@given(found=points)
def test_the_order_of_the_points_does_not_matter(found):
    assert hypervolume(found[::-1], REFERENCE) == hypervolume(found, REFERENCE)


@given(found=points)
def test_the_running_one_is_that_of_the_first_points(found):
    expected = [hypervolume(found[: end + 1], REFERENCE) for end in range(len(found))]
    assert running_hypervolume(found, REFERENCE) == expected


def test_two_points_dominate_an_area_counted_by_hand():
    # (1, 2) spans 3 x 2, (3, 5) adds 1 x 3 above it.
    assert hypervolume([(1, 2), (3, 5)], (4, 0)) == 3 * 2 + 1 * 3


@pytest.mark.parametrize("found", [[], [(4, 5)], [(1, 0)], [(9, -1)]])
def test_points_no_better_than_the_reference_count_nothing(found):
    assert hypervolume(found, (4, 0)) == 0


@given(found=st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=10))
def test_three_objectives_dominate_the_cells_that_they_do(found):
    cells = sum(
        any(all(value <= low for value, low in zip(point, cell, strict=True)) for point in found)
        for cell in product(range(4), repeat=3)
    )
    assert dominated_volume(found, (4, 4, 4)) == cells


def test_it_agrees_with_optunas():
    from optuna._hypervolume import compute_hypervolume

    rng = np.random.default_rng(0)
    for num_objectives in (2, 3):
        found = rng.random((40, num_objectives))
        reference = np.full(num_objectives, 1.1)
        ours = dominated_volume(found.tolist(), reference.tolist())
        assert ours == pytest.approx(compute_hypervolume(found, reference))
