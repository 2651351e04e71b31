from __future__ import annotations

import os

import pytest

from device_agent.local_data import DataConfig
from device_agent.runtime import AgentConfig, _policy_in_force, _store, run_agent
from device_agent.wire.codec import digest_of
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, policy_digest
from firmware_profiles.profile import load_profile

STORED = b"max_cpu_share_fraction: 0.25\n"


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "policy.yaml"
    _store(path, STORED)
    os.utime(path, (2000, 2000))
    return path


def write(path, text, modified_s):
    path.write_text(text)
    os.utime(path, (modified_s, modified_s))
    return path


def test_without_any_policy_the_default_is_in_force(tmp_path):
    assert _policy_in_force(None, tmp_path / "policy.yaml") == (Policy(), policy_digest(Policy()))


def test_a_policy_that_was_rolled_out_outlives_a_restart(stored):
    policy, digest = _policy_in_force(None, stored)
    assert policy.max_cpu_share_fraction == 0.25
    assert digest == digest_of(STORED)


def test_a_policy_that_was_rolled_out_beats_an_older_file_of_the_owners(tmp_path, stored):
    given = write(tmp_path / "own.yaml", "max_cpu_share_fraction: 0.5\n", 1000)
    assert _policy_in_force(given, stored)[0].max_cpu_share_fraction == 0.25


def test_a_policy_that_was_rolled_out_yields_to_a_newer_file_of_the_owners(tmp_path, stored):
    given = write(tmp_path / "own.yaml", "max_cpu_share_fraction: 0.5\n", 3000)
    assert _policy_in_force(given, stored)[0].max_cpu_share_fraction == 0.5


def test_a_damaged_stored_policy_is_passed_over(stored):
    stored.write_bytes(b"\xff\xfe")
    assert _policy_in_force(None, stored)[0] == Policy()


@pytest.mark.parametrize("is_stored", [False, True])
def test_an_owners_policy_that_is_not_there_is_an_error_that_names_it(tmp_path, stored, is_stored):
    if not is_stored:
        stored.unlink()
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        _policy_in_force(tmp_path / "nowhere.yaml", stored)


def test_a_disk_that_cannot_keep_a_policy_does_not_stop_the_agent(tmp_path, caplog):
    _store(tmp_path / "no such folder" / "policy.yaml", STORED)
    assert "lost at a restart" in caplog.text


def test_a_stored_policy_that_cannot_be_read_is_ignored_aloud(tmp_path, caplog):
    unreadable = tmp_path / "folder.yaml"
    unreadable.mkdir()
    assert _policy_in_force(None, unreadable)[0] == Policy()
    assert "stored policy ignored" in caplog.text


def test_an_unknown_engine_is_refused_before_the_agent_joins(tmp_path):
    config = AgentConfig(
        broker="mqtt://127.0.0.1:1",
        fleet="test",
        device="device-1",
        data=DataConfig(source="fashion-mnist-small"),
        profile=load_profile("generic-linux"),
        policy=None,
        state=tmp_path / "state",
        engine="tensorflow",
        num_threads=1,
        cohort=None,
    )
    with pytest.raises(UserError, match="'tensorflow' is unknown: choose one of auto"):
        run_agent(config)
    assert not config.state.exists()
