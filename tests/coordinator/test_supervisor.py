"""Children of the supervisor: real processes, real signals."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest

from coordinator.supervisor import Patience, Supervisor
from firmware_profiles.errors import WorldError

PATIENCE_S = 20.0
QUICK = Patience(first_wait_s=0.01, longest_wait_s=0.02, num_fast_failures=3, grace_s=5.0)
SLEEP = ["sleep", "1000"]


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.fixture
def supervisor(tmp_path):
    with Supervisor(tmp_path / "cohort.json", patience=QUICK, signals=False, rng=random.Random(1)) as running:
        yield running


@pytest.fixture
def log_path(tmp_path):
    return tmp_path / "logs" / "child.log"


@pytest.fixture
def says(tmp_path):
    """A pipe that scripts write a word into, so that the test can wait for it."""
    os.mkfifo(tmp_path / "says")
    return tmp_path / "says"


def dead(pid):
    """Wait until a process is gone (a zombie nobody waits for counts as gone)."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(PATIENCE_S) is None
    except psutil.NoSuchProcess:
        return True


def cohort(tmp_path):
    return json.loads((tmp_path / "cohort.json").read_text())


def test_a_child_that_is_killed_comes_back(supervisor, log_path):
    first = supervisor.start("sleeper", SLEEP, log_path=log_path)
    os.kill(first, signal.SIGKILL)
    assert supervisor.wait_until(lambda: supervisor.pid("sleeper") not in (None, first), PATIENCE_S)
    assert supervisor.num_restarts("sleeper") == 1


def test_a_child_that_has_done_its_work_is_not_started_again(supervisor, log_path):
    supervisor.start("worker", ["true"], log_path=log_path)
    assert supervisor.wait("worker", PATIENCE_S) == 0
    assert supervisor.num_restarts("worker") == 0


def test_a_child_that_must_not_be_restarted_stays_dead(supervisor, log_path):
    pid = supervisor.start("once", SLEEP, log_path=log_path, restart=False)
    os.kill(pid, signal.SIGKILL)
    assert supervisor.wait("once", PATIENCE_S) == -signal.SIGKILL


def test_repeated_fast_failures_are_given_up_with_the_end_of_the_log(supervisor, log_path):
    supervisor.start("broken", python("raise SystemExit('no data in /nowhere')"), log_path=log_path)
    with pytest.raises(
        WorldError, match=r"(?s)broken failed 3 times in a row.*status 1.*no data in /nowhere"
    ):
        supervisor.wait("broken", PATIENCE_S)


def test_a_program_that_is_not_there_is_named_at_once(supervisor, log_path):
    with pytest.raises(WorldError, match="no program 'nowhere-to-be-found'"):
        supervisor.start("ghost", ["nowhere-to-be-found"], log_path=log_path)


def test_two_children_of_one_name_are_a_mistake_of_ours(supervisor, log_path):
    supervisor.start("twin", SLEEP, log_path=log_path)
    with pytest.raises(ValueError, match="twin"):
        supervisor.start("twin", SLEEP, log_path=log_path)


def test_a_stopped_child_is_not_started_again(supervisor, log_path):
    supervisor.start("sleeper", SLEEP, log_path=log_path)
    supervisor.stop("sleeper")
    assert supervisor.returncode("sleeper") == -signal.SIGTERM
    assert supervisor.pid("sleeper") is None


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(says, log_path):
    script = f"trap '' TERM; echo deaf > {says}; while :; do sleep 0.02; done"
    with Supervisor(patience=Patience(grace_s=0.1), signals=False) as supervisor:
        supervisor.start("deaf", ["sh", "-c", script], log_path=log_path)
        assert says.read_text() == "deaf\n"
        supervisor.stop("deaf")
        assert supervisor.returncode("deaf") == -signal.SIGKILL


def test_what_a_child_has_started_itself_ends_with_it(supervisor, says, log_path):
    supervisor.start("parent", ["sh", "-c", f"sleep 1000 & echo $! > {says}; wait"], log_path=log_path)
    grandchild = int(says.read_text())
    supervisor.stop("parent")
    assert dead(grandchild)


