"""A device's model is a mean of its weights of late."""

from __future__ import annotations

import numpy as np
import pytest

from device_agent.peers.iterate_mean import IterateMean


def at(value):
    return {"w": np.full(2, value, np.float32)}


def test_with_a_horizon_of_one_it_is_the_newest():
    mean = IterateMean(1, at(5.0))
    assert mean.weights["w"][0] == 5.0
    newest = at(1.0)
    mean.add(newest)
    assert mean.weights is newest


def test_what_it_began_with_is_forgotten_at_the_first_addition():
    mean = IterateMean(20, at(5.0))
    mean.add(at(1.0))
    assert mean.weights["w"][0] == 1.0


def test_weights_that_swing_around_a_value_have_it_as_mean():
    mean = IterateMean(20, at(0.0))
    for step in range(200):
        mean.add(at(3.0 + (-1) ** step))
    assert mean.weights["w"][0] == pytest.approx(3.0, abs=0.05)
    assert mean.weights["w"].dtype == np.float32


@pytest.mark.parametrize(("num", "horizon", "lag"), [(500, 20, 19.0), (24, 20, 2.3)])
def test_it_lags_by_the_horizon_and_in_a_young_run_by_less(num, horizon, lag):
    mean = IterateMean(horizon, at(0.0))
    for step in range(num):
        mean.add(at(float(step)))
    assert num - 1 - mean.weights["w"][0] == pytest.approx(lag, rel=0.1)


def test_it_begins_anew_where_it_is_reset():
    mean = IterateMean(20, at(0.0))
    for _ in range(50):
        mean.add(at(100.0))
    mean.reset(at(1.0))
    assert mean.weights["w"][0] == 1.0
    mean.add(at(2.0))
    assert mean.weights["w"][0] == 2.0
