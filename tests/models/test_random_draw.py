"""The replay of random draws against the draws themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import UserError
from models.random_draw import RandomDraw, first_ranked
from models.widths import WidthGroup, WidthPlan

PLAN = WidthPlan(groups=(WidthGroup("a", 5), WidthGroup("b", 130)), axes={}, values={})
WORDS = st.builds(lambda upper, lower: (upper << 32) + lower, st.integers(0, 2), st.integers(0, 2))
VECTORS = st.tuples(st.integers(1, 5), st.integers(1, 130))


def marks(subnet):
    kept = [
        np.isin(np.arange(group.num_channels), channels)
        for group, channels in zip(PLAN.groups, subnet.kept, strict=True)
    ]
    return np.concatenate(kept)


@settings(deadline=None, max_examples=50)
@given(
    vectors=st.lists(st.one_of(st.just((5, 130)), VECTORS), min_size=1, max_size=6),
    seed=st.integers(0, 2**64 - 1),
    first_step=st.integers(0, 2**63),
)
def test_a_replay_keeps_what_every_mini_batch_kept(vectors, seed, first_step):
    draw = RandomDraw(PLAN, seed)
    expected = [marks(draw(vector, first_step + row)) for row, vector in enumerate(vectors)]
    np.testing.assert_array_equal(draw.replay(vectors, first_step), expected)


@given(
    words=st.lists(st.lists(WORDS, min_size=6, max_size=6), min_size=1, max_size=4),
    num_first=st.integers(1, 6),
)
def test_the_smallest_words_are_kept_and_of_equal_ones_the_first(words, num_first):
    found = first_ranked(np.array(words, np.uint64), np.full(len(words), num_first))
    for row, is_first in zip(words, found, strict=True):
        order = sorted(range(6), key=lambda column: row[column])  # a stable sort
        assert sorted(np.flatnonzero(is_first)) == sorted(order[:num_first])


def test_a_vector_that_does_not_fit_is_refused():
    with pytest.raises(UserError):
        RandomDraw(PLAN, 0).replay([(5, 131)], 0)
