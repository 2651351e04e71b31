"""The resident process is told exactly what the command line understood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent import service
from device_agent.local_data import DataConfig
from device_agent.runtime import AgentConfig
from device_agent.wire.mqtt_options import TlsFiles
from firmware_profiles.process import own_argv
from firmware_profiles.profile import load_profile


def config(**changes):
    fields = {
        "broker": "mqtt://user:secret@127.0.0.1:1",
        "tls": None,
        "fleet": "test",
        "device": "device-1",
        "data": DataConfig(source="nowhere.npz", shard=(1, 4), scheme="dirichlet:0.3", seed=7),
        "profile": load_profile("raspberry-pi-4"),
        "policy": Path("policy.yaml"),
        "state": Path("/tmp/state"),
        "engine": "auto",
        "num_threads": 1,
        "cohort": None,
    }
    return AgentConfig(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"policy": None, "tls": TlsFiles(ca_file="ca.pem")}, {"cohort": Path("cohort.json")}]
)
def test_the_resident_process_runs_what_it_was_told(monkeypatch, changes):
    became, ran = [], []
    monkeypatch.setattr(os, "execve", lambda _program, argv, environment: became.append((argv, environment)))
    service.become(service.Service(config(**changes), "WARNING"))
    (argv, environment) = became[0]
    assert "secret" not in " ".join(argv)
    monkeypatch.setenv(service.VARIABLE, environment[service.VARIABLE])
    monkeypatch.setattr(service, "run_agent", ran.append)
    monkeypatch.setattr(service, "set_up_logs", lambda _level: None)
    service.main()
    assert ran == [config(**changes)]
    assert service.VARIABLE not in os.environ


def test_an_error_of_the_users_is_one_line_and_exit_1(tmp_path):
    data = DataConfig(source=str(tmp_path / "nowhere.npz"))
    told = service.Service(config(data=data, policy=None, state=tmp_path), "INFO")
    text = service.msgspec.json.encode(told, enc_hook=str).decode()
    environment = {**os.environ, service.VARIABLE: text}
    done = subprocess.run(
        own_argv("device_agent.service"), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("edgetide: error: ")
    assert "nowhere.npz" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_of_the_users_that_is_called_models_does_not_shadow_ours(tmp_path):
    for name in ("models", "device_agent", "firmware_profiles"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    done = subprocess.run(
        own_argv("coordinator.cli", "--help"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_resident_process_does_without_the_command_lines_libraries():
    heavy = ("typer", "rich", "pydantic", "torch")
    code = f"import sys, device_agent.service; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
