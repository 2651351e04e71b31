"""Which samples a scenario's devices have, and which ones versions are measured on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from coordinator.twins.groups import Group
from coordinator.twins.scenario import Scenario
from firmware_profiles.errors import UserError
from models.data.dataset import Dataset, DataSplit
from models.data.partition import partition_by_labels


def split_for(scenario: Scenario, data: DataSplit, seed: int) -> DataSplit:
    """The samples to learn from, and those to measure on in place of `test`.

    Raises:
        UserError: more samples are set aside than there are.
    """
    num_aside = scenario.num_validation
    if num_aside == 0:
        return data
    if num_aside >= len(data.train):
        raise UserError(
            f"num_validation {num_aside} leaves nothing of {data.name}'s {len(data.train)} training samples"
        )
    order = np.random.default_rng((seed, num_aside)).permutation(len(data.train))
    train = data.train.take(np.sort(order[num_aside:]))
    if scenario.measure_on == "test":
        return replace(data, train=train)
    return replace(data, train=train, test=data.train.take(np.sort(order[:num_aside])))


def measured_after_a_round(scenario: Scenario, held_out: Dataset) -> Dataset:
    """`measure_samples` of the held-out samples, evenly spread; all of them if it is not given."""
    num_samples = scenario.measure_samples
    if num_samples is None or num_samples >= len(held_out):
        return held_out
    return held_out.take(np.arange(num_samples) * len(held_out) // num_samples)


def share_out(
    scenario: Scenario, groups: Mapping[str, Group], train: Dataset, seed: int
) -> dict[str, Dataset]:
    """Each device's own samples.

    Raises:
        UserError: the partition cannot be made.
    """
    parts = partition_by_labels(train, scenario.partition, [group.labels for group in groups.values()], seed)
    return {
        device: _part_of(train.take(part), group.data_fraction, f"{seed}/{device}/data")
        for (device, group), part in zip(groups.items(), parts, strict=True)
    }


def _part_of(data: Dataset, fraction: float, seed: str) -> Dataset:
    if fraction == 1.0:
        return data
    indices = list(range(len(data)))
    random.Random(seed).shuffle(indices)
    return data.take(np.array(sorted(indices[: max(1, round(fraction * len(indices)))]), np.int64))
