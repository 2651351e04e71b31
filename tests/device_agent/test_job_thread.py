from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.job_thread import JobThread, drive
from device_agent.pacing import PAUSE_S, REST_S, Worked, pace, remaining
from device_agent.training import StepCost, TrainingResult
from firmware_profiles.errors import WorldError
from firmware_profiles.resources import Budget, Pause

STEP = StepCost(vector=(2,), macs=10, full_macs=40, num_samples=4, loss_sum=1.0)


class Bench:
    """A job whose steps take the core-seconds a test names, on a clock that only the pace's waits move."""

    def __init__(self, step_s=1.0, share=1.0, deadline_s=100.0, num_batches=10, pauses=()):
        self.time_s, self.cpu_s = 0.0, 0.0
        self.step_s, self.share = step_s, share
        self.pauses = list(pauses)
        self.tasks, self.told, self.observed, self.waits = [], [], [], []
        self.closed = False
        self.pace = pace(
            self._job(),
            num_batches=num_batches,
            deadline_at_s=deadline_s,
            grant=self._grant,
            observe=lambda cost, core_s: self.observed.append(core_s),
            report=self.told.append,
            num_cores=1,
            clock=lambda: self.time_s,
            cpu_clock=lambda: self.cpu_s,
        )

    def _job(self):
        result = TrainingResult()
        try:
            budget = yield None
            while budget is not None:
                self.time_s += self.step_s
                self.cpu_s += self.step_s
                result.step_vectors.append(0)
                budget = yield STEP
        finally:
            self.closed = True
        return result

    def _grant(self, task):
        self.tasks.append(task)
        if self.pauses and self.pauses[0] is not None:
            return Pause(self.pauses.pop(0))
        if self.pauses:
            self.pauses.pop(0)
        share = self.share(self.time_s) if callable(self.share) else self.share
        return Budget(
            cpu_share_fraction=share,
            memory_bytes=2**30,
            time_left_s=task.time_left_s,
            num_batches_left=task.num_batches_left,
        )

    def run(self):
        """Let the pace's waits pass at once."""
        while True:
            try:
                wait_s = next(self.pace)
            except StopIteration as end:
                return end.value
            self.waits.append(wait_s)
            self.time_s += wait_s


# ---------------------------------------------------------------- the pace


def test_a_job_with_all_it_wants_runs_through_without_a_wait():
    bench = Bench(num_batches=5)
    worked = bench.run()
    assert bench.waits == []
    assert len(worked.result.step_vectors) == 5
    assert (worked.busy_s, worked.wall_s) == (5.0, 5.0)


def test_each_step_is_observed_and_reported():
    bench = Bench(step_s=2.0, num_batches=3)
    bench.run()
    assert bench.observed == [2.0, 2.0, 2.0]
    assert bench.told == [STEP, STEP, STEP]


def test_half_the_cpu_takes_twice_the_time():
    worked = Bench(step_s=1.0, share=0.5, num_batches=10).run()
    assert worked.busy_s == 10.0
    assert worked.wall_s == pytest.approx(20.0, rel=0.05)


def test_a_share_that_has_grown_ends_a_long_rest_sooner():
    bench = Bench(step_s=1.0, share=lambda time_s: 0.1 if time_s < 2.0 else 1.0, num_batches=1)
    worked = bench.run()
    assert worked.wall_s < 3.0
    assert max(bench.waits) <= REST_S


def test_the_deadline_ends_a_job_that_is_not_done():
    bench = Bench(step_s=1.0, deadline_s=3.5, num_batches=100)
    worked = bench.run()
    assert len(worked.result.step_vectors) == 4
    assert bench.closed


def test_the_deadline_ends_a_rest():
    worked = Bench(step_s=1.0, share=0.01, deadline_s=5.0, num_batches=100).run()
    assert worked.wall_s == 5.0


def test_a_deadline_that_is_past_trains_nothing():
    worked = Bench(deadline_s=-1.0).run()
    assert worked.result.step_vectors == []


def test_a_pause_waits_reports_why_and_goes_on():
    bench = Bench(pauses=["hot", "hot", None], num_batches=2)
    worked = bench.run()
    assert bench.waits[:2] == [PAUSE_S, PAUSE_S]
    assert bench.told == [Pause("hot"), Pause("hot"), STEP, STEP]
    assert len(worked.result.step_vectors) == 2


def test_a_pause_that_lasts_ends_at_the_deadline_with_nothing_trained():
    bench = Bench(pauses=["hot"] * 1000, deadline_s=2.1)
    worked = bench.run()
    assert worked.result.step_vectors == []
    assert worked.wall_s == pytest.approx(2.1)
    assert len(bench.waits) <= 10


def test_time_lost_costs_mini_batches_not_network_size():
    # 10 batches in 100 s are 10 s each; with half the time gone, 5 can still be reached at that pace.
    task = remaining(50.0, 10, 10.0)
    assert (task.time_left_s, task.num_batches_left) == (50.0, 5)


def test_time_saved_is_spread_over_the_mini_batches_that_are_left():
    task = remaining(90.0, 3, 10.0)
    assert task.num_batches_left == 3


