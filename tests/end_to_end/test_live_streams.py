"""Learning from live sources: the example command, and the example publisher over the fleet's broker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

FOLDER = Path(__file__).parents[2] / "examples" / "streams"
OPTIONS = "features=2&classes=left,right"


def start(make_fleet, data):
    options = ("--exit", "--strategy", "gossip", "--data", f"{data}?{OPTIONS}", "--round-seconds", "1")
    return make_fleet(*options, rounds=1)


def learned(fleet):
    """The streams of the report, once it is there."""
    assert fleet.wait() == 0, fleet.explain()
    seen = fleet.report["streams"]
    assert len(seen["windows"]) == 10
    assert all(device["missed"] == 0 for device in seen["devices"]), fleet.explain()
    assert all(device["labelled"] > 50 for device in seen["devices"])
    assert seen["accuracy"] > 0.85
    return seen


def test_devices_learn_from_what_a_command_prints(make_fleet):
    command = f"command:{sys.executable} {FOLDER / 'sensor.py'} --delay 3"
    for device in learned(start(make_fleet, command))["devices"]:
        assert device["labelled"] == device["seen"] - 3  # the labels of the last three were to come


def test_devices_learn_from_what_is_published_for_them(make_fleet):
    fleet = start(make_fleet, "mqtt:plant/{device}/place")
    port = fleet.broker_url.rpartition(":")[2]
    publisher = subprocess.Popen(
        [sys.executable, FOLDER / "publish.py", "--port", port, "device-1", "device-2"]
    )
    try:
        learned(fleet)
    finally:
        publisher.terminate()
        publisher.wait(20)
