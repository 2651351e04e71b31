"""Which builds of onnxruntime are found, and what is said where the wanted one cannot be used."""

from __future__ import annotations

import importlib
import platform
import sys

import pytest

from firmware_profiles.errors import UserError
from models.engines import installed
from models.engines.installed import explain_onnxruntime, onnxruntime_kind

needs_plain_build = pytest.mark.skipif(onnxruntime_kind() != "plain", reason="needs plain onnxruntime")


@pytest.fixture
def folder(tmp_path):
    """A function that makes a folder of packages in which these are installed."""

    def install(*names):
        for name in names:
            info = tmp_path / f"{name.replace('-', '_')}-1.2.3.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
        return [str(tmp_path)]

    return install


@pytest.fixture(autouse=True)
def machine_with_wheels(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(installed, "_NEWEST_PYTHON", sys.version_info[:2])


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((), "none"),
        (("numpy",), "none"),
        (("onnxruntime",), "plain"),
        (("onnxruntime-gpu",), "plain"),
        (("onnxruntime-training-cpu",), "training"),
        (("onnxruntime-training",), "training"),
        (("onnxruntime", "onnxruntime-training-cpu"), "both"),
    ],
    ids=str,
)
def test_the_kind_tells_which_builds_are_installed(folder, names, kind):
    assert onnxruntime_kind(folder(*names)) == kind


def test_nothing_installed_says_what_to_install(folder):
    assert explain_onnxruntime("plain", folder()) == (
        "onnxruntime, and no build of it is installed here: pip install 'edgetide[onnx]'"
    )


def test_both_builds_together_are_told_apart_with_the_way_out(folder):
    told = explain_onnxruntime("training", folder("onnxruntime", "onnxruntime-training-cpu"))
    assert "onnxruntime 1.2.3 and onnxruntime-training-cpu 1.2.3 are installed here" in told
    assert "overwrite each other's files" in told
    assert told.endswith(
        "pip uninstall onnxruntime onnxruntime-training-cpu, then pip install 'edgetide[ort-training]'"
    )


def test_the_other_build_alone_leads_to_an_environment_of_its_own(folder):
    told = explain_onnxruntime("plain", folder("onnxruntime-training-cpu"))
    assert "onnxruntime-training-cpu 1.2.3 is installed here" in told
    assert "make an environment of its own for edgetide[onnx]" in told


def test_the_wanted_build_alone_is_damaged_where_it_cannot_be_used(folder):
    told = explain_onnxruntime("training", folder("onnxruntime-training-cpu"))
    assert "is installed here, but damaged: pip uninstall onnxruntime-training-cpu, then pip install" in told


def test_a_machine_without_a_training_wheel_is_told_to_use_onnx(folder, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    told = explain_onnxruntime("training", folder())
    assert "no wheel for aarch64" in told
    assert told.endswith("use engine onnx")


@needs_plain_build
def test_the_training_engine_beside_the_ordinary_build_says_what_was_found():
    with pytest.raises(UserError, match=r"'ort-training' needs onnxruntime-training-cpu, and onnxruntime \d"):
        importlib.import_module("models.engines.ort_training")


@needs_plain_build
def test_a_build_without_its_gradient_builder_is_damaged(monkeypatch):
    monkeypatch.setattr(installed, "onnxruntime_kind", lambda path=None: "training")
    with pytest.raises(UserError, match="damaged: pip uninstall"):
        importlib.import_module("models.engines.ort_training")
