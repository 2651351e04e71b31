from __future__ import annotations

import pytest

from device_agent.local_data import DataConfig
from device_agent.runtime import AgentConfig, run_agent
from firmware_profiles.errors import UserError
from firmware_profiles.profile import load_profile


def test_an_unknown_engine_is_refused_before_the_agent_joins(tmp_path):
    config = AgentConfig(
        broker="mqtt://127.0.0.1:1",
        tls=None,
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
