"""What `scripts/up` installs: PyTorch only where it is of use or asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

ENVIRONMENT = """\
venv="{folder}/.venv"
has_nvidia_gpu() {{ [[ -e "{folder}/gpu" ]]; }}
prepare_environment() {{ echo "installs $1"; }}
"""


@pytest.fixture
def start(tmp_path):
    """A function that runs `scripts/up` with an environment that installs nothing; returns what it says."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "up", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment").write_text(ENVIRONMENT.format(folder=tmp_path))
    program = tmp_path / ".venv" / "bin" / "edgetide"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "edgetide $*"\n')
    program.chmod(0o755)

    def up(*options, **variables):
        if variables.pop("gpu", False):
            (tmp_path / "gpu").touch()
        environment = {name: value for name, value in os.environ.items() if name != "WITH_TORCH"}
        done = subprocess.run(
            [str(tmp_path / "scripts" / "up"), *options],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    return up


@pytest.mark.parametrize(
    "options", [(), ("--engine", "onnx"), ("--engine", "ort-training"), ("--model", "torch.onnx")]
)
def test_without_a_gpu_torch_is_left_out(start, options):
    assert start(*options) == ["installs light", " ".join(["edgetide up", *options])]


@pytest.mark.parametrize("options", [("--engine", "torch"), ("--engine=onnx,torch", "--exit")])
def test_an_engine_that_is_torch_installs_it(start, options):
    assert start(*options) == ["installs all", " ".join(["edgetide up", *options])]


def test_torch_is_installed_where_it_is_asked_for(start):
    assert start(WITH_TORCH="1")[0] == "installs all"


def test_torch_is_installed_where_a_gpu_is(start):
    assert start(gpu=True)[0] == "installs all"
