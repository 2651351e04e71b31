"""Which channels each draw keeps, in numbers small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.draws import core_sample, importance_ranking, make_draw, portable_fraction
from models.subnet import full_vector, sample
from models.subnet_settings import SubnetSettings
from models.widths import Segment, WidthGroup, WidthPlan

# a -> b through a convolution, b -> b through a depthwise one; a bias and what nobody drops beside them.
PLAN = WidthPlan(
    groups=(WidthGroup("a", 4), WidthGroup("b", 3)),
    axes={
        "a.weight": ((Segment(0, 4),), (Segment(None, 1),)),
        "a.bias": ((Segment(0, 4),),),
        "b.weight": ((Segment(1, 3),), (Segment(0, 4),)),
        "depthwise.weight": ((Segment(1, 3),), (Segment(None, 1),)),
        "classes.weight": ((Segment(None, 2),), (Segment(1, 3),)),
    },
    values={},
)
WEIGHTS = {
    "a.weight": np.array([[1.0], [-3.0], [2.0], [-3.0]], np.float32),
    "a.bias": np.array([100.0, 0, 0, 0], np.float32),
    "b.weight": np.array([[1, 1, 1, 1], [0, 0, 0, 1], [0, 1.5, 0, 0]], np.float32),
    "depthwise.weight": np.array([[0.0], [3.0], [0.0]], np.float32),
    "classes.weight": np.array([[9, 0, 0], [9, 0, 0]], np.float32),
}


def kept(draw, vector, step=0):
    return [channels.tolist() for channels in draw(vector, step).kept]


def make(seed=5, round_number=1, weights=None, **settings):
    return make_draw(SubnetSettings(**settings), PLAN, seed=seed, round_number=round_number, weights=weights)


@pytest.mark.parametrize("step", [0, 1, 7])
def test_the_random_draw_is_the_sample_that_it_always_was(step):
    assert kept(make(), (2, 1), step) == [c.tolist() for c in sample(PLAN, (2, 1), 5, step).kept]


def test_the_random_draw_per_order_is_the_same_at_every_mini_batch_and_another_for_another_order():
    draw = make(draw="random-per-order")
    assert kept(draw, (2, 1), 0) == kept(draw, (2, 1), 9)
    drawn = {str(kept(make(seed=seed, draw="random-per-order"), (2, 1))) for seed in range(20)}
    assert len(drawn) > 5


def test_the_ordered_draw_keeps_the_first_channels():
    assert kept(make(draw="ordered"), (3, 1)) == [[0, 1, 2], [0]]


def test_the_rolling_window_moves_on_by_one_a_round_and_wraps_round():
    found = [kept(make(draw="rolling", round_number=number), (2, 2))[0] for number in range(1, 6)]
    assert found == [[0, 1], [1, 2], [2, 3], [0, 3], [0, 1]]


def test_over_as_many_rounds_as_channels_the_window_keeps_each_equally_often():
    counts = np.zeros(4)
    for number in range(1, 5):
        counts[kept(make(draw="rolling", round_number=number), (3, 1))[0]] += 1
    assert counts.tolist() == [3, 3, 3, 3]


def test_importance_ranks_channels_by_the_norm_of_the_filters_that_make_them():
    # a: norms 1, 3, 2, 3, equal ones by index. b: 4 + 0, 1 + 9, 2.25 + 0 squared, no biases, no readers.
    assert [ranked.tolist() for ranked in importance_ranking(PLAN, WEIGHTS)] == [[1, 3, 2, 0], [1, 0, 2]]


def test_importance_keeps_the_most_important_channels_in_their_order():
    draw = make(draw="importance", weights=WEIGHTS)
    assert kept(draw, (2, 1)) == [[1, 3], [1]]
    assert kept(draw, (3, 2)) == [[1, 2, 3], [0, 1]]


def test_importance_does_not_depend_on_the_order_in_which_squares_are_added():
    rng = np.random.default_rng(1)
    filters = rng.normal(size=1000).astype(np.float32)
    weights = {**WEIGHTS, "a.weight": np.stack([rng.permutation(filters) for _ in range(4)])}
    assert importance_ranking(PLAN, weights)[0].tolist() == [0, 1, 2, 3]


def test_importance_without_weights_is_our_own_fault():
    with pytest.raises(ValueError, match="weights"):
        make(draw="importance")


def test_the_core_is_always_the_first_channels_and_the_rest_is_drawn():
    draw = make(draw="random", core_fraction=0.5)
    found = [kept(draw, (2, 2), step) for step in range(40)]
    assert all(a[0] == 0 and b[0] == 0 for a, b in found)
    assert {a[1] for a, _ in found} == {1, 2, 3}
    assert {b[1] for _, b in found} == {1, 2}


@settings(deadline=None, max_examples=50)
@given(
    vector=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    core=st.floats(0, 1),
    seed=st.integers(0, 2**48),
    step=st.integers(0, 10**6),
)
def test_a_draw_with_a_core_keeps_as_many_as_the_vector_says(vector, core, seed, step):
    for channels, count, group in zip(
        core_sample(PLAN, vector, seed, step, core).kept, vector, PLAN.groups, strict=True
    ):
        assert channels.tolist() == sorted(set(channels.tolist()))
        assert len(channels) == count
        assert channels[-1] < group.num_channels


@pytest.mark.parametrize("draw", ["random", "random-per-order", "ordered", "rolling", "importance"])
def test_the_full_vector_keeps_everything_in_every_draw(draw):
    full = make(draw=draw, weights=WEIGHTS, round_number=3)
    assert kept(full, full_vector(PLAN)) == [[0, 1, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("draw", ["random-per-order", "ordered", "importance"])
def test_of_two_widths_of_an_order_the_narrower_lies_in_the_wider(draw):
    made = make(draw=draw, weights=WEIGHTS)
    for narrow, wide in zip(kept(made, (2, 1)), kept(made, (3, 2)), strict=True):
        assert set(narrow) <= set(wide)


def test_a_portable_fraction_is_the_same_for_ever_and_even():
    assert portable_fraction("width", 1, 2) == 0.23986115972314637
    values = [portable_fraction("sandwich", 3, step) for step in range(2000)]
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
    assert abs(np.mean(values) - 0.5) < 0.03
