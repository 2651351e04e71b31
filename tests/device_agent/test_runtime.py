from __future__ import annotations

import logging

import pytest

from device_agent import runtime
from device_agent.local_data import DataConfig
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, policy_digest
from firmware_profiles.profile import load_profile


def test_an_unknown_engine_is_refused_before_the_agent_joins(tmp_path):
    config = runtime.AgentConfig(
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
        runtime.run_agent(config)
    assert not config.state.exists()


def test_a_stored_policy_that_cannot_be_read_is_ignored_aloud(tmp_path, caplog):
    stored = tmp_path / "policy.yaml"
    stored.mkdir()
    with caplog.at_level(logging.WARNING):
        policy, digest = runtime._policy_in_force(None, stored)
    assert (policy, digest) == (Policy(), policy_digest(Policy()))
    assert "stored policy ignored" in caplog.text


def test_without_a_stored_policy_the_default_holds_silently(tmp_path, caplog):
    assert runtime._policy_in_force(None, tmp_path / "policy.yaml")[0] == Policy()
    assert caplog.records == []
