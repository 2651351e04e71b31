from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.optim.optimizer import Optimizer, global_norm
from models.optim.settings import OptimizerSettings
from models.subnet import Subnet, cut, full_subnet
from models.widths import Segment, WidthGroup, WidthPlan

SHAPES = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4)}
PLAN = WidthPlan(
    groups=(WidthGroup("a.weight", 4),),
    axes={
        "a.weight": ((Segment(0, 4),), (Segment(None, 3),)),
        "a.bias": ((Segment(0, 4),),),
        "b.weight": ((Segment(None, 2),), (Segment(0, 4),)),
    },
    values={},
)
KEPT = Subnet((np.array([1, 3]),))


def random_tensors(seed, plan=PLAN, subnet=None):
    random = np.random.default_rng(seed)
    full = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return full if subnet is None else cut(plan, full, subnet)


def step(optimizer, weights, subnet, gradients):
    gradients = {name: values.copy() for name, values in gradients.items()}
    optimizer.step(PLAN, weights, subnet, cut(PLAN, weights, subnet), gradients)


@settings(deadline=None, max_examples=40)
@given(
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.sampled_from([None, 0.5, 100.0]),
    seed=st.integers(0, 1000),
)
def test_with_nothing_dropped_it_steps_as_torch_does(momentum, nesterov, weight_decay, clip_norm, seed):
    nesterov = nesterov and momentum > 0
    optimizer = Optimizer(
        OptimizerSettings(
            learning_rate=0.1,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
        )
    )
    weights = random_tensors(seed)
    parameters = [torch.nn.Parameter(torch.from_numpy(values.copy())) for values in weights.values()]
    peer = torch.optim.SGD(
        parameters, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    for number in range(3):
        gradients = random_tensors(seed + 1 + number)
        for parameter, gradient in zip(parameters, gradients.values(), strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        peer.step()
        step(optimizer, weights, full_subnet(PLAN), gradients)
    for values, parameter in zip(weights.values(), parameters, strict=True):
        np.testing.assert_allclose(values, parameter.detach(), atol=1e-5)


def test_a_dropped_entry_moves_neither_by_momentum_nor_by_weight_decay():
    optimizer = Optimizer(OptimizerSettings(learning_rate=0.1, momentum=0.9, weight_decay=0.1))
    weights = random_tensors(0)
    step(optimizer, weights, full_subnet(PLAN), random_tensors(1))
    before = {name: values.copy() for name, values in weights.items()}
    step(optimizer, weights, KEPT, random_tensors(2, subnet=KEPT))
    for name, moved in {
        "a.weight": np.s_[[1, 3]],
        "a.bias": np.s_[[1, 3]],
        "b.weight": np.s_[:, [1, 3]],
    }.items():
        changed = np.zeros(SHAPES[name], bool)
        changed[moved] = True
        assert np.array_equal(weights[name] != before[name], changed), name


def test_momentum_of_an_entry_waits_while_it_is_dropped():
    optimizer = Optimizer(OptimizerSettings(learning_rate=1.0, momentum=0.5))
    weights = {"a.bias": np.zeros(4, np.float32)}
    for kept in ([0, 1], [0], [0, 1]):
        subnet = Subnet((np.array(kept),))
        step(optimizer, weights, subnet, {"a.bias": np.ones(len(kept), np.float32)})
    # velocities of channel 0: 1, 1.5, 1.75; of channel 1: 1, 1.5
    assert weights["a.bias"].tolist() == [-4.25, -2.5, 0.0, 0.0]


def test_the_global_norm_is_that_of_all_entries_together():
    assert global_norm({"a": np.array([[3.0]], np.float32), "b": np.array([4.0, 0.0], np.float32)}) == 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_global_norm_of_a_broken_gradient_is_not_finite(bad):
    assert not np.isfinite(global_norm({"a": np.array([1.0, bad], np.float32)}))


@pytest.mark.parametrize("momentum", [0.0])
def test_nesterov_without_momentum_is_refused(momentum):
    with pytest.raises(ValueError, match="nesterov wants momentum"):
        OptimizerSettings(momentum=momentum, nesterov=True)
