"""Partitions over devices, and mini-batches."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import UserError
from models.data.batches import shuffled_batches
from models.data.dataset import Dataset
from models.data.partition import partition, partition_by_labels


def labelled(labels, owner=None):
    labels = np.asarray(labels)
    samples = np.zeros((len(labels), 1), np.float32)
    return Dataset(samples, labels, int(labels.max()) + 1, owner=None if owner is None else np.asarray(owner))


schemes = st.sampled_from(
    ["iid", "dirichlet:0.01", "dirichlet:0.3", "dirichlet:100", "shards:1", "shards:2", "owner"]
)


@settings(deadline=None, max_examples=80)
@given(
    scheme=schemes,
    num_devices=st.integers(1, 12),
    num_samples=st.integers(30, 200),
    num_classes=st.integers(2, 10),
    seed=st.integers(0, 2**31),
)
def test_every_sample_goes_to_exactly_one_device_and_none_stays_empty(
    scheme, num_devices, num_samples, num_classes, seed
):
    owner = np.arange(num_samples) % 13
    data = labelled(np.arange(num_samples) % num_classes, owner)
    parts = partition(data, scheme, num_devices, seed)
    assert len(parts) == num_devices
    assert min(len(part) for part in parts) >= 1
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_samples))


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:0.3", "shards:2", "classes:2"])
def test_the_same_seed_gives_the_same_parts_and_another_seed_others(scheme):
    data = labelled(np.arange(200) % 10)
    first, again, other = (partition(data, scheme, 5, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_small_alpha_skews_labels_more_than_a_large_one():
    data = labelled(np.arange(2000) % 10)

    def skew(scheme):
        parts = partition(data, scheme, 8, 0)
        counts = np.array([np.bincount(data.labels[part], minlength=10) / len(part) for part in parts])
        return counts.max(axis=1).mean()

    assert skew("dirichlet:0.1") > 0.4
    assert skew("dirichlet:100") < 0.2


def test_two_shards_hold_at_most_four_labels_and_mostly_two():
    data = labelled(np.arange(1000) % 10)
    held = [len(np.unique(data.labels[part])) for part in partition(data, "shards:2", 10, 0)]
    assert max(held) <= 4
    assert np.mean(held) <= 2.5


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(1, 5),
    num_devices=st.integers(5, 12),
    num_samples=st.integers(100, 200),
    seed=st.integers(0, 2**31),
)
def test_every_device_holds_exactly_so_many_classes_and_every_sample_is_somewhere(
    classes, num_devices, num_samples, seed
):
    data = labelled(np.arange(num_samples) % 5)
    parts = partition(data, f"classes:{classes}", num_devices, seed)
    assert [len(np.unique(data.labels[part])) for part in parts] == [classes] * num_devices
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_samples))


def test_ten_devices_with_two_of_ten_classes_each_get_as_many_samples():
    data = labelled(np.arange(1000) % 10)
    assert [len(part) for part in partition(data, "classes:2", 10, 3)] == [100] * 10


@pytest.mark.parametrize(
    ("scheme", "num_devices", "told"),
    [
        ("classes:0", 5, "whole number from 1 to 10"),
        ("classes:11", 5, "whole number from 1 to 10"),
        ("classes", 5, "such as classes:2"),
        ("classes:2", 4, "4 devices hold 8 classes in all, the data has 10"),
        ("classes:2", 40, "8 devices hold class"),
    ],
)
def test_classes_that_cannot_be_dealt_are_refused(scheme, num_devices, told):
    with pytest.raises(UserError, match=told):
        partition(labelled(np.arange(60) % 10), scheme, num_devices, 0)


def test_an_owner_is_never_divided_and_loads_are_level():
    owner = np.repeat([5, 6, 7, 8], [40, 20, 10, 10])
    data = labelled(np.arange(80) % 2, owner)
    parts = partition(data, "owner", 2, 0)
    assert sorted(len(part) for part in parts) == [40, 40]
    held = [set(owner[part].tolist()) for part in parts]
    assert not held[0] & held[1]


@settings(deadline=None, max_examples=80)
@given(
    scheme=st.sampled_from(["iid", "dirichlet:0.05", "dirichlet:0.3", "shards:1", "shards:2"]),
    listed=st.lists(st.sampled_from([None, (0,), (1, 2), (2, 3), (0, 1)]), min_size=2, max_size=8),
    num_samples=st.integers(150, 300),
    seed=st.integers(0, 2**31),
)
def test_listed_labels_go_to_those_who_list_them_and_every_sample_to_one_device(
    scheme, listed, num_samples, seed
):
    data = labelled(np.arange(num_samples) % 6)
    parts = partition_by_labels(data, scheme, listed, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_samples))
    assert min(len(part) for part in parts) >= 1
    everywhere = {label for labels in listed for label in labels or ()}
    for labels, part in zip(listed, parts, strict=True):
        assert set(data.labels[part].tolist()) & everywhere <= set(labels or ())


def test_devices_with_labels_of_their_own_get_less_of_the_rest():
    data = labelled(np.arange(1000) % 10)
    parts = partition_by_labels(data, "iid", [(0, 1, 2, 3)] * 5 + [None] * 5, 0)
    assert [len(part) for part in parts] == [100] * 10
    assert np.isin(data.labels[parts[0]], [0, 1, 2, 3]).sum() == 80


def test_without_listed_labels_the_parts_are_those_of_the_scheme():
    data = labelled(np.arange(200) % 10)
    plain, listed = (
        partition(data, "dirichlet:0.3", 5, 1),
        partition_by_labels(data, "dirichlet:0.3", [None] * 5, 1),
    )
    assert all(np.array_equal(one, other) for one, other in zip(plain, listed, strict=True))


@pytest.mark.parametrize(
    ("scheme", "listed", "word"),
    [
        ("owner", [(0,), None], "not with owner"),
        ("iid", [(7,), None], "no sample of it"),
        ("iid", [(0, 1), None], "gets no samples"),
        ("iid", [(0,)] * 11 + [None], "10 samples cannot be shared out to 11 devices"),
    ],
)
def test_labels_that_cannot_be_given_say_why(scheme, listed, word):
    with pytest.raises(UserError, match=word):
        partition_by_labels(labelled(np.arange(20) % 2), scheme, listed, 0)


@pytest.mark.parametrize(
    ("scheme", "num_devices", "word"),
    [
        ("iidd", 2, "did you mean 'iid'"),
        ("iid:2", 2, "no argument"),
        ("dirichlet:x", 2, "alpha"),
        ("dirichlet:0", 2, "alpha"),
        ("dirichlet:nan", 2, "alpha"),
        ("dirichlet", 2, "alpha"),
        ("shards:0", 2, "shards"),
        ("shards:99999999999999", 2, "shards"),
        ("owner", 2, "does not say who owns"),
        ("iid", 99, "fewer devices"),
        ("iid", 0, "0 devices"),
    ],
)
def test_a_partition_that_cannot_be_made_says_why(scheme, num_devices, word):
    with pytest.raises(UserError, match=word):
        partition(labelled(np.arange(20) % 2), scheme, num_devices, 0)


@settings(deadline=None, max_examples=60)
@given(num_samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_each_pass_shows_every_sample_once_in_batches_of_one_size(num_samples, batch_size, seed):
    size = min(batch_size, num_samples)
    batches = list(itertools.islice(shuffled_batches(num_samples, batch_size, seed), num_samples * 2))
    assert {len(batch) for batch in batches} == {size}
    stream = np.concatenate(batches)
    for start in range(0, len(stream) - num_samples + 1, num_samples):
        assert sorted(stream[start : start + num_samples]) == list(range(num_samples))


@settings(deadline=None, max_examples=40)
@given(first_step=st.integers(0, 40))
def test_a_stream_resumed_at_a_step_goes_on_as_if_it_had_never_stopped(first_step):
    whole = itertools.islice(shuffled_batches(11, 4, 3), first_step, first_step + 5)
    resumed = itertools.islice(shuffled_batches(11, 4, 3, first_step), 5)
    assert [batch.tolist() for batch in whole] == [batch.tolist() for batch in resumed]


def test_the_order_is_the_documented_one_on_every_machine():
    assert next(shuffled_batches(6, 6, 0)).tolist() == [0, 2, 1, 5, 4, 3]


def test_batches_of_nothing_are_a_mistake():
    with pytest.raises(ValueError, match="0 samples"):
        next(shuffled_batches(0, 4, 0))
