"""What was learned of prototypes survives the process."""

from __future__ import annotations

import numpy as np
import pytest

from device_agent.learned_store import FileLearned, MemoryLearned

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7], np.int64)}


@pytest.fixture(params=["file", "memory"])
def reopened(request, tmp_path):
    """A function that opens the store again."""
    memory = MemoryLearned()
    return (lambda: memory) if request.param == "memory" else lambda: FileLearned(tmp_path / "p.safetensors")


def test_a_state_belongs_to_its_run(reopened):
    assert reopened().recall("run-1") is None
    reopened().keep("run-1", ARRAYS)
    found = reopened().recall("run-1")
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    assert reopened().recall("run-2") is None


def test_the_newest_state_takes_the_place_of_the_one_before(reopened):
    reopened().keep("run-1", ARRAYS)
    reopened().keep("run-1", {"a": np.zeros(1, np.float32)})
    assert list(reopened().recall("run-1")) == ["a"]


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"{not safetensors"])
def test_a_damaged_file_is_no_state(tmp_path, content):
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    assert FileLearned(path).recall("run-1") is None


def test_a_disk_that_refuses_does_not_stop_the_agent(tmp_path):
    FileLearned(tmp_path / "nowhere" / "p.safetensors").keep("run-1", ARRAYS)
