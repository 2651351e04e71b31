"""A fleet without torch, and one whose devices compute with unlike engines."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(170)

PATIENT = ("--exit", "--rounds", 2, "--passes", 4, "--round-seconds", 90)
"""A round ends when both devices are done with their mini-batches, however slow the machine is."""

WITHOUT_TORCH = Path(__file__).parents[1] / "fixtures" / "without_torch"


def engines(fleet):
    return {device["id"]: device["engine"] for device in fleet.report["devices"] if device["updates"]}


def test_a_fleet_on_onnx_learns_and_none_of_its_processes_imports_torch(make_fleet, tmp_path):
    imports = tmp_path / "imports"
    variables = {"PYTHONPATH": str(WITHOUT_TORCH), "EDGETIDE_TEST_TORCH_IMPORTS": str(imports)}
    fleet = make_fleet("--engine", "onnx", *PATIENT, variables=variables)
    assert fleet.wait() == 0, fleet.explain()
    assert not imports.exists(), imports.read_text()
    assert engines(fleet) == {"device-1": "onnx", "device-2": "onnx"}
    assert (fleet.report["engine"], fleet.report["rounds"]) == ("onnx", 2)
    first, last = fleet.report["accuracy_curve"][0][1], fleet.report["accuracy"]
    assert last > first


def test_devices_with_unlike_engines_learn_together(make_fleet):
    pytest.importorskip("torch")
    fleet = make_fleet("--engine", "onnx,torch", *PATIENT)
    assert fleet.wait() == 0, fleet.explain()
    assert engines(fleet) == {"device-1": "onnx", "device-2": "torch"}
    assert fleet.report["engine"] == "onnx, torch"
    assert (fleet.report["updates_refused"], fleet.report["rounds"]) == (0, 2)
