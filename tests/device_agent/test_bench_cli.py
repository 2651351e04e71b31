"""`edgetide agent bench`: what it prints, writes and warns of."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from device_agent.bench import Calibration, Timing
from device_agent.bench_cli import bench, doubts
from device_agent.bench_files import describe_state, measured_table, profile_name
from firmware_profiles.errors import UserError
from firmware_profiles.profile import core_seconds, load_profile
from firmware_profiles.resources import Snapshot
from models.bundle import encode
from models.cost_fit import StepCoefficients
from models.graph import digest
from models.table import find_fault, load_table, uniform_table
from models.zoo.bundles import shipped_bundle

COEFFICIENTS = StepCoefficients(
    core_seconds_per_step=1e-3, core_seconds_per_mac=1e-11, core_seconds_per_activation_byte=1e-9
)


@pytest.fixture(scope="module")
def bundle():
    """The default network as the agent keeps it, with mini-batches of 2 so that steps are short."""
    found = shipped_bundle("cnn-28")
    assert found is not None
    table = uniform_table(found.graph, found.plan, 2, (0.25, 0.4, 0.5, 0.6, 0.75))
    return msgspec.structs.replace(found, table=table)


@pytest.fixture
def run(tmp_path, bundle):
    model = tmp_path / "kept.bundle"
    model.write_bytes(encode(bundle))
    app = typer.Typer()
    app.command()(bench)

    def invoke(*arguments: str):
        given = ["--model", str(model), "--engine", "numpy", "--repeats", "1", "--vectors", "3"]
        return CliRunner().invoke(app, [*given, *arguments])

    return invoke


def test_a_bench_reports_and_writes_a_valid_table_and_profile(run, bundle, tmp_path):
    table, board = tmp_path / "out" / "table.yaml", tmp_path / "out" / "my-board.yaml"
    result = run("--json", "--table-out", str(table), "--profile-out", str(board))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["engine"] == "numpy"
    assert len(report["fitted"]) == 3
    assert len(report["validated"]) == 3
    assert report["worst_error"] >= report["median_error"] >= 0
    loaded = load_table(table)
    assert find_fault(loaded, digest(bundle.graph), bundle.plan) is None
    assert [entry.core_seconds for entry in loaded.entries] == report["core_seconds"]
    assert "edgetide agent bench" in loaded.source
    profile = load_profile(board)
    assert profile.name == "my-board"
    assert profile.speeds["numpy"].measured
    assert "cnn-28" in profile.speeds["numpy"].basis
    exact = report["exact_coefficients"]["core_seconds_per_step"]
    assert core_seconds(profile, "numpy", 0.0) == pytest.approx(exact, rel=1e-3)
    assert sorted(path.name for path in table.parent.iterdir()) == ["my-board.yaml", "table.yaml"]


def test_a_file_that_is_there_is_left_alone_without_force(run, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text("mine")
    result = run("--table-out", str(table))
    assert isinstance(result.exception, UserError)
    assert "--force" in str(result.exception)
    assert table.read_text() == "mine"
    assert run("--table-out", str(table), "--force").exit_code == 0
    assert load_table(table).model == "cnn-28"


def test_people_see_the_vectors_and_the_error(run):
    result = run()
    assert result.exit_code == 0, result.output
    assert "validate" in result.stdout
    assert "error of predictions: median" in result.stdout


def test_the_default_network_needs_neither_torch_nor_the_package_onnx():
    code = (
        "import sys\n"
        "sys.modules.update(torch=None, onnx=None)\n"
        "from device_agent.bench_subject import load_subject\n"
        "bundle = load_subject('cnn-28', None, None)\n"
        "assert bundle.artifacts and len(bundle.table.entries) > 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def calibration(bundle, *, validated=True, disturbed=0):
    timing = Timing(vector=(1, 1, 1), core_seconds=0.1, num_steps=9, num_disturbed=disturbed)
    return Calibration(
        fitted=(timing,),
        validated=(timing,) if validated else (),
        errors=(0.1,),
        coefficients=COEFFICIENTS,
        exact_coefficients=COEFFICIENTS,
        table=bundle.table,
    )


QUIET = Snapshot(num_cores=4, cpu_others_fraction=0.02, throttled=False, clock_hz=1.5e9)


def test_a_quiet_board_is_not_doubted(bundle):
    assert doubts(QUIET, QUIET, calibration(bundle)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpu_others_fraction": 0.35}, "other processes used 35%"),
        ({"throttled": True}, "throttled itself"),
        ({"clock_hz": 6e8}, "fell from 1500 to 600 MHz"),
    ],
)
def test_what_disturbed_the_board_is_said(bundle, change, said):
    after = Snapshot(**{**{name: getattr(QUIET, name) for name in QUIET.__dataclass_fields__}, **change})
    (warning,) = doubts(QUIET, after, calibration(bundle))
    assert said in warning


def test_lost_cores_and_small_tables_are_said(bundle):
    assert "left out" in doubts(QUIET, QUIET, calibration(bundle, disturbed=20))[0]
    assert "too few" in doubts(QUIET, QUIET, calibration(bundle, validated=False))[0]


def test_the_source_tells_of_the_last_calibration_and_stays_within_its_limit(bundle):
    long = msgspec.structs.replace(bundle.table, source="x" * 1000)
    once = measured_table(long, "measured once")
    twice = measured_table(once, "measured twice")
    assert len(twice.source) <= 1000
    assert twice.source.endswith("; core_seconds: measured twice")
    assert "once" not in twice.source


def test_a_profile_is_named_by_its_file(tmp_path):
    assert profile_name(tmp_path / "My Board.yaml") == "my-board"
    with pytest.raises(UserError, match="names the profile"):
        profile_name(tmp_path / "___.yaml")


def test_what_the_board_does_not_sense_is_not_described():
    bare = Snapshot(num_cores=1)
    assert describe_state(bare, bare) == ""
    warm = Snapshot(num_cores=1, temperature_celsius=50.0)
    assert describe_state(warm, warm) == "50 to 50 °C"
