from __future__ import annotations

import os

import numpy as np
import pytest

from device_agent.local_data import DataConfig, LocalData, parse_shard
from firmware_profiles.errors import UserError


def write(path, num_train=20, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "x_train": rng.normal(size=(num_train, 3)).astype(np.float32),
        "y_train": np.arange(num_train) % 2,
        "x_test": rng.normal(size=(4, 3)).astype(np.float32),
        "y_test": np.arange(4) % 2,
    }
    unfinished = path.with_suffix(".new.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(path)
    # Two writes within one tick of the file system's clock must differ all the same.
    os.utime(path, ns=(seed * 10**9, seed * 10**9))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.npz"
    write(path)
    return path


@pytest.mark.parametrize(("text", "shard"), [("0/1", (0, 1)), ("2/4", (2, 4)), ("99/100", (99, 100))])
def test_a_shard_is_an_index_and_a_count(text, shard):
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "1", "4/4", "0/0", "-1/4", "1/-4", "a/b", "1/4/2", "1 /4", "0/9999999"])
def test_what_is_no_shard_is_refused_and_named(text):
    with pytest.raises(UserError, match=r"--shard .* such as 0/4"):
        parse_shard(text)


def test_without_a_shard_all_training_samples_are_local(file):
    assert len(LocalData(DataConfig(source=str(file))).dataset) == 20


def test_the_shards_of_all_devices_are_the_whole_data_set(file):
    parts = [LocalData(DataConfig(source=str(file), shard=(index, 4))).dataset for index in range(4)]
    assert sum(len(part) for part in parts) == 20
    rows = {row.tobytes() for part in parts for row in part.samples}
    assert len(rows) == 20


def test_a_shard_is_the_same_after_a_restart(file):
    config = DataConfig(source=str(file), shard=(1, 3), scheme="dirichlet:0.5", seed=4)
    first, second = LocalData(config).dataset, LocalData(config).dataset
    np.testing.assert_array_equal(first.samples, second.samples)


def test_data_that_did_not_change_is_not_loaded_again(file):
    data = LocalData(DataConfig(source=str(file)))
    before = data.dataset
    assert not data.refresh()
    assert data.dataset is before


def test_data_that_changed_is_loaded_again_once(file):
    data = LocalData(DataConfig(source=str(file)))
    write(file, num_train=30, seed=1)
    assert [data.refresh() for _ in range(3)] == [False, True, False]
    assert len(data.dataset) == 30


def test_data_that_is_still_being_copied_is_waited_for(file):
    data = LocalData(DataConfig(source=str(file)))
    before = data.dataset
    for seed in range(1, 5):
        write(file, num_train=20 + seed, seed=seed)
        assert not data.refresh()
        assert data.dataset is before
    assert data.refresh()
    assert len(data.dataset) == 24


def test_data_that_was_released_is_loaded_when_it_is_asked_for(file):
    data = LocalData(DataConfig(source=str(file), shard=(1, 4)))
    before = data.dataset.samples.copy()
    data.release()
    assert (data.num_samples, data.shape, data.num_classes) == (5, (3,), 2)
    np.testing.assert_array_equal(data.dataset.samples, before)


def test_data_that_was_released_and_removed_is_an_error_that_names_it(file):
    data = LocalData(DataConfig(source=str(file)))
    data.release()
    file.unlink()
    with pytest.raises(UserError, match="own"):
        _ = data.dataset
    assert data.num_samples == 20


def test_data_that_was_released_and_changed_is_counted_and_loaded_when_it_is_asked_for(file):
    data = LocalData(DataConfig(source=str(file)))
    data.release()
    write(file, num_train=30, seed=1)
    assert [data.refresh() for _ in range(3)] == [False, True, False]
    assert data.num_samples == 30
    assert len(data.dataset) == 30


def test_damaged_data_is_an_error_told_once_and_the_samples_stay_as_they_were(file):
    data = LocalData(DataConfig(source=str(file)))
    file.write_bytes(b"half a fi")
    assert not data.refresh()
    with pytest.raises(UserError):
        data.refresh()
    assert not data.refresh()
    assert len(data.dataset) == 20


def test_data_that_is_whole_again_is_loaded(file):
    data = LocalData(DataConfig(source=str(file)))
    file.write_bytes(b"half a fi")
    assert not data.refresh()
    with pytest.raises(UserError):
        data.refresh()
    write(file, num_train=25, seed=2)
    assert [data.refresh(), data.refresh()] == [False, True]
    assert len(data.dataset) == 25


def test_data_that_was_removed_is_an_error_and_the_samples_stay_as_they_were(file):
    data = LocalData(DataConfig(source=str(file)))
    file.unlink()
    with pytest.raises(UserError):
        data.refresh()
    assert len(data.dataset) == 20


def test_data_that_does_not_exist_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        LocalData(DataConfig(source=str(tmp_path / "nowhere.npz")))


def test_a_live_source_has_no_samples_yet_and_never_changes():
    data = LocalData(DataConfig(source="mqtt:plant/{device}?features=6&classes=a,b,c", shard=(1, 4)))
    assert (len(data.dataset), data.dataset.shape, data.dataset.num_classes) == (0, (6,), 3)
    assert data.live is not None
    assert not data.refresh()


def test_stored_data_is_no_live_source(file):
    assert LocalData(DataConfig(source=str(file))).live is None


def test_a_wrong_live_source_is_an_error_that_says_what_is_missing():
    with pytest.raises(UserError, match="features= is missing"):
        LocalData(DataConfig(source="mqtt:plant?classes=a,b"))
