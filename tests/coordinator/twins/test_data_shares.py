"""What devices learn from, and what versions are measured on."""

import numpy as np
import pytest

from coordinator.twins.data_shares import measured_after_a_round, share_out, split_for
from coordinator.twins.equipment import device_groups
from coordinator.twins.groups import Group
from coordinator.twins.scenario import Scenario
from firmware_profiles.errors import UserError
from models.data.dataset import Dataset, DataSplit


def numbered(num_samples):
    """Samples that hold their own number."""
    numbers = np.arange(num_samples)
    return Dataset(numbers[:, None].astype(np.float32), numbers % 4, 4)


DATA = DataSplit(numbered(100), Dataset(np.full((8, 1), -1.0, np.float32), np.zeros(8, np.int64), 4), "data")


def scenario(*groups, **keys):
    return Scenario(name="s", devices=groups or (Group(profile="p", count=4),), **keys)


def numbers(data):
    return set(data.samples[:, 0].astype(int).tolist())


def test_validation_samples_come_from_training_and_the_test_set_is_not_there():
    split = split_for(scenario(num_validation=20, measure_on="validation"), DATA, seed=0)
    assert (len(split.train), len(split.test)) == (80, 20)
    assert numbers(split.train) | numbers(split.test) == set(range(100))


def test_what_is_set_aside_is_the_same_whatever_is_measured_on():
    chosen = split_for(scenario(num_validation=20, measure_on="validation"), DATA, seed=3)
    final = split_for(scenario(num_validation=20), DATA, seed=3)
    assert numbers(chosen.train) == numbers(final.train)
    assert final.test is DATA.test
    assert numbers(split_for(scenario(num_validation=20), DATA, seed=4).train) != numbers(final.train)


def test_setting_everything_aside_is_refused():
    with pytest.raises(UserError, match="leaves nothing"):
        split_for(scenario(num_validation=100), DATA, seed=0)


def test_after_a_round_evenly_spread_samples_are_measured():
    part = measured_after_a_round(scenario(measure_samples=10), DATA.train)
    assert numbers(part) == set(range(0, 100, 10))
    assert measured_after_a_round(scenario(measure_samples=500), DATA.train) is DATA.train


def test_labels_that_a_group_lists_are_on_its_devices_alone():
    one = scenario(
        Group(profile="p", id="weak", count=2, labels=(0,)), Group(profile="p", id="strong", count=2)
    )
    shares = share_out(one, device_groups(one), DATA.train, seed=0)
    assert all(0 not in shares[device].labels for device in ("strong-1", "strong-2"))
    assert [len(data) for data in shares.values()] == [25, 25, 25, 25]
