from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from firmware_profiles.errors import UserError
from models.optim.optimizer import Optimizer
from models.optim.schedules import SMALLEST_RATE, learning_rate_at
from models.optim.settings import DEFAULT_RATES, OptimizerSettings
from models.subnet import full_subnet
from models.widths import Segment, WidthPlan


def torchs_rates(make, warmup, ticks, rate=0.5):
    """The rates of torch's schedulers: a linear warm-up, then what `make` makes."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedulers = [make(optimizer)]
    if warmup:
        start = 1 / (warmup + 1)
        schedulers.insert(0, lr_scheduler.LinearLR(optimizer, start, total_iters=warmup))
    scheduler = lr_scheduler.SequentialLR(optimizer, schedulers, [warmup] if warmup else [])
    rates = []
    for _ in range(ticks):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


# torch's SequentialLR steps its schedulers by a tick whose use torch itself warns of
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
@pytest.mark.parametrize("warmup", [0, 1, 4])
@pytest.mark.parametrize(
    ("keys", "make"),
    [
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        ({"schedule": "step", "every": 3, "factor": 0.5}, lambda o: lr_scheduler.StepLR(o, 3, 0.5)),
    ],
)
def test_warm_up_and_steps_are_torchs(warmup, keys, make):
    settings = OptimizerSettings(learning_rate=0.5, warmup=warmup, **keys)
    ours = [learning_rate_at(settings, tick) for tick in range(14)]
    np.testing.assert_allclose(ours, torchs_rates(make, warmup, 14), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_a_cosine_is_torchs_with_its_lowest_point_on_the_last_tick(warmup):
    settings = OptimizerSettings(
        learning_rate=0.5, warmup=warmup, schedule="cosine", total=14, final_fraction=0.2
    )
    peer = torchs_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 14 - warmup - 1, eta_min=0.1), warmup, 14)
    np.testing.assert_allclose([learning_rate_at(settings, tick) for tick in range(14)], peer, rtol=1e-9)


def test_a_cosine_stays_at_its_lowest_beyond_the_total():
    settings = OptimizerSettings(learning_rate=1.0, schedule="cosine", total=3)
    assert learning_rate_at(settings, 1000) == pytest.approx(0.1)


def test_a_cosine_of_one_tick_has_the_first_rate():
    assert learning_rate_at(OptimizerSettings(learning_rate=1.0, schedule="cosine", total=1), 0) == 1.0


def test_a_rate_never_becomes_zero():
    settings = OptimizerSettings(schedule="step", every=1, factor=1e-3)
    assert learning_rate_at(settings, 500) == SMALLEST_RATE


def test_a_cosine_without_its_total_says_what_is_missing():
    with pytest.raises(UserError, match="cosine wants total"):
        learning_rate_at(OptimizerSettings(schedule="cosine"), 0)


@pytest.mark.parametrize("method", DEFAULT_RATES)
def test_a_method_has_a_learning_rate_of_its_own(method):
    assert learning_rate_at(OptimizerSettings(method=method), 0) == DEFAULT_RATES[method]


PLAN = WidthPlan(groups=(), axes={"w": ((Segment(None, 1),),)}, values={})


def moves(optimizer, num_steps):
    """How far each step moves a weight along a gradient of 1."""
    weights, moved = {"w": np.zeros(1, np.float32)}, []
    for _ in range(num_steps):
        before = float(weights["w"][0])
        sub = {"w": weights["w"].copy()}
        optimizer.step(PLAN, weights, full_subnet(PLAN), sub, {"w": np.ones(1, np.float32)})
        moved.append(before - float(weights["w"][0]))
    return moved


HALVING = OptimizerSettings(learning_rate=1.0, momentum=0.0, schedule="step", every=2, factor=0.5)


def test_an_optimizer_on_its_own_counts_its_steps():
    assert moves(Optimizer(HALVING), 5) == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_the_count_of_steps_goes_on_after_a_restart():
    first = Optimizer(HALVING)
    moves(first, 3)
    assert moves(Optimizer(HALVING, state=first.state), 2) == [0.5, 0.25]


def test_a_rate_that_is_given_holds_for_every_step():
    assert moves(Optimizer(HALVING, learning_rate=2.0), 3) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"method": "adamw", "momentum": 0.5},
            "momentum belongs to method sgd; leave it out with method adamw",
        ),
        ({"method": "adamw", "nesterov": True}, "nesterov belongs to method sgd"),
        ({"betas": [0.8, 0.9]}, "betas belongs to method adamw"),
        ({"epsilon": 1e-3}, "epsilon belongs to method adamw"),
        ({"total": 10}, "total belongs to schedule cosine"),
        (
            {"schedule": "step", "every": 2, "final_fraction": 0.5},
            "final_fraction belongs to schedule cosine",
        ),
        ({"schedule": "cosine", "every": 2}, "every belongs to schedule step"),
        ({"schedule": "cosine", "factor": 0.5}, "factor belongs to schedule step"),
        ({"schedule": "step"}, "step wants every"),
        ({"schedule": "cosine", "total": 4, "warmup": 4}, "a warmup of 4 leaves nothing of total 4"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov wants momentum"),
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"method": "adam"}, "adam"),
        ({"lr": 0.1}, "lr"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, message):
    with pytest.raises((ValueError, msgspec.ValidationError), match=message):
        msgspec.convert(keys, OptimizerSettings)
