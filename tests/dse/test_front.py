"""The Pareto front and the table made of it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.front import Measurement, as_point, does_good, pareto_front, pareto_layers, table_entries

THREE = ("cost", "memory", "progress")


def measured(vector, macs, *stage_gains, memory=100, cost=None):
    return Measurement(vector, macs, memory, macs if cost is None else cost, stage_gains)


gains = st.integers(-5, 10).map(lambda tenth: tenth / 10)
measurements = st.lists(
    st.builds(
        Measurement,
        vector=st.tuples(st.integers(1, 8), st.integers(1, 8)),
        macs=st.integers(1, 20),
        memory_bytes=st.integers(1, 4),
        cost=st.integers(1, 20),
        stage_gains=st.tuples(gains, gains),
    ),
    max_size=12,
)
FULL = Measurement((9, 9), 21, 9, 21.0, (0.6, 0.4))


def beats(one, other, objectives):
    ours, theirs = as_point(one, objectives), as_point(other, objectives)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


@given(found=measurements, objectives=st.sampled_from([("cost", "progress"), THREE]))
def test_no_entry_of_the_front_is_beaten_by_any_measurement(found, objectives):
    front = pareto_front(found, objectives)
    assert not any(beats(other, one, objectives) for one in front for other in found)


@given(found=measurements, objectives=st.sampled_from([("cost", "progress"), THREE]))
def test_every_measurement_is_beaten_or_equalled_by_the_front(found, objectives):
    front = pareto_front(found, objectives)
    for one in found:
        assert any(
            beats(kept, one, objectives) or as_point(kept, objectives) == as_point(one, objectives)
            for kept in front
        )


@given(found=measurements)
def test_layers_are_fronts_of_what_earlier_fronts_left(found):
    first = pareto_front(found)
    second = pareto_front([one for one in found if one not in first])
    assert sorted(pareto_layers(found, 2)) == sorted(first + second)


@given(found=measurements)
def test_the_front_does_not_depend_on_the_order_of_measuring(found):
    assert pareto_front(found) == pareto_front(reversed(found))


@given(found=measurements, objectives=st.sampled_from([("cost", "progress"), THREE]))
def test_a_table_rises_in_macs_and_ends_with_the_full_vector_as_the_best(found, objectives):
    entries = table_entries(found, FULL, objectives)
    assert entries[-1].vector == FULL.vector
    assert entries[-1].progress == max(entry.progress for entry in entries)
    assert all(before.macs <= after.macs for before, after in pairwise(entries))


def test_with_macs_for_cost_progress_rises_along_the_table():
    found = [measured((1, 1), 5, 0.2, 0.2), measured((2, 2), 6, 0.1, 0.1), measured((3, 3), 7, 0.3, 0.3)]
    assert [entry.vector for entry in table_entries(found, FULL)] == [(1, 1), (3, 3), (9, 9)]


def test_a_vector_that_takes_less_memory_stays_where_memory_is_an_objective():
    found = [measured((1, 4), 5, 0.3, 0.3, memory=8), measured((4, 1), 5, 0.2, 0.2, memory=3)]
    assert [entry.vector for entry in table_entries(found, FULL)] == [(1, 4), (9, 9)]
    assert [entry.vector for entry in table_entries(found, FULL, THREE)] == [(1, 4), (4, 1), (9, 9)]


def test_a_cheaper_vector_in_seconds_stays_though_it_takes_more_macs():
    found = [measured((1, 4), 5, 0.3, 0.3, cost=2.0), measured((4, 1), 6, 0.2, 0.2, cost=1.0)]
    assert len(table_entries(found, FULL._replace(cost=9.0))) == 3


@pytest.mark.parametrize(
    ("stage_gains", "good"),
    [
        ((0.07, 0.05), True),
        ((0.05, 0.05), False),  # less than a tenth of what the full network gains at the first stage
        ((0.5, -0.01), False),  # it harms a trained network
        ((-0.01, 0.5), False),  # it harms a young one
    ],
)
def test_a_vector_must_do_measurable_good_at_every_stage(stage_gains, good):
    assert does_good(measured((1, 1), 5, *stage_gains), FULL) is good


def test_a_stage_at_which_the_full_network_gains_nothing_tells_nothing():
    assert does_good(measured((1, 1), 5, 0.1, -0.01), FULL._replace(stage_gains=(0.6, -0.02)))


def test_a_vector_that_does_no_good_is_not_in_the_table():
    entries = table_entries([measured((1, 1), 1, 0.5, -0.1), measured((2, 2), 2, 0.1, 0.1)], FULL)
    assert [entry.vector for entry in entries] == [(2, 2), (9, 9)]


def test_the_full_vector_stays_last_where_noise_put_a_cheaper_one_above():
    lucky = measured((5, 5), 10, 0.7, 0.6)
    entries = table_entries([lucky, FULL], FULL)
    assert [entry.vector for entry in entries] == [(5, 5), (9, 9)]
    assert entries[1].progress > entries[0].progress