def test_the_cohort_file_lists_who_lives(supervisor, tmp_path, log_path):
    agent = supervisor.start("agent", SLEEP, log_path=log_path, agent=True)
    other = supervisor.start("coordinator", SLEEP, log_path=log_path)
    assert supervisor.wait_until(lambda: len(cohort(tmp_path)["others"]) == 2, PATIENCE_S)
    assert cohort(tmp_path) == {"agents": [agent], "others": [os.getpid(), other]}
    supervisor.stop("agent")
    assert cohort(tmp_path) == {"agents": [], "others": [os.getpid(), other]}


def test_the_cohort_file_is_gone_at_the_end(tmp_path, log_path):
    with Supervisor(tmp_path / "cohort.json", signals=False) as supervisor:
        supervisor.start("agent", SLEEP, log_path=log_path, agent=True)
    assert not (tmp_path / "cohort.json").exists()


def test_a_child_is_given_the_environment_asked_for(supervisor, log_path):
    supervisor.start("env", ["env"], log_path=log_path, env={"PATH": os.environ["PATH"], "TIDE": "high"})
    supervisor.wait("env", PATIENCE_S)
    assert "TIDE=high" in log_path.read_text()


def test_a_child_started_by_a_thread_that_ends_lives_on(supervisor, log_path):
    thread = threading.Thread(target=lambda: supervisor.start("sleeper", SLEEP, log_path=log_path))
    thread.start()
    thread.join()
    pid = supervisor.pid("sleeper")
    supervisor.start("later", ["true"], log_path=log_path)
    supervisor.wait("later", PATIENCE_S)
    assert supervisor.pid("sleeper") == pid
    assert supervisor.num_restarts("sleeper") == 0


def test_agents_end_before_what_they_talk_to(tmp_path, says, log_path):
    with Supervisor(signals=False) as supervisor:
        for name, agent in (("broker", False), ("coordinator", False), ("agent", True)):
            trap = f"trap 'echo {name} >> {tmp_path}/order; exit 0' TERM"
            script = f"{trap}; echo up > {says}; while :; do sleep 0.02; done"
            supervisor.start(name, ["sh", "-c", script], log_path=log_path, agent=agent)
            assert says.read_text() == "up\n"
    assert (tmp_path / "order").read_text().split() == ["agent", "coordinator", "broker"]


UP = """
    import sys, time
    from pathlib import Path
    from coordinator.supervisor import Patience, Supervisor
    folder = Path(sys.argv[1])
    with Supervisor(folder / "cohort.json", patience=Patience(grace_s=float(sys.argv[2]))) as supervisor:
        supervisor.start("one", ["sleep", "1000"], log_path=folder / "log", agent=True)
        supervisor.start("two", ["sh", "-c", sys.argv[3]], log_path=folder / "log")
        print(supervisor.pid("one"), supervisor.pid("two"), flush=True)
        time.sleep(1000)
"""


@pytest.fixture
def up(tmp_path):
    """A program with two children, as `edgetide up` is one."""
    started = []

    def start(grace_s=10.0, script="sleep 1000"):
        process = subprocess.Popen(
            [*python(UP), str(tmp_path), str(grace_s), script], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, [int(pid) for pid in process.stdout.readline().split()]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_ctrl_c_and_sigterm_end_every_child(up, number, status):
    process, pids = up()
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == status
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_second_ctrl_c_kills_what_does_not_end(up, says):
    script = f"trap 'echo deaf > {says}' TERM; echo ready > {says}; while :; do sleep 0.02; done"
    process, pids = up(grace_s=1000.0, script=script)
    assert says.read_text() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert says.read_text() == "deaf\n"  # the end has begun, and this child does not follow
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == -signal.SIGINT
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_no_child_outlives_a_killed_supervisor(up, says):
    process, pids = up(script=f"echo ready > {says}; exec sleep 1000")
    assert says.read_text() == "ready\n"
    process.kill()
    process.wait()
    assert all(dead(pid) for pid in pids)
