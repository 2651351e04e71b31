"""Profiles: those that ship, those of a user, and which one a board is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from firmware_profiles.errors import UserError
from firmware_profiles.profile import Speed, core_seconds, detect_profile, list_profiles, load_profile

BOARDS = Path(__file__).parents[1] / "fixtures" / "boards"


def test_the_boards_of_the_design_ship():
    assert set(list_profiles()) == {
        "generic-linux",
        "jetson-nano",
        "jetson-orin-nano",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "raspberry-pi-zero-2",
    }


@pytest.mark.parametrize("name", list_profiles())
def test_a_shipped_profile_bears_its_file_name_and_reserves_less_than_it_has(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.memory_reserve_bytes < profile.memory_total_bytes


@pytest.mark.parametrize("name", list_profiles())
def test_no_shipped_speed_claims_to_be_measured_on_the_board(name):
    # To be changed with the first measurement on a real board, whose record the basis then names.
    assert not any(speed.measured for speed in load_profile(name).speeds.values())


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("raspberry-pi-4", "raspberry-pi-4"),
        ("jetson-orin-nano", "jetson-orin-nano"),
        ("laptop", "generic-linux"),
    ],
)
def test_a_board_is_told_by_its_device_tree(board, name):
    assert detect_profile(BOARDS / board).name == name


@pytest.mark.parametrize("model", [b"", b"Toaster 9\0", b"\xff\xfe\0\0", b"Raspberry Pi 3 Model B Rev 1.2\0"])
def test_a_board_nobody_knows_is_generic_linux(tmp_path, model):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(model)
    assert detect_profile(tmp_path).name == "generic-linux"


def test_the_device_tree_is_found_in_sysfs_too(tmp_path):
    folder = tmp_path / "sys/firmware/devicetree/base"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"Raspberry Pi Zero 2 W Rev 1.0\0")
    assert detect_profile(tmp_path).name == "raspberry-pi-zero-2"


def test_a_misspelt_profile_gets_the_nearest_name():
    with pytest.raises(UserError, match='did you mean "raspberry-pi-4"'):
        load_profile("rasberry-pi-4")


def test_a_profile_of_ones_own_is_loaded_by_path(tmp_path):
    text = Path("firmware_profiles/profiles/generic-linux.yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(
        (Path(__file__).parents[2] / text).read_text().replace("name: generic-linux", "name: mine")
    )
    assert load_profile(path).name == "mine"
    assert load_profile(str(path)).name == "mine"


def test_a_corrupt_profile_is_refused_by_line_and_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: Not A Name\n")
    with pytest.raises(UserError, match=r"mine\.yaml:1: key \"board\" is missing"):
        load_profile(path)


def test_core_seconds_are_macs_times_speed_plus_the_fixed_part():
    profile = load_profile("raspberry-pi-4")
    speed = profile.speeds["onnx"]
    expected = 1e9 * speed.core_seconds_per_mac + speed.core_seconds_per_step
    assert core_seconds(profile, "onnx", 1e9) == pytest.approx(expected)


def test_an_engine_nobody_measured_has_no_seconds():
    assert core_seconds(load_profile("raspberry-pi-4"), "ort-training", 1e9) is None


def test_activation_bytes_take_their_time_too():
    speed = Speed(
        core_seconds_per_mac=1e-10,
        core_seconds_per_step=0.01,
        core_seconds_per_activation_byte=1e-9,
        measured=True,
        basis="by hand",
    )
    profile = msgspec.structs.replace(load_profile("raspberry-pi-4"), speeds={"onnx": speed})
    assert core_seconds(profile, "onnx", 1e9, 1e7) == pytest.approx(0.01 + 0.1 + 0.01)


def test_a_speed_that_takes_no_time_is_refused(tmp_path):
    text = (Path(__file__).parents[2] / "firmware_profiles/profiles/generic-linux.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("core_seconds_per_mac: 4.8e-11", "core_seconds_per_mac: 0"))
    with pytest.raises(UserError, match="cannot both be 0"):
        load_profile(path)


@pytest.mark.parametrize("name", list_profiles())
def test_no_shipped_profile_invents_watts(name):
    assert load_profile(name).core_watts is None


def test_watts_come_with_their_basis(tmp_path):
    text = (Path(__file__).parents[2] / "firmware_profiles/profiles/generic-linux.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text + "core_watts:\n  value: 1.5\n  measured: true\n  basis: a meter at the plug\n")
    watts = load_profile(path).core_watts
    assert watts is not None
    assert watts.value == 1.5
    path.write_text(text + "core_watts:\n  value: 1.5\n  measured: true\n")
    with pytest.raises(UserError, match="basis"):
        load_profile(path)
