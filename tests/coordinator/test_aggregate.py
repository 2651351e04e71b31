"""Aggregation against a dense brute-force reference, and its promises one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregate import Aggregator
from coordinator.strategies.averages import AverageSettings
from firmware_profiles.errors import PeerError
from models.subnet import Subnet
from models.widths import Segment, WidthGroup, WidthPlan

# A convolution chain, a grouped sum in the middle and a flatten with 4 entries a channel.
PLAN = WidthPlan(
    groups=(WidthGroup("a", 3), WidthGroup("b", 4)),
    axes={
        "conv1.weight": ((Segment(0, 3),), (Segment(None, 1),), (Segment(None, 2),)),
        "conv1.bias": ((Segment(0, 3),),),
        "conv2.weight": ((Segment(1, 4),), (Segment(0, 3),), (Segment(None, 2),)),
        "depthwise.weight": ((Segment(1, 4),), (Segment(None, 1),)),
        "joined.weight": ((Segment(0, 3),), (Segment(0, 3), Segment(None, 2), Segment(1, 4))),
        "linear.weight": ((Segment(None, 5),), (Segment(1, 4, 4),)),
        "linear.bias": ((Segment(None, 5),),),
        "triple": ((Segment(0, 3),), (Segment(1, 4),), (Segment(0, 3),)),
        "scale": (),
    },
    values={},
)
SHAPES = {
    name: tuple(sum(s.num_channels * s.repeat for s in segments) for segments in axes)
    for name, axes in PLAN.axes.items()
}
FULL = (3, 4)


def draw(plan, vector, seed, step):
    """A stand-in for the draw of the devices."""
    generator = np.random.default_rng((seed, step))
    return Subnet(
        tuple(
            np.sort(generator.permutation(g.num_channels)[:k])
            for g, k in zip(plan.groups, vector, strict=True)
        )
    )


def draw_of(seed, _round_number):
    """The stand-in as an aggregator wants it."""
    return lambda vector, step: draw(PLAN, vector, seed, step)


def tensors(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {name: (generator.normal(size=shape) * scale).astype(np.float32) for name, shape in SHAPES.items()}


def touch_mask(name, subnet):
    """1 where the sub-network holds an entry: dense, entry by entry."""
    mask = np.ones(SHAPES[name])
    for axis, segments in enumerate(PLAN.axes[name]):
        along = []
        for segment in segments:
            for channel in range(segment.num_channels):
                held = segment.group is None or channel in subnet.kept[segment.group]
                along += [float(held)] * segment.repeat
        shape = [1] * mask.ndim
        shape[axis] = len(along)
        mask = mask * np.array(along).reshape(shape)
    return mask


def share_of_steps(name, vectors, step_vectors, seed):
    masks = [touch_mask(name, draw(PLAN, vectors[v], seed, step)) for step, v in enumerate(step_vectors)]
    return np.mean(masks, axis=0)


def brute_force(base, updates, cap=8.0):
    new = {}
    for name in base:
        total, divisor, amount = 0.0, 0.0, 0.0
        for u in updates:
            share = share_of_steps(name, u["vectors"], u["step_vectors"], u["seed"])
            n = u["num_samples"] * u.get("weight", 1.0)
            total = total + n * np.where(share > 0, u["delta"][name].astype(np.float64), 0)
            divisor = divisor + n * share
            amount += n
        moved = total / np.maximum(divisor, amount / cap)
        new[name] = (base[name] + np.where(np.asarray(divisor) > 0, moved, 0)).astype(np.float32)
    return new


def aggregate(base, updates, cap=8.0):
    aggregator = Aggregator(PLAN, base, AverageSettings(cap=cap), draw_of)
    for update in updates:
        aggregator.fold(**update)
    return aggregator.finish()


VECTORS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3)


@st.composite
def an_update(draw_from):
    vectors = draw_from(VECTORS)
    steps = draw_from(st.lists(st.integers(0, len(vectors) - 1), min_size=1, max_size=12))
    return {
        "delta": tensors(draw_from(st.integers(0, 2**32 - 1)), 0.1),
        "num_samples": draw_from(st.integers(1, 1000)),
        "vectors": vectors,
        "step_vectors": steps,
        "seed": draw_from(st.integers(0, 2**53)),
        "weight": draw_from(st.floats(0.01, 4.0)),
    }


UPDATES = st.lists(an_update(), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(updates=UPDATES, cap=st.sampled_from([1.0, 2.0, 8.0]))
def test_it_agrees_with_a_dense_brute_force_reference(updates, cap):
    base = tensors(1)
    new, expected = aggregate(base, updates, cap), brute_force(base, updates, cap)
    for name in base:
        np.testing.assert_allclose(new[name], expected[name], rtol=1e-6, atol=1e-6)
        assert new[name].dtype == np.float32


@settings(deadline=None, max_examples=25)
@given(updates=UPDATES, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_folding_does_not_matter(updates, shuffle):
    base = tensors(1)
    other = list(updates)
    shuffle.shuffle(other)
    one, two = aggregate(base, updates), aggregate(base, other)
    for name in base:  # to a few float32 roundings of the deltas, which by-steps raises up to 8 times
        np.testing.assert_allclose(one[name], two[name], rtol=2e-7, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(update=an_update(), times=st.integers(2, 5))
def test_identical_updates_act_like_one(update, times):
    base = tensors(1)
    one, many = aggregate(base, [update]), aggregate(base, [update] * times)
    for name in base:  # to roundings as above
        np.testing.assert_allclose(one[name], many[name], rtol=2e-7, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 7)), min_size=1, max_size=4))
def test_full_updates_are_averaged_by_samples_to_a_few_roundings(sizes):
    base = tensors(1)
    deltas = [tensors(10 + i, 0.1) for i in range(len(sizes))]
    updates = [
        {"delta": d, "num_samples": n, "vectors": [FULL], "step_vectors": [0] * steps, "seed": 3}
        for d, (n, steps) in zip(deltas, sizes, strict=True)
    ]
    new = aggregate(base, updates)
    for name in base:
        total = sum(n * d[name].astype(np.float64) for d, (n, _) in zip(deltas, sizes, strict=True))
        expected = (base[name] + total / sum(n for n, _ in sizes)).astype(np.float32)
        # A few updates at a time are summed in float32: to a few roundings of the deltas, which are under 1.
        np.testing.assert_allclose(new[name], expected, rtol=2**-23, atol=1e-7)


def test_a_single_full_update_moves_the_weights_by_exactly_its_delta():
    base, delta = tensors(1), tensors(2, 1e-3)
    new = aggregate(
        base, [{"delta": delta, "num_samples": 4999, "vectors": [FULL], "step_vectors": [0] * 7, "seed": 1}]
    )
    for name in base:
        np.testing.assert_array_equal(new[name], base[name] + delta[name])


def fixed_draw(*kept_by_step):
    return lambda _seed, _round: lambda _vector, step: Subnet(tuple(np.array(k) for k in kept_by_step[step]))


def ones_like_base(base, value=1.0):
    return {name: np.full(tensor.shape, value, np.float32) for name, tensor in base.items()}


def test_untouched_entries_keep_their_value_whatever_the_delta_says():
    base = tensors(1)
    aggregator = Aggregator(PLAN, base, draw=fixed_draw(((0, 2), (1, 2, 3))))
    aggregator.fold(ones_like_base(base), 10, [(2, 3)], [0], seed=0)
    new = aggregator.finish()
    np.testing.assert_array_equal(new["conv1.bias"] - base["conv1.bias"] != 0, [True, False, True])
    np.testing.assert_array_equal(new["conv2.weight"][0], base["conv2.weight"][0])
    np.testing.assert_array_equal(new["conv2.weight"][:, 1], base["conv2.weight"][:, 1])
    np.testing.assert_array_equal(new["linear.weight"][:, :4], base["linear.weight"][:, :4])
    np.testing.assert_array_equal(new["linear.bias"], base["linear.bias"] + np.float32(1))


def test_an_entry_that_half_of_the_steps_trained_is_not_diluted():
    base = ones_like_base(tensors(1), 64.0)
    aggregator = Aggregator(PLAN, base, draw=fixed_draw(((0,), (0,)), ((1,), (0,))))
    aggregator.fold(ones_like_base(base), 10, [(1, 1)], [0, 0], seed=0)
    np.testing.assert_array_equal(aggregator.finish()["conv1.bias"], [66.0, 66.0, 64.0])


def test_rarely_trained_entries_are_raised_no_more_than_the_cap():
    base = ones_like_base(tensors(1), 64.0)
    steps = [((0,), (0,))] * 19 + [((1,), (0,))]
    aggregator = Aggregator(PLAN, base, AverageSettings(cap=4.0), fixed_draw(*steps))
    aggregator.fold(ones_like_base(base), 10, [(1, 1)], [0] * 20, seed=0)
    assert aggregator.finish()["conv1.bias"][1] == 68.0


def test_an_update_counts_only_for_what_it_trained():
    base = ones_like_base(tensors(1), 64.0)
    aggregator = Aggregator(PLAN, base, draw=fixed_draw(((0,), (0,))))
    aggregator.fold(ones_like_base(base, 1.0), 10, [FULL], [0], seed=0)
    aggregator.fold(ones_like_base(base, 4.0), 10, [(1, 1)], [0], seed=0)
    np.testing.assert_array_equal(aggregator.finish()["conv1.bias"], [66.5, 65.0, 65.0])


def half_and_whole(base, **settings):
    """The bias, from 64, after a full update of 30 samples moved it by 1 and a narrow one of 10 by 4."""
    aggregator = Aggregator(PLAN, base, AverageSettings(**settings), fixed_draw(((0,), (0,)), ((0,), (0,))))
    aggregator.fold(ones_like_base(base, 1.0), 30, [FULL], [0], seed=0, num_data=10)
    aggregator.fold(ones_like_base(base, 4.0), 10, [(1, 1)], [0, 0], seed=0, num_data=10)
    return aggregator.finish()["conv1.bias"].tolist()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [("touched", [65.75, 65.0, 65.0]), ("plain", [65.75, 65.75, 65.75]), ("by-steps", [65.75, 65.0, 65.0])],
)
def test_what_divides_an_entrys_deltas_is_a_setting(entries, expected):
    assert half_and_whole(ones_like_base(tensors(1), 64.0), entries=entries) == expected


def test_a_plain_average_is_diluted_by_updates_that_did_not_train_an_entry():
    base = ones_like_base(tensors(1), 64.0)
    aggregator = Aggregator(PLAN, base, AverageSettings(entries="plain"))
    delta = ones_like_base(base, 0.0)
    aggregator.fold(delta, 10, [FULL], [0], seed=0)
    delta["conv1.bias"][0] = 1.0
    aggregator.fold(delta, 10, [FULL], [0], seed=0)
    assert aggregator.finish()["conv1.bias"].tolist() == [64.5, 64.0, 64.0]


def test_touched_does_not_care_how_often():
    base = ones_like_base(tensors(1), 64.0)
    aggregator = Aggregator(
        PLAN, base, AverageSettings(entries="touched"), fixed_draw(((0,), (0,)), ((1,), (0,)), ((0,), (0,)))
    )
    aggregator.fold(ones_like_base(base), 10, [(1, 1)], [0, 0, 0], seed=0)
    assert aggregator.finish()["conv1.bias"].tolist() == [65.0, 65.0, 64.0]


@pytest.mark.parametrize(("weighting", "first"), [("samples", 65.75), ("data", 66.5), ("equal", 66.5)])
def test_what_an_update_weighs_is_a_setting(weighting, first):
    assert half_and_whole(ones_like_base(tensors(1), 64.0), weighting=weighting)[0] == first


@pytest.mark.parametrize(
    ("power", "moved"), [(0.0, 3.25), (1.0, 2.5 * (0.25 * 1 + 0.75 * 4 / 3)), (0.5, None)]
)
def test_step_normalisation_counts_every_update_as_the_mean_number_of_steps(power, moved):
    """FedNova by hand: shares .25 and .75, steps 1 and 3, deltas 1 and 4; mean steps .25 + .75 x 3 = 2.5."""
    base = ones_like_base(tensors(1), 64.0)
    aggregator = Aggregator(PLAN, base, AverageSettings(step_normalisation=power))
    aggregator.fold(ones_like_base(base, 1.0), 10, [FULL], [0], seed=0)
    aggregator.fold(ones_like_base(base, 4.0), 30, [FULL], [0] * 3, seed=0)
    if moved is None:
        moved = (0.25 + 0.75 * 3**0.5) * (0.25 * 1 + 0.75 * 4 / 3**0.5)
    np.testing.assert_allclose(aggregator.finish()["conv1.bias"] - 64, moved, rtol=1e-6)


def test_server_momentum_is_fedavgm_over_rounds():
    """v = m v + d, w = w + rate v, kept as the difference of two versions."""
    settings = AverageSettings(server_momentum=0.5, server_learning_rate=2.0)
    weights, before, velocity, expected = ones_like_base(tensors(1), 64.0), None, 0.0, 64.0
    for delta in (1.0, 0.0, 4.0):
        aggregator = Aggregator(PLAN, weights, settings)
        aggregator.fold(ones_like_base(weights, delta), 10, [FULL], [0], seed=0)
        weights, before = aggregator.finish(before), weights
        velocity = 0.5 * velocity + delta
        expected += 2.0 * velocity
        assert weights["conv1.bias"].tolist() == [expected] * 3


def test_without_server_momentum_the_version_before_does_not_matter():
    base = tensors(1)
    aggregator = Aggregator(PLAN, base)
    aggregator.fold(tensors(2), 10, [FULL], [0], seed=0)
    one, two = aggregator.finish(), aggregator.finish(tensors(3))
    assert all(np.array_equal(one[name], two[name]) for name in base)


def test_masked_classes_count_as_not_trained():
    base = ones_like_base(tensors(1), 64.0)
    aggregator = Aggregator(
        PLAN, base, AverageSettings(entries="touched"), class_names=("linear.weight", "linear.bias")
    )
    both, one = ones_like_base(base, 1.0), ones_like_base(base, 3.0)
    for name in ("linear.weight", "linear.bias"):
        one[name][2:] = 0.0
    aggregator.fold(both, 10, [FULL], [0], seed=0)
    aggregator.fold(one, 10, [FULL], [0], seed=0)
    new = aggregator.finish()
    assert new["linear.bias"].tolist() == [66.0, 66.0, 65.0, 65.0, 65.0]
    assert (new["linear.weight"] == new["linear.bias"][:, None]).all()
    assert (new["conv1.bias"] == 66.0).all()


def test_each_update_is_replayed_with_its_own_seed_and_round():
    asked = []

    def draw_of_order(seed, round_number):
        asked.append((seed, round_number))
        return draw_of(seed, round_number)

    aggregator = Aggregator(PLAN, tensors(1), draw=draw_of_order)
    aggregator.fold(tensors(2), 10, [(1, 1)], [0], seed=8, round_number=5)
    assert asked == [(8, 5)]


def test_long_updates_are_replayed_in_chunks_with_the_right_step_numbers():
    base = tensors(1)
    update = {
        "delta": tensors(2),
        "num_samples": 9,
        "vectors": [(1, 2)],
        "step_vectors": [0] * 1100,
        "seed": 5,
    }
    new, expected = aggregate(base, [update]), brute_force(base, [update])
    np.testing.assert_allclose(new["conv2.weight"], expected["conv2.weight"], rtol=1e-6)


def test_finishing_without_updates_gives_copies_of_the_weights():
    base = tensors(1)
    new = Aggregator(PLAN, base, draw=draw_of).finish()
    for name in base:
        np.testing.assert_array_equal(new[name], base[name])
        assert new[name] is not base[name]


def test_the_base_weights_are_not_modified():
    base = tensors(1)
    before = {name: tensor.copy() for name, tensor in base.items()}
    aggregate(
        base, [{"delta": tensors(2), "num_samples": 9, "vectors": [FULL], "step_vectors": [0], "seed": 5}]
    )
    for name in base:
        np.testing.assert_array_equal(base[name], before[name])


def with_value(value):
    delta = tensors(2)
    delta["conv1.bias"][1] = value
    return delta


GOOD = {"delta": tensors(2), "num_samples": 9, "vectors": [(2, 2)], "step_vectors": [0], "seed": 5}
HOSTILE = {
    "a missing tensor": {"delta": {k: v for k, v in tensors(2).items() if k != "scale"}},
    "an unknown tensor": {"delta": {**tensors(2), "more": np.zeros(3, np.float32)}},
    "a wrong shape": {"delta": {**tensors(2), "conv1.bias": np.zeros(4, np.float32)}},
    "a wrong dtype": {"delta": {**tensors(2), "conv1.bias": np.zeros(3)}},
    "NaN": {"delta": with_value(np.nan)},
    "infinity": {"delta": with_value(-np.inf)},
    "an absurd value": {"delta": with_value(3e38)},
    "no samples": {"num_samples": 0},
    "no steps": {"step_vectors": []},
    "a step beyond the vectors": {"step_vectors": [1]},
    "a negative step": {"step_vectors": [-1]},
    "a short vector": {"vectors": [(2,)]},
    "a vector wider than the model": {"vectors": [(4, 2)]},
    "a vector of nothing": {"vectors": [(0, 2)]},
}


@pytest.mark.parametrize("fault", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_update_is_refused_and_changes_nothing(fault):
    base = tensors(1)
    aggregator = Aggregator(PLAN, base, draw=draw_of)
    with pytest.raises(PeerError):
        aggregator.fold(**{**GOOD, **fault})
    assert aggregator.num_updates == 0
    np.testing.assert_array_equal(aggregator.finish()["conv1.bias"], base["conv1.bias"])


def scaled(base, factor):
    return {name: np.float32(factor) * values for name, values in base.items()}


def test_the_largest_accepted_deltas_do_not_overflow():
    base = tensors(1, scale=1e9)
    aggregator = Aggregator(PLAN, base, draw=draw_of)
    aggregator.fold(scaled(base, 9.9), 2**40, [(1, 1)], [0] * 50, seed=1)
    assert all(np.isfinite(tensor).all() for tensor in aggregator.finish().values())


@pytest.mark.parametrize("factor", [10.1, 1e20])
def test_a_delta_much_larger_than_the_weights_is_refused_and_changes_nothing(factor):
    base = tensors(1)
    aggregator = Aggregator(PLAN, base, draw=draw_of)
    with pytest.raises(PeerError, match="that is no training"):
        aggregator.fold(scaled(base, factor), 10, [FULL], [0], seed=1)
    assert aggregator.num_updates == 0


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_that_makes_no_sense_is_our_own_fault(weight):
    with pytest.raises(ValueError, match="weight"):
        Aggregator(PLAN, tensors(1), draw=draw_of).fold(**GOOD, weight=weight)
