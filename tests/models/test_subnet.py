"""Sampling, cut and scatter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import UserError
from models.subnet import (
    check_vector,
    cut,
    full_subnet,
    full_vector,
    kept_indices,
    ordered_subnet,
    sample,
    scatter,
    uniform_vector,
)
from models.widths import Segment, WidthGroup, WidthPlan, plan_widths
from models.zoo import ZOO, initial_weights, load_model

PLANS = {name: (graph := load_model(name)[0], plan_widths(graph)) for name in ZOO}
SMALL = [name for name in ZOO if name != "vgg-8"]


def drawn(data, plan):
    return tuple(data.draw(st.integers(1, group.num_channels)) for group in plan.groups)


def numbered(graph):
    """Weights whose entries are all different."""
    shapes = {**graph.parameters, **graph.statistics}
    return {key: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for key, shape in shapes.items()}


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(SMALL), data=st.data(), seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40)
)
def test_a_cut_takes_exactly_the_kept_entries_of_every_axis(name, data, seed, step):
    graph, plan = PLANS[name]
    weights = numbered(graph)
    subnet = sample(plan, drawn(data, plan), seed, step)
    for key, sub in cut(plan, weights, subnet).items():
        expected = weights[key]
        for axis, kept in enumerate(kept_indices(plan, key, subnet)):
            expected = expected if kept is None else np.take(expected, kept, axis)
        np.testing.assert_array_equal(sub, expected)
        assert sub.flags.c_contiguous
        assert not np.shares_memory(sub, weights[key])


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(SMALL), data=st.data(), seed=st.integers(0, 1000))
def test_scattering_what_was_cut_changes_nothing(name, data, seed):
    graph, plan = PLANS[name]
    weights = numbered(graph)
    subnet = sample(plan, drawn(data, plan), seed, 0)
    after = {key: array.copy() for key, array in weights.items()}
    scatter(plan, after, cut(plan, weights, subnet), subnet)
    for key, array in weights.items():
        np.testing.assert_array_equal(after[key], array)


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(SMALL), data=st.data(), seed=st.integers(0, 1000))
def test_cutting_what_was_scattered_gives_it_back_and_the_rest_stays(name, data, seed):
    graph, plan = PLANS[name]
    weights = {key: np.zeros(shape, np.float32) for key, shape in graph.parameters.items()}
    subnet = sample(plan, drawn(data, plan), seed, 1)
    sub = {key: 1 + np.arange(array.size, dtype=np.float32).reshape(array.shape)
           for key, array in cut(plan, weights, subnet).items()}  # fmt: skip
    scatter(plan, weights, sub, subnet)
    for key, array in cut(plan, weights, subnet).items():
        np.testing.assert_array_equal(array, sub[key])
        assert np.count_nonzero(weights[key]) == array.size


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(list(ZOO)),
    data=st.data(),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**64 - 1),
)
def test_a_sample_keeps_as_many_channels_as_the_vector_says(name, data, seed, step):
    _, plan = PLANS[name]
    vector = drawn(data, plan)
    for kept, count, group in zip(sample(plan, vector, seed, step).kept, vector, plan.groups, strict=True):
        assert len(set(kept.tolist())) == count
        assert kept.tolist() == sorted(kept.tolist())
        assert 0 <= kept[0] <= kept[-1] < group.num_channels


def test_a_sample_is_the_same_everywhere_and_for_ever():
    plan = WidthPlan((WidthGroup("a", 8), WidthGroup("b", 5)), {}, {})
    kept = [indices.tolist() for indices in sample(plan, (3, 2), seed=7, step=11).kept]
    # ranks of the raw words of Philox4x64-10 with key (7, 11)
    words = np.random.Philox(key=[7, 11]).random_raw(13)
    ranked = sorted(range(8), key=lambda i: words[i])[:3], sorted(range(5), key=lambda i: words[8 + i])[:2]
    assert kept == [sorted(ranks) for ranks in ranked]
    assert kept == [[1, 3, 4], [0, 2]]


def test_samples_of_other_steps_and_seeds_differ():
    _, plan = PLANS["cnn-28"]
    vector = uniform_vector(plan, 0.5)
    draws = {
        tuple(np.concatenate(sample(plan, vector, seed, step).kept)) for seed in range(4) for step in range(4)
    }
    assert len(draws) == 16


def test_every_channel_is_kept_equally_often():
    plan = WidthPlan((WidthGroup("a", 8),), {}, {})
    counts = np.zeros(8)
    for step in range(2000):
        counts[sample(plan, (2,), 0, step).kept[0]] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 0.05  # 5 standard deviations


def test_the_full_vector_keeps_everything():
    graph, plan = PLANS["resnet-20"]
    weights = initial_weights(graph, 0)
    for subnet in (full_subnet(plan), sample(plan, full_vector(plan), 1, 2)):
        for key, array in cut(plan, weights, subnet).items():
            np.testing.assert_array_equal(array, weights[key])


def test_segments_of_different_repeats_are_cut_side_by_side():
    groups = (WidthGroup("a", 3), WidthGroup("b", 2))
    axis = (Segment(0, 3, 4), Segment(None, 1, 1), Segment(1, 2, 6))
    plan = WidthPlan(groups, {"w": ((Segment(None, 2),), axis)}, {})
    weights = {"w": np.arange(2 * 25, dtype=np.float32).reshape(2, 25)}
    subnet = ordered_subnet(plan, (1, 1))
    kept = [0, 1, 2, 3, 12, 13, 14, 15, 16, 17, 18]
    np.testing.assert_array_equal(cut(plan, weights, subnet)["w"], weights["w"][:, kept])


@pytest.mark.parametrize("vector", [(), (1, 1, 1, 1), (0, 1, 1), (1, 65, 1), (1.0, 1, 1), (True, 1, 1)])
def test_a_vector_that_does_not_fit_is_refused(vector):
    with pytest.raises(UserError, match="vector"):
        check_vector(PLANS["cnn-28"][1], vector)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.01, float("nan")])
def test_a_keep_fraction_outside_its_range_is_refused(keep):
    with pytest.raises(UserError, match="keep"):
        uniform_vector(PLANS["cnn-28"][1], keep)


def test_a_tensor_of_another_shape_is_not_scattered():
    graph, plan = PLANS["cnn-28"]
    weights = initial_weights(graph, 0)
    subnet = ordered_subnet(plan, uniform_vector(plan, 0.5))
    sub = cut(plan, weights, subnet)
    sub["0.weight"] = sub["0.weight"][:-1]
    with pytest.raises(ValueError, match=r"0\.weight"):
        scatter(plan, weights, sub, subnet)
