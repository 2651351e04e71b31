from __future__ import annotations

import logging

import numpy as np
import pytest

from device_agent.residual_store import FileResiduals, MemoryResiduals, Sealed
from firmware_profiles.errors import WorldError

BELONGS = {"run": "run-a", "network": "n"}
EXPECTED = {"w": (2, 2), "scale": ()}
DIGEST, OTHER = "a" * 64, "b" * 64


def some_residual(value=1.0):
    return {"w": np.full((2, 2), value, np.float32), "scale": np.array(value, np.float32)}


def sealed(value=1.0, **belongs):
    residual = None if value is None else some_residual(value)
    return Sealed(content=b"", belongs={**BELONGS, **belongs}, residual=residual)


def value_in(store, **belongs):
    """The value of the residual in force, None where there is none."""
    found = store.load({**BELONGS, **belongs}, EXPECTED)
    return float(found["w"][0, 0]) if found else None


def nowhere(_digest):
    return False


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return MemoryResiduals() if request.param == "memory" else FileResiduals(tmp_path / "r", nowhere)


def test_a_residual_is_in_force_once_its_update_is_in_the_outbox(store):
    store.stage(DIGEST, sealed(1))
    assert value_in(store) is None
    store.commit(DIGEST)
    assert value_in(store) == 1


def test_content_that_nothing_was_staged_for_changes_nothing(store):
    store.stage(DIGEST, sealed(1))
    store.commit(OTHER)
    store.commit("")
    assert value_in(store) is None


def test_a_residual_whose_update_never_went_out_gives_way_to_the_next(store):
    store.stage(DIGEST, sealed(1))
    store.stage(OTHER, sealed(2))
    store.commit(DIGEST)
    assert value_in(store) is None
    store.commit(OTHER)
    assert value_in(store) == 2


def test_what_is_forgotten_does_not_come_back(store):
    store.stage(DIGEST, sealed(1))
    store.commit(DIGEST)
    store.stage(OTHER, sealed(2))
    store.forget()
    store.commit(OTHER)
    assert value_in(store) is None


def test_an_update_that_leaves_nothing_out_changes_nothing(store):
    store.stage(DIGEST, sealed(1))
    store.commit(DIGEST)
    store.stage(OTHER, sealed(None))
    store.commit(OTHER)
    assert value_in(store) == 1


@pytest.mark.parametrize("other", [{"run": "run-b"}, {"network": "m"}])
def test_a_residual_of_another_run_or_network_is_not_used(store, other):
    store.stage(DIGEST, sealed(1))
    store.commit(DIGEST)
    assert value_in(store, **other) is None


def test_a_residual_of_other_shapes_is_not_used(store):
    store.stage(DIGEST, sealed(1))
    store.commit(DIGEST)
    assert store.load(BELONGS, {"w": (4,), "scale": ()}) == {}


# ---------------------------------------------------------------- over restarts


def test_a_residual_survives_the_process(tmp_path):
    store = FileResiduals(tmp_path / "r", nowhere)
    store.stage(DIGEST, sealed(3))
    store.commit(DIGEST)
    assert value_in(FileResiduals(tmp_path / "r", nowhere)) == 3


def crashed_before_the_commit(path):
    """A folder in which 1 is in force and 2 is staged."""
    store = FileResiduals(path, nowhere)
    store.stage(OTHER, sealed(1))
    store.commit(OTHER)
    store.stage(DIGEST, sealed(2))


@pytest.mark.parametrize(("in_outbox", "expected"), [(True, 2), (False, 1)])
def test_after_a_crash_the_outbox_says_which_residual_is_in_force(tmp_path, in_outbox, expected):
    crashed_before_the_commit(tmp_path / "r")
    store = FileResiduals(tmp_path / "r", lambda digest: in_outbox and digest == DIGEST)
    assert value_in(store) == expected
    assert value_in(FileResiduals(tmp_path / "r", lambda _digest: True)) == expected


def test_an_outbox_that_cannot_be_read_leaves_what_was_in_force(tmp_path):
    def broken(_digest):
        raise WorldError("no disk")

    crashed_before_the_commit(tmp_path / "r")
    assert value_in(FileResiduals(tmp_path / "r", broken)) == 1


@pytest.mark.parametrize("name", ["r", "r.next"])
@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\xff" * 64])
def test_a_damaged_file_is_left_aside_with_a_word_in_the_log(tmp_path, caplog, name, content):
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert value_in(FileResiduals(tmp_path / "r", lambda _digest: True)) is None
    assert f"{tmp_path / name} cannot be used" in caplog.text


def test_no_file_is_no_residual_and_no_noise(tmp_path, caplog):
    assert value_in(FileResiduals(tmp_path / "r", nowhere)) is None
    assert caplog.text == ""


def test_where_the_disk_refuses_feedback_begins_anew_rather_than_count_twice(tmp_path, caplog):
    folder = tmp_path / "state"
    folder.mkdir()
    store = FileResiduals(folder / "r", nowhere)
    store.stage(OTHER, sealed(1))
    store.commit(OTHER)
    (folder / "r.next").mkdir()  # nothing can be written there
    store.stage(DIGEST, sealed(2))
    store.commit(DIGEST)
    assert value_in(store) is None
    assert "error feedback begins anew" in caplog.text
