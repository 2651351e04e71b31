from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.optim.adamw import Corrections
from models.optim.optimizer import Optimizer
from models.optim.settings import OptimizerSettings
from models.optim.state import state_shapes
from models.subnet import Subnet, cut, full_subnet, kept_indices, sample
from models.widths import Segment, WidthGroup, WidthPlan

SHAPES = {
    "a.weight": (4, 3, 2, 2),
    "a.bias": (4,),
    "b.weight": (5, 4, 1),
    "c.weight": (2, 2 + 4 + 5),
    "d.weight": (2, 4 * 6),
    "scale": (),
}
_A, _B = Segment(0, 4), Segment(1, 5)
PLAN = WidthPlan(
    groups=(WidthGroup("a.weight", 4), WidthGroup("b.weight", 5)),
    axes={
        "a.weight": ((_A,), (Segment(None, 3),), (Segment(None, 2),), (Segment(None, 2),)),
        "a.bias": ((_A,),),
        "b.weight": ((_B,), (_A,), (Segment(None, 1),)),
        "c.weight": ((Segment(None, 2),), (Segment(None, 2), _A, _B)),
        "d.weight": ((Segment(None, 2),), (Segment(0, 4, 6),)),
        "scale": (),
    },
    values={},
)
ADAMW = OptimizerSettings(method="adamw", learning_rate=0.01, weight_decay=0.1)


def random_tensors(seed):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def step(optimizer, weights, subnet, gradients):
    """Step along the kept entries of full-size gradients."""
    optimizer.step(PLAN, weights, subnet, cut(PLAN, weights, subnet), cut(PLAN, gradients, subnet))


def kept_mask(name, subnet):
    mask = np.zeros(SHAPES[name], bool)
    axes = kept_indices(PLAN, name, subnet)
    mask[
        np.ix_(*(np.arange(n) if kept is None else kept for kept, n in zip(axes, mask.shape, strict=True)))
    ] = True
    return mask


def by_the_paper(weights, gradients, subnets, config, rates):
    """Every entry on its own, in double precision, with its own count of updates."""
    weights = {name: values.astype(np.float64) for name, values in weights.items()}
    (beta1, beta2), epsilon, decay = config.betas, config.epsilon, config.weight_decay
    state = {name: tuple(np.zeros(shape) for _ in range(3)) for name, shape in SHAPES.items()}
    for subnet, gradient, rate in zip(subnets, gradients, rates, strict=True):
        for name, values in weights.items():
            mask, (first, second, count) = kept_mask(name, subnet), state[name]
            count += mask
            first[...] = np.where(mask, beta1 * first + (1 - beta1) * gradient[name], first)
            second[...] = np.where(
                mask, beta2 * second + (1 - beta2) * gradient[name].astype(float) ** 2, second
            )
            times = np.maximum(count, 1)
            move = (first / (1 - beta1**times)) / (np.sqrt(second / (1 - beta2**times)) + epsilon)
            values[...] = np.where(mask, values - rate * move - rate * decay * values, values)
    return weights


