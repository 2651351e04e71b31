"""Methods without rounds, live: updates that are applied as they come, and neighbours that exchange."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(170)

SMALL = ("--exit", "--model", "cnn-tiny-28")


@pytest.fixture(scope="module")
def fleets(make_fleet):
    """Both at once: most of their time they start and wait."""
    return {
        "dsgd": make_fleet(*SMALL, "--strategy", "dsgd", "--barrier-seconds", "0.3", devices=3, rounds=20),
        "async": make_fleet(*SMALL, "--strategy", "async", "--round-seconds", "0.5", rounds=10),
    }


def test_neighbours_exchange_between_real_processes(fleets):
    fleet = fleets["dsgd"]
    assert fleet.wait() == 0, fleet.explain()
    peers = fleet.report["peers"]
    assert peers["devices"] == ["device-1", "device-2", "device-3"]
    assert sum(peers["bytes_sent"]) > 0
    assert sum(completed for _, _, _, completed, _, _ in peers["links"]) > 0
    for _, _, begun, completed, taken_back, one_sided in peers["links"]:
        assert completed + taken_back + one_sided <= begun
    assert [point["window"] for point in peers["consensus_distance"]] == [1, 2]
    assert fleet.report["updates_refused"] == 0


def test_updates_are_applied_as_they_come(fleets):
    fleet = fleets["async"]
    assert fleet.wait() == 0, fleet.explain()
    report = fleet.report
    versions = fleet.database("SELECT version, num_updates FROM versions ORDER BY version")
    assert [version for version, _ in versions] == list(range(11))
    nums = [num for _, num in versions[1:]]
    assert set(nums) <= {1, 2}  # as many as there are devices, unless one of them took too long
    assert report["updates_applied"] == sum(report["staleness"].values()) == sum(nums)
    assert sum(device["updates"] for device in report["devices"]) == sum(nums)
    assert report["updates_refused"] == 0
