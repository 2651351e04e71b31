"""What a fleet can do with each candidate, reckoned without training."""

import numpy as np
import pytest

from coordinator.planning.candidates import Candidate
from coordinator.planning.planned_fleet import on_validation
from coordinator.planning.workload import effective_rate, look_at, workload


@pytest.fixture
def reckon(make_fleet):
    """A function of a candidate's changes, and overrides of the fleet, to its workload."""

    def reckon(changes, *overrides):
        fleet = on_validation(make_fleet(*overrides), 0)
        return workload(look_at(fleet), Candidate(name="a", changes=changes).settings(fleet))

    return reckon


FULL = {"strategy": "full", "base_width": 1.0}
SMALL = {"strategy": "small", "base_width": 0.3}


def steps(load):
    return float(load.traits.steps.sum()) / 10


def test_a_small_network_makes_more_steps(reckon):
    assert steps(reckon(SMALL)) > 1.5 * steps(reckon(FULL))


def test_passes_bound_the_steps(reckon):
    one_pass = reckon(SMALL, "round_s=100")
    # 20 samples a device, 5 mini-batches of 4 in a pass, 40 rounds
    assert steps(one_pass) == pytest.approx(200)
    assert steps(reckon({**SMALL, "passes": 2}, "round_s=100")) == pytest.approx(400)


def test_boards_too_slow_for_one_mini_batch_are_idle(reckon):
    load = reckon(FULL)
    assert load.idle == ("slow-1", "slow-2")
    assert reckon(SMALL).idle == ()


def test_classes_of_idle_boards_are_not_trained(reckon):
    trained = reckon(FULL).traits.steps.sum(axis=1)
    assert (trained[8:] == 0).all()
    assert (trained[:8] > 0).all()


def test_boards_whose_memory_is_too_small_are_idle_with_the_full_network_alone(reckon):
    limit = ("round_s=100", "devices.1.memory_fraction=0.3")
    assert reckon(FULL, *limit).idle == ("slow-1", "slow-2")
    assert reckon({"strategy": "small", "base_width": 0.2}, *limit).idle == ()


def test_subnetworks_shrink_with_what_there_is_down_to_the_floor(reckon):
    def shares(floor, round_s):
        load = reckon({"strategy": "uniform", "subnets": {"floor_fraction": floor}}, f"round_s={round_s}")
        return load.traits.shares[load.traits.steps.sum(axis=0) > 0]

    assert shares(0.0, 0.05).min() < 0.3
    assert shares(0.5, 0.05).min() >= 0.5
    assert shares(0.0, 100.0) == pytest.approx([1.0])


def test_dropped_stragglers_make_nothing(reckon):
    assert reckon({"strategy": "drop"}).macs_per_round == 0.0
    assert reckon({"strategy": "drop"}, "round_s=100").macs_per_round > 0.0


def test_the_classes_weigh_as_in_what_is_measured(reckon):
    assert reckon(FULL).traits.class_weights.sum() == pytest.approx(1.0)


def test_momentum_makes_steps_larger(make_fleet):
    plain = make_fleet("learning_rate=0.1")
    assert effective_rate(plain, 5) == pytest.approx(0.1)
    served = make_fleet("learning_rate=0.1", "averages={server_momentum: 0.5}")
    assert effective_rate(served, 5) == pytest.approx(0.2)


def test_a_devices_momentum_counts_as_its_velocity_does(make_fleet):
    settings = make_fleet("learning_rate=0.1", "optimizer={momentum: 0.9}")
    velocities, velocity = [], 0.0
    for _ in range(7):
        velocity = 0.9 * velocity + 1.0
        velocities.append(velocity)
    assert effective_rate(settings, 7) == pytest.approx(0.1 * np.mean(velocities))


def test_a_mini_batch_that_there_is_no_time_for_whole_counts_by_the_samples_there_is_time_for(reckon):
    def made(cut_batch):
        subnets = {"choice": "widest", "floor_fraction": 1.0, "cut_batch": cut_batch}
        return steps(reckon({"strategy": "distreal", "base_width": 1.0, "subnets": subnets}))

    assert made(1) > made(0) > 0
