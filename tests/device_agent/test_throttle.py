"""Holding to the granted share of the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.throttle import MAX_CREDIT_S, MAX_DEBT_CORE_S, DutyCycle, rest_s, settle

SHARES = st.floats(0.01, 1.0)
CORES = st.integers(1, 16)


class FakeTime:
    """Clocks under the test's hand."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def compute(self, seconds: float, threads: int = 1) -> None:
        self.wall_s += seconds
        self.cpu_s += seconds * threads

    def duty(self) -> DutyCycle:
        return DutyCycle(clock=lambda: self.wall_s, cpu_clock=lambda: self.cpu_s)


def test_half_of_one_core_rests_as_long_as_it_computed():
    assert rest_s(busy_core_s=0.2, wall_s=0.2, share_fraction=0.5, num_cores=1) == pytest.approx(0.2)


def test_half_of_two_cores_lets_one_thread_run_without_rest():
    assert rest_s(busy_core_s=0.2, wall_s=0.2, share_fraction=0.5, num_cores=2) == 0.0


def test_two_threads_owe_twice_the_rest():
    assert rest_s(busy_core_s=0.4, wall_s=0.2, share_fraction=0.5, num_cores=1) == pytest.approx(0.6)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), SHARES, CORES)
def test_after_the_rest_the_share_is_not_exceeded(busy, wall, share, cores):
    rest = rest_s(busy, wall, share, cores)
    assert rest >= 0.0
    assert busy <= share * cores * (wall + rest) + 1e-6


@settings(deadline=None)
@given(st.floats(-100, 100), st.floats(0, 1e6), st.floats(0, 1e6), SHARES, CORES)
def test_debt_and_credit_are_bounded(debt, busy, wall, share, cores):
    settled = settle(debt, busy, wall, share, cores)
    assert -MAX_CREDIT_S * share * cores - 1e-9 <= settled <= MAX_DEBT_CORE_S


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 0.5), min_size=30, max_size=60), SHARES, CORES)
def test_in_the_long_run_the_share_is_held(steps, share, cores):
    time = FakeTime()
    duty = time.duty()
    for step in steps:
        time.compute(step)
        while (owed_s := duty.owed_s(share, cores)) > 1e-9:
            time.wall_s += min(owed_s, 0.5)
    allowed = share * cores * (time.wall_s + MAX_CREDIT_S)
    assert time.cpu_s <= allowed + 1e-6
    # And it is used: either all of it, or all that one thread can.
    assert time.cpu_s == pytest.approx(min(share * cores, 1.0) * time.wall_s, rel=0.02, abs=0.02)


def test_what_is_owed_is_paid_at_the_share_of_now():
    time = FakeTime()
    duty = time.duty()
    time.compute(1.0)
    assert duty.owed_s(0.1, 1) == pytest.approx(9.0)
    # 0.9 core-seconds are still owed.
    assert duty.owed_s(0.9, 1) == pytest.approx(1.0)


def test_a_pause_buys_no_burst():
    time = FakeTime()
    duty = time.duty()
    time.wall_s += 3600.0
    duty.owed_s(0.5, 1)
    time.compute(10.0)
    assert duty.owed_s(0.5, 1) == pytest.approx(10.0, abs=2 * MAX_CREDIT_S)


def test_reset_forgets_the_debt():
    time = FakeTime()
    duty = time.duty()
    time.compute(10.0)
    duty.reset()
    assert duty.owed_s(0.5, 1) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="niceness and scheduling classes as on Linux")
def test_a_nice_process_yields_and_can_be_made_nice_twice():
    code = (
        "import os; from device_agent.throttle import be_nice; be_nice(); be_nice();"
        "print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_BATCH)"
    )
    before = os.getpriority(os.PRIO_PROCESS, 0)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(max(10, before)), "True"]