@settings(deadline=None, max_examples=40)
@given(
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.5, 0.0), (0.95, 0.9999)]),
    epsilon=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.sampled_from([None, 0.5]),
    seed=st.integers(0, 1000),
)
def test_with_nothing_dropped_adamw_steps_as_torch_does(betas, epsilon, weight_decay, clip_norm, seed):
    config = OptimizerSettings(
        method="adamw",
        learning_rate=0.03,
        betas=betas,
        epsilon=epsilon,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    optimizer, weights = Optimizer(config), random_tensors(seed)
    parameters = [torch.nn.Parameter(torch.from_numpy(values.copy())) for values in weights.values()]
    peer = torch.optim.AdamW(parameters, lr=0.03, betas=betas, eps=epsilon, weight_decay=weight_decay)
    for number in range(12):
        gradients = random_tensors(seed + 1 + number)
        for parameter, gradient in zip(parameters, gradients.values(), strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        peer.step()
        step(optimizer, weights, full_subnet(PLAN), gradients)
    for values, parameter in zip(weights.values(), parameters, strict=True):
        np.testing.assert_allclose(values, parameter.detach(), rtol=1e-5, atol=2e-6)


def test_it_stays_with_torch_over_many_steps():
    optimizer, weights = Optimizer(ADAMW), random_tensors(0)
    parameters = [torch.nn.Parameter(torch.from_numpy(values.copy())) for values in weights.values()]
    peer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    for number in range(300):
        gradients = random_tensors(number)
        for parameter, gradient in zip(parameters, gradients.values(), strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        peer.step()
        step(optimizer, weights, full_subnet(PLAN), gradients)
    for values, parameter in zip(weights.values(), parameters, strict=True):
        np.testing.assert_allclose(values, parameter.detach(), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    vectors=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    restart_at=st.integers(0, 12),
)
def test_each_entry_is_corrected_by_its_own_number_of_updates(vectors, seed, restart_at):
    subnets = [sample(PLAN, vector, seed, number) for number, vector in enumerate(vectors)]
    gradients = [random_tensors(seed + 1 + number) for number in range(len(vectors))]
    weights = random_tensors(seed)
    expected = by_the_paper(weights, gradients, subnets, ADAMW, [0.01] * len(vectors))
    optimizer = Optimizer(ADAMW)
    for number, (subnet, gradient) in enumerate(zip(subnets, gradients, strict=True)):
        if number == restart_at:
            optimizer = Optimizer(ADAMW, state=optimizer.state)
        step(optimizer, weights, subnet, gradient)
    for name, values in weights.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=2e-6, err_msg=name)


def test_the_first_step_of_an_entry_is_the_learning_rate_however_late_it_comes():
    optimizer = Optimizer(OptimizerSettings(method="adamw", learning_rate=0.01))
    weights = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    without_3 = Subnet((np.array([0, 1, 2]), np.arange(5)))
    for number in range(200):
        step(optimizer, weights, without_3, random_tensors(number))
    assert not weights["a.bias"][3]
    step(
        optimizer,
        weights,
        full_subnet(PLAN),
        {name: np.full(s, 7.0, np.float32) for name, s in SHAPES.items()},
    )
    assert weights["a.bias"][3] == pytest.approx(-0.01, rel=1e-5)


def test_a_dropped_entry_moves_neither_by_its_moments_nor_by_weight_decay():
    optimizer, weights = Optimizer(ADAMW), random_tensors(0)
    step(optimizer, weights, full_subnet(PLAN), random_tensors(1))
    before = {name: values.copy() for name, values in weights.items()}
    state = {kind: values.copy() for kind, values in optimizer.state.flat().items()}
    subnet = Subnet((np.array([1, 3]), np.array([0, 2, 4])))
    step(optimizer, weights, subnet, random_tensors(2))
    after = optimizer.state.flat()
    for name, values in weights.items():
        mask = kept_mask(name, subnet)
        assert np.array_equal(values != before[name], mask), name
        for kind in ("first", "second"):
            assert np.array_equal(after[f"{kind}/{name}"] != state[f"{kind}/{name}"], mask), name


def test_gradients_of_nothing_but_zeros_move_nothing():
    optimizer, weights = Optimizer(OptimizerSettings(method="adamw")), random_tensors(0)
    before = {name: values.copy() for name, values in weights.items()}
    step(optimizer, weights, full_subnet(PLAN), {name: np.zeros(s, np.float32) for name, s in SHAPES.items()})
    assert all(np.array_equal(weights[name], before[name]) for name in SHAPES)


def test_counts_are_kept_by_channel_and_shared_by_tensors_of_the_same_channels():
    shapes = state_shapes(ADAMW, PLAN, SHAPES)
    assert {name: shape for name, shape in shapes.items() if name.startswith("count/")} == {
        "count/a.weight": (4, 1, 1, 1),
        "count/a.bias": (4,),
        "count/b.weight": (5, 4, 1),
        "count/c.weight": (1, 11),
        "count/d.weight": (1, 4),
        "count/scale": (),
    }


def test_beyond_the_last_count_there_is_nothing_to_correct():
    betas = (0.9, 0.999)
    corrections = Corrections(betas)
    first, root = corrections.of(corrections.limit)
    assert first == np.float32(1 - betas[0])
    assert root == np.float32(math.sqrt(1 - betas[1]))


def test_the_state_is_float32_in_the_names_and_shapes_foretold():
    optimizer, weights = Optimizer(ADAMW), random_tensors(0)
    step(optimizer, weights, sample(PLAN, (2, 3), 0, 0), random_tensors(1))
    state = optimizer.state.flat()
    assert {name: values.shape for name, values in state.items()} == state_shapes(ADAMW, PLAN, SHAPES)
    assert {values.dtype for values in state.values()} == {np.dtype(np.float32)}
