"""Runs side by side: how many at a time, in which order, and what a failure costs."""

from pathlib import Path

import pytest

from coordinator.comparing.plan import plan_comparison
from coordinator.comparing.progress import TimeLeft, duration
from coordinator.comparing.runs import Now, run_all


class Slow:
    """A run that is over when its clock says so."""

    def __init__(self, clock, takes_s, reason=None):
        self.clock, self.end_s, self.reason, self.is_killed = clock, clock.now_s + takes_s, reason, False

    def ended(self):
        return self.clock.now_s >= self.end_s

    def failure(self):
        return self.reason

    def fraction(self):
        return 0.5

    def kill(self):
        self.is_killed = True


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds


@pytest.fixture
def runs(world, make_scenario):
    """Six: two methods, three seeds."""
    make_scenario()
    (plan,) = plan_comparison([world / "small.yaml"], methods={"a": {}, "b": {}}, seeds=[0, 1, 2])
    return [(run, Path(run.file_name)) for run in plan.runs]


def carry_out(
    runs, takes_s=lambda _run: 1.0, fails=lambda _run: None, num_workers=2, watch=lambda _now: None
):
    clock, started = Clock(), []

    def start(run, _path):
        reason = fails(run)
        if isinstance(reason, OSError):
            raise reason
        started.append((run, clock.now_s, Slow(clock, takes_s(run), reason)))
        return started[-1][2]

    failures = run_all(runs, start, num_workers=num_workers, watch=watch, clock=clock, wait=clock.wait)
    return started, failures


def test_so_many_run_at_a_time_in_the_order_planned(runs):
    most = []
    started, failures = carry_out(runs, watch=lambda now: most.append(len(now.running)))
    assert [run for run, _, _ in started] == [run for run, _ in runs]
    assert max(most) == 2
    assert failures == []


def test_a_worker_that_is_free_takes_the_next_run(runs):
    started, _ = carry_out(runs, takes_s=lambda run: 9.0 if run is runs[0][0] else 1.0)
    assert max(began_s for _, began_s, _ in started) < 9


def test_a_failed_run_is_told_and_does_not_stop_the_others(runs):
    bad, told = runs[1][0], []
    started, failures = carry_out(
        runs, fails=lambda run: "no memory" if run is bad else None, watch=told.append
    )
    assert len(started) == 6
    assert [(failure.run, failure.reason) for failure in failures] == [(bad, "no memory")]
    assert [now.reason for now in told if now.finished is bad] == ["no memory"]


def test_a_run_that_cannot_be_started_is_a_failed_one(runs):
    bad = runs[0][0]
    started, failures = carry_out(runs, fails=lambda run: OSError("disk full") if run is bad else None)
    assert len(started) == 5
    assert failures[0].reason == "could not be started: disk full"


def test_what_runs_is_ended_when_we_are(runs):
    processes = []

    def interrupt(now):
        if len(now.running) == 2:
            raise KeyboardInterrupt

    clock = Clock()

    def start(_run, _path):
        processes.append(Slow(clock, 1.0))
        return processes[-1]

    with pytest.raises(KeyboardInterrupt):
        run_all(runs, start, num_workers=2, watch=interrupt, clock=clock, wait=clock.wait)
    assert [process.is_killed for process in processes] == [True, True]


def test_the_time_left_follows_from_runs_like_those_to_come(runs):
    (a0, _), (b0, _), (a1, _), (b1, _), (a2, _), (b2, _) = runs
    left = TimeLeft({a0: 10.0, b0: 30.0}, num_workers=2)
    assert left.seconds(Now(waiting=(a2, b2))) == 20
    # a1 and b1 have 5 and 20 s to go; then 40 s of work for two.
    assert left.seconds(Now(running=((a1, 0.0, 5.0), (b1, 0.0, 10.0)), waiting=(a2, b2))) == 32.5


def test_a_run_under_way_tells_how_long_it_takes_where_nothing_else_does(runs):
    (a0, _), (b0, _), *_ = runs
    left = TimeLeft({}, num_workers=1)
    assert left.seconds(Now(running=((a0, 0.0, 5.0),))) is None
    assert left.seconds(Now(running=((a0, 0.25, 5.0),), waiting=(b0,))) == 15 + 20


def test_durations_are_told_as_people_do():
    assert [duration(seconds) for seconds in (45, 600, 12_000)] == ["45 s", "10 min", "3 h 20 min"]
