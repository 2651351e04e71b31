"""Start, stop, resume, start anew: one state folder through the life of `edgetide up`."""

from __future__ import annotations

import re

import psutil
import pytest

pytestmark = pytest.mark.timeout(170)

ROUNDS = 3


@pytest.fixture(scope="module")
def fleet(make_fleet):
    """The tests below run in order: each finds what the one before it left."""
    return make_fleet(rounds=ROUNDS)


@pytest.fixture(scope="module")
def interrupted(fleet):
    """The fleet after Ctrl-C in the middle of its second round."""
    fleet.wait_for_line("coordinator", r"round opened \{'round': 2")
    fleet.interrupt()
    fleet.wait()
    fleet.said_when_interrupted = fleet.said
    fleet.versions_when_interrupted = fleet.database("SELECT max(version) FROM versions")[0][0]
    return fleet


@pytest.fixture(scope="module")
def resumed(interrupted):
    interrupted.start("--exit")
    interrupted.wait()
    return interrupted


def test_ctrl_c_says_in_one_line_how_to_go_on(interrupted):
    assert interrupted.process.returncode == 1
    errors = [line for line in interrupted.said_when_interrupted.splitlines() if "edgetide: error:" in line]
    assert len(errors) == 1
    assert f"the same command resumes it from {interrupted.state}, --fresh begins a new one" in errors[0]
    assert "Traceback" not in interrupted.said_when_interrupted


def test_ctrl_c_leaves_no_process_and_breaks_nothing(interrupted):
    assert len(interrupted.pids_seen) >= 5  # up, broker, coordinator, two agents
    assert [pid for pid in interrupted.pids_seen if psutil.pid_exists(pid)] == []
    for name in ("coordinator", "device-1", "device-2"):
        assert "Traceback" not in interrupted.log(name)


def test_the_same_command_resumes_and_does_the_rounds_that_are_left(resumed):
    assert resumed.process.returncode == 0, resumed.explain()
    assert re.search(r"^resumes run-", resumed.said, re.MULTILINE)
    assert resumed.report["resumed"] is True
    assert resumed.report["rounds"] == ROUNDS
    assert 0 < resumed.versions_when_interrupted < ROUNDS
    second_life = resumed.log("coordinator").partition("resumed at version")[2]
    assert second_life.count("round committed") == ROUNDS - resumed.versions_when_interrupted
    assert resumed.database("SELECT count(*) FROM versions")[0][0] == ROUNDS + 1


@pytest.fixture(scope="module")
def fresh(resumed):
    """A new run in the old folder, finished, with the page still there."""
    resumed.last_run = resumed.report["run"]
    resumed.start("--fresh", "--rounds", "1")
    resumed.wait_for("the end of the run", lambda: "The page stays" in resumed.said)
    return resumed


def test_fresh_begins_a_new_run_and_keeps_the_old_one_aside(fresh):
    assert re.search(r"^begins run-", fresh.said, re.MULTILINE)
    assert fresh.get("fleet")["run"]["run"] != fresh.last_run
    assert fresh.database("SELECT max(version) FROM versions") == [(1,)]
    assert len(list((fresh.state / "coordinator").glob("coordinator.sqlite.*.aside"))) == 1


def test_a_coordinator_killed_after_the_end_shows_the_finished_run_again(fresh):
    run = fresh.get("fleet")["run"]["run"]
    fresh.kill("coordinator")
    shown = fresh.wait_for("the page", lambda: (fresh.get("fleet") or {}).get("run"))
    assert shown["run"] == run
    fresh.wait_for("the end", lambda: fresh.get("fleet")["run"]["state"] == "finished")
    assert fresh.database("SELECT count(*) FROM runs") == [(1,)]


def test_a_second_start_on_the_same_folder_is_refused(fresh, edgetide):
    second = edgetide("up", "--state", fresh.state, "--port", 0, "--devices", 1)
    assert second.returncode == 1
    assert second.errors == [second.stderr.strip()]
    assert f"another `edgetide up` runs on the state folder {fresh.state}" in second.stderr


def test_a_second_start_on_the_same_port_is_refused(fresh, edgetide, tmp_path):
    port = re.search(r"page: http://127\.0\.0\.1:(\d+)", fresh.said)[1]
    second = edgetide("up", "--state", tmp_path / "other", "--port", port, "--devices", 1)
    assert second.returncode == 1
    assert second.errors == [second.stderr.strip()]
    assert f"port {port} is busy" in second.stderr
    assert "--port" in second.stderr


def test_ctrl_c_after_the_end_is_a_success_with_the_report_as_the_last_line(fresh):
    fresh.interrupt()
    assert fresh.wait() == 0, fresh.explain()
    assert fresh.report["rounds"] == 1
