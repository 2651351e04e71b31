"""The Pareto front and the table made of it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dse.front import Measurement, pareto_front, pareto_layers, table_entries

measurements = st.lists(
    st.builds(
        Measurement,
        vector=st.tuples(st.integers(1, 8), st.integers(1, 8)),
        macs=st.integers(1, 20),
        gain=st.integers(-5, 10).map(lambda tenth: tenth / 10),
    ),
    max_size=30,
)
FULL = Measurement((9, 9), 21, 0.5)


def beats(one, other):
    return (
        one.macs <= other.macs and one.gain >= other.gain and (one.macs, one.gain) != (other.macs, other.gain)
    )


@given(found=measurements)
def test_no_entry_of_the_front_is_beaten_by_any_measurement(found):
    assert not any(beats(other, one) for one in pareto_front(found) for other in found)


@given(found=measurements)
def test_every_measurement_is_beaten_or_equalled_by_the_front(found):
    front = pareto_front(found)
    for one in found:
        assert any(kept.macs <= one.macs and kept.gain >= one.gain for kept in front)


@given(found=measurements)
def test_layers_are_fronts_of_what_earlier_fronts_left(found):
    first = pareto_front(found)
    second = pareto_front([one for one in found if one not in first])
    assert sorted(pareto_layers(found, 2)) == sorted(first + second)


@given(found=measurements)
def test_the_front_does_not_depend_on_the_order_of_measuring(found):
    assert pareto_front(found) == pareto_front(reversed(found))


@given(found=measurements)
def test_a_table_rises_in_macs_and_progress_and_ends_with_the_full_vector(found):
    entries = table_entries(found, FULL, sum)
    assert entries[-1].vector == FULL.vector
    for before, after in pairwise(entries):
        assert before.macs < after.macs
        assert before.progress < after.progress


@given(found=measurements)
def test_a_vector_no_better_than_not_training_is_not_in_the_table(found):
    entries = table_entries(found, FULL, sum)
    assert all(entry.progress > 0 for entry in entries)


def test_a_vector_that_gains_next_to_nothing_is_taken_for_one_that_does_not_train():
    entries = table_entries([Measurement((1, 1), 1, 0.04), Measurement((2, 2), 2, 0.06)], FULL, sum)
    assert [entry.vector for entry in entries] == [(2, 2), (9, 9)]


def test_the_full_vector_stays_last_where_noise_put_a_cheaper_one_above():
    lucky = Measurement((5, 5), 10, 0.6)
    entries = table_entries([lucky, FULL], FULL, sum)
    assert [entry.vector for entry in entries] == [(5, 5), (9, 9)]
    assert entries[1].progress > entries[0].progress


def test_memory_is_that_of_the_vector():
    entries = table_entries([], FULL, lambda vector: 100 * sum(vector))
    assert [entry.memory_bytes for entry in entries] == [1800]