@settings(deadline=None)
@given(
    left_s=st.floats(1e-6, 1e6),
    batches=st.integers(1, 10**9),
    batch_s=st.floats(1e-3, 1e6),
)
def test_what_remains_never_asks_a_mini_batch_to_be_much_faster_than_the_orders_pace(
    left_s, batches, batch_s
):
    task = remaining(left_s, batches, batch_s)
    assert 1 <= task.num_batches_left <= batches
    if left_s >= batch_s:
        assert task.time_left_s / task.num_batches_left >= batch_s * 2 / 3


def test_the_tasks_of_a_paused_job_keep_their_seconds_per_mini_batch():
    bench = Bench(pauses=["hot"] * 200 + [None], deadline_s=100.0, num_batches=10)
    bench.run()
    per_batch = [task.time_left_s / task.num_batches_left for task in bench.tasks if task.time_left_s >= 10.0]
    assert min(per_batch) >= 10.0 * 2 / 3


def test_a_job_given_up_is_closed():
    bench = Bench(share=0.1)
    next(bench.pace)
    bench.pace.close()
    assert bench.closed


# ---------------------------------------------------------------- driving on a thread


class StopAfter:
    """A stop event that is set at the n-th wait, and remembers how long it was asked to wait."""

    def __init__(self, num_waits):
        self.num_waits, self.waits = num_waits, []

    def is_set(self):
        return len(self.waits) >= self.num_waits

    def wait(self, seconds):
        self.waits.append(seconds)
        return self.is_set()


def test_a_driven_job_waits_on_the_stop_event_and_does_not_spin():
    bench = Bench(pauses=["hot"] * 1000)
    stop = StopAfter(3)
    assert drive(bench.pace, stop) is None
    assert stop.waits == [PAUSE_S] * 3


def test_a_driven_job_returns_what_was_done():
    worked = drive(Bench(num_batches=2).pace, threading.Event())
    assert len(worked.result.step_vectors) == 2


def test_stop_ends_a_job_within_one_mini_batch():
    bench = Bench(share=0.5, num_batches=100)
    stop = StopAfter(1)
    assert drive(bench.pace, stop) is None
    assert len(bench.told) == 1
    assert bench.closed


def test_a_job_stopped_before_it_began_trains_nothing():
    bench, stop = Bench(), threading.Event()
    stop.set()
    assert drive(bench.pace, stop) is None
    assert bench.told == []


# ---------------------------------------------------------------- one job at a time


class News:
    def __init__(self):
        self.done, self.failed = [], []
        self.came = threading.Event()

    def on_done(self, ticket, worked):
        self.done.append((ticket, worked))
        self.came.set()

    def on_failed(self, ticket, reason):
        self.failed.append((ticket, reason))
        self.came.set()


@pytest.fixture
def news():
    return News()


@pytest.fixture
def jobs(news):
    thread = JobThread(news.on_done, news.on_failed)
    yield thread
    thread.stop()


WORKED = Worked(result=TrainingResult(), busy_s=1.0, wall_s=2.0)


def until_stopped(began):
    """Work that runs until it is given up."""

    def work(ticket, stop):
        began.set()
        stop.wait()

    return work


def test_a_job_that_ends_is_told_with_its_ticket(jobs, news):
    jobs.start(lambda ticket, stop: WORKED)
    news.came.wait()
    ((ticket, worked),) = news.done
    assert worked is WORKED
    assert jobs.current(ticket)


def test_a_newer_job_gives_up_the_one_before(jobs, news):
    began = threading.Event()
    jobs.start(until_stopped(began))
    began.wait()
    jobs.start(lambda ticket, stop: WORKED)
    news.came.wait()
    assert len(news.done) == 1
    assert news.failed == []


def test_stop_returns_when_the_thread_has_ended(jobs, news):
    began, ended = threading.Event(), threading.Event()

    def work(ticket, stop):
        began.set()
        stop.wait()
        ended.set()

    jobs.start(work)
    began.wait()
    jobs.stop()
    assert ended.is_set()
    assert (news.done, news.failed) == ([], [])


def test_the_news_of_a_job_given_up_no_longer_count(jobs, news):
    jobs.start(lambda ticket, stop: WORKED)
    news.came.wait()
    jobs.stop()
    ((ticket, _),) = news.done
    assert not jobs.current(ticket)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorldError("loss is nan"), "loss is nan"),
        (MemoryError(), "MemoryError"),
        (IndexError("label 7"), "IndexError: label 7"),
    ],
)
def test_a_job_that_raises_is_told_with_the_reason(jobs, news, error, reason):
    def work(ticket, stop):
        raise error

    jobs.start(work)
    news.came.wait()
    ((_, told),) = news.failed
    assert told == reason


def test_a_job_may_follow_one_that_failed(jobs, news):
    jobs.start(lambda ticket, stop: 1 // 0)
    news.came.wait()
    news.came.clear()
    jobs.start(lambda ticket, stop: WORKED)
    news.came.wait()
    assert len(news.done) == 1


def test_stopping_when_nothing_runs_is_harmless(jobs):
    jobs.stop()
    jobs.stop()
