"""kill -9 of every part, one after another, in one run on each broker; then the books must balance."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter

import pytest

pytestmark = pytest.mark.timeout(170)

ROUNDS = 6


@pytest.fixture(scope="module")
def fleet(make_fleet, observe, broker):
    fleet = make_fleet("--exit", broker=broker, rounds=ROUNDS)
    fleet.observer = observe(fleet.broker_url)
    return fleet


def test_an_agent_killed_in_mid_training_comes_back_and_trains_on(fleet):
    fleet.wait_until_training("device-1", "device-2")
    since = len(fleet.log("coordinator"))
    fleet.kill("device-1")
    fleet.wait_for_line("coordinator", r"device-1: device offline \{'reason': 'lost'\}", since)
    fleet.wait_for_line("coordinator", r"device-1: device restarted", since)
    fleet.wait_until_training("device-1")


def test_a_broker_killed_in_mid_round_comes_back_and_the_round_goes_on(fleet):
    fleet.wait_until_training("device-1", "device-2")
    since = {name: len(fleet.log(name)) for name in ("coordinator", "device-1", "device-2")}
    fleet.kill("broker")
    for name, position in since.items():
        fleet.wait_for_line(name, r"connected to mqtt:", position)
    fleet.wait_for_line("coordinator", "round committed", since["coordinator"])


def test_a_coordinator_killed_with_an_update_in_hand_takes_it_again(fleet):
    fleet.wait_until_training("device-1", "device-2")
    since = len(fleet.log("coordinator"))
    # The round waits for device-2, so that device-1's update is received and not yet committed.
    stopped = fleet.pid("device-2")
    os.kill(stopped, signal.SIGSTOP)
    try:
        fleet.wait_for_line("coordinator", "device-1: update received", since)
        fleet.kill("coordinator")
    finally:
        os.kill(stopped, signal.SIGCONT)
    resumed = fleet.wait_for_line("coordinator", r"resumed at version", since).end()
    fleet.wait_for_line("coordinator", "device-1: update received", since + resumed)
    fleet.wait_for_line("coordinator", "round committed", since + resumed)


def test_a_coordinator_killed_while_devices_train_goes_on_where_it_was(fleet):
    fleet.wait_until_training("device-1", "device-2")
    since = len(fleet.log("coordinator"))
    version = fleet.database("SELECT max(version) FROM versions")[0][0]
    fleet.kill("coordinator")
    resumed = fleet.wait_for_line("coordinator", r"resumed at version (\d+)", since)
    assert int(resumed[1]) >= version
    fleet.wait_for_line("coordinator", "round committed", since)


def test_the_run_ends_as_if_nothing_had_happened(fleet):
    assert fleet.wait() == 0, fleet.explain()
    report = fleet.report
    assert report["rounds"] == ROUNDS
    assert len(report["accuracy_curve"]) >= ROUNDS
    # chance is 0.1; how much is learned in some seconds, the machine's load decides
    assert report["accuracy"] == report["accuracy_curve"][-1][1] > 0.15


def test_every_update_was_applied_exactly_once_or_counted_as_expired(fleet):
    from device_agent.wire.codec import decode
    from device_agent.wire.messages import Update

    fleet.wait()
    rows = fleet.database("SELECT run, device, boot_epoch, sequence, outcome, version FROM outcomes")
    assert len({row[0] for row in rows}) == 1  # one run, through all restarts
    outcomes = {
        (device, epoch, sequence): (what, version) for _, device, epoch, sequence, what, version in rows
    }
    assert {what for what, _ in outcomes.values()} <= {"applied", "expired"}

    versions = fleet.database("SELECT version, round, num_updates FROM versions ORDER BY version")
    assert [version for version, _, _ in versions] == list(range(ROUNDS + 1))
    assert [round_ for _, round_, _ in versions] == list(range(ROUNDS + 1))
    applied = Counter(version for what, version in outcomes.values() if what == "applied")
    assert {version: count for version, _, count in versions if count} == applied

    waiting = {(name, *key) for name in ("device-1", "device-2") for key in fleet.outbox(name)}
    sent = {
        (sender, envelope.boot_epoch, envelope.sequence)
        for sender, payload in fleet.observer.payloads("up")
        if isinstance((envelope := decode(payload, f"edgetide/v1/edgetide/{sender}/up")).body, Update)
    }
    assert sent <= outcomes.keys() | waiting
    # Of what still waits, only the last acknowledgement may have come too late.
    assert all(outcomes[key][1] in (None, ROUNDS) for key in waiting & outcomes.keys())
    put = sum(
        len(re.findall("update put in the outbox", fleet.log(name))) for name in ("device-1", "device-2")
    )
    assert put <= len(outcomes.keys() | waiting) <= put + 1  # a kill may fall between the put and its line

    report = fleet.report
    assert report["updates_applied"] == sum(what == "applied" for what, _ in outcomes.values())
    # What comes between the report and the end of the processes is in the books, not in the report.
    (expired,) = fleet.database(
        "SELECT count(*) FROM outcomes WHERE outcome = 'expired' AND reason != 'the run is over'"
    )[0]
    assert expired <= report["updates_expired"] <= sum(what == "expired" for what, _ in outcomes.values())
    assert report["updates_refused"] == 0


def test_no_process_is_left(fleet):
    import psutil

    fleet.wait()
    assert [pid for pid in fleet.pids_seen if psutil.pid_exists(pid)] == []
