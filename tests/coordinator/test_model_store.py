"""The model store: complete or absent, verified on reading."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from coordinator.model_store import ModelStore
from firmware_profiles.errors import WorldError

WEIGHTS = {
    "conv.weight": np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2),
    "conv.bias": np.array([1.5, -0.0, 3e-40], dtype=np.float32),
    "scale": np.array(2.0, dtype=np.float32),
}
MOMENTS = {"norm.mean": np.zeros(3, np.float32), "norm.var": np.ones(3, np.float32)}


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


def test_what_was_put_comes_back_bit_for_bit(store):
    model = store.get(store.put(WEIGHTS, MOMENTS))
    assert model.weights.keys() == WEIGHTS.keys()
    assert model.statistics.keys() == MOMENTS.keys()
    for name, value in {**WEIGHTS, **MOMENTS}.items():
        got = {**model.weights, **model.statistics}[name]
        assert got.shape == value.shape
        assert got.tobytes() == value.tobytes()


def test_what_comes_back_may_be_written_to(store):
    model = store.get(store.put(WEIGHTS))
    model.weights["conv.bias"][0] = 7.0


def test_the_same_content_has_the_same_digest_and_one_file(store):
    digests = {
        store.put(dict(reversed(WEIGHTS.items())), MOMENTS),
        store.put(WEIGHTS, dict(reversed(MOMENTS.items()))),
    }
    assert store.digests() == digests
    assert len(digests) == 1


def test_other_content_has_another_digest(store):
    assert store.put(WEIGHTS) != store.put(WEIGHTS, MOMENTS)


def test_a_transposed_array_is_stored_by_its_values(store):
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(store.get(store.put({"w": transposed})).weights["w"], transposed)


def test_the_digest_is_the_hash_of_a_plain_safetensors_file(store):
    digest = store.put(WEIGHTS)
    content = (store.directory / f"{digest}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    assert safetensors.numpy.load(content).keys() == WEIGHTS.keys()


@pytest.mark.parametrize("damage", ["a flipped bit", "truncation", "emptiness"])
def test_a_damaged_file_is_refused_and_moved_aside(store, damage):
    digest = store.put(WEIGHTS)
    path = store.directory / f"{digest}.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes({"a flipped bit": content, "truncation": content[:40], "emptiness": b""}[damage])
    with pytest.raises(WorldError, match="damaged"):
        store.get(digest)
    assert path.with_suffix(".corrupt").exists()
    assert store.digests() == set()


def test_a_damaged_file_heals_when_its_model_is_put_again(store):
    digest = store.put(WEIGHTS)
    (store.directory / f"{digest}.safetensors").write_bytes(b"junk")
    assert store.put(WEIGHTS) == digest
    assert store.get(digest).weights.keys() == WEIGHTS.keys()


def test_a_missing_model_is_named(store):
    with pytest.raises(WorldError, match="aaaaaaaaaaaa is not in"):
        store.get("a" * 64)


def test_a_digest_cannot_lead_out_of_the_store(store):
    with pytest.raises(ValueError, match="SHA-256"):
        store.get("../../etc/passwd")


def test_a_write_that_fails_leaves_nothing_behind(store, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorldError, match="No space left"):
        store.put(WEIGHTS)
    assert list(store.directory.iterdir()) == []


def test_left_overs_of_a_crash_are_removed_at_the_next_start(store):
    (store.directory / f"{'b' * 64}.unfinished").write_bytes(b"half a mod")
    assert ModelStore(store.directory).digests() == set()
    assert list(store.directory.iterdir()) == []


def test_pruning_keeps_what_it_is_told_to_keep(store):
    kept, gone = store.put(WEIGHTS), store.put(MOMENTS)
    assert store.prune([kept]) == 1
    assert store.digests() == {kept}
    with pytest.raises(WorldError):
        store.get(gone)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WorldError, match="cannot be used"):
        ModelStore(Path(blocked) / "models")
