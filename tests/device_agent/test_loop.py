from __future__ import annotations

import threading

import pytest

from device_agent.loop import MOST_ACTIONS, Loop


class Hand:
    """The clock of a loop whose time the test moves."""

    def __init__(self):
        self.time_s = 100.0


@pytest.fixture
def hand(monkeypatch):
    hand = Hand()
    monkeypatch.setattr(Loop, "now_s", lambda _loop: hand.time_s)
    return hand


def run_all(loop):
    """Run what is due and posted, then stop."""
    loop.stop()
    loop.run()


def test_actions_run_in_the_order_they_were_posted():
    loop, done = Loop(), []
    for number in range(5):
        loop.post(lambda number=number: done.append(number))
    run_all(loop)
    assert done == [0, 1, 2, 3, 4]


def test_actions_posted_from_another_thread_run_on_the_loops_own():
    loop, seen = Loop(), []

    def elsewhere():
        loop.post(lambda: seen.append(threading.get_ident()))
        loop.stop()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    loop.run()
    thread.join()
    assert seen == [threading.get_ident()]


def test_a_timer_that_is_always_due_keeps_no_message_waiting(hand):
    loop, done = Loop(), []

    def due_again():
        done.append("timer")
        hand.time_s += 1.0
        loop.set_timer("stream", 0.0, due_again)

    loop.set_timer("stream", 0.0, due_again)
    for number in range(3):
        loop.post(lambda number=number: done.append(number))
    loop.post(lambda: loop.post(loop.stop))
    loop.run()
    assert done[:4] == ["timer", 0, 1, 2]


def test_a_flood_of_actions_keeps_no_timer_waiting(hand):
    loop, done = Loop(), []

    def act():
        hand.time_s += 1.0
        done.append("action")

    loop.set_timer("stream", 3.0, lambda: done.append("timer"))
    for _ in range(10 * MOST_ACTIONS):
        loop.post(act)
    run_all(loop)
    assert done.index("timer") <= MOST_ACTIONS


def test_stop_from_another_thread_wakes_a_loop_that_waits():
    loop, running = Loop(), threading.Event()
    loop.post(running.set)

    def stop_it():
        running.wait()
        loop.stop()

    thread = threading.Thread(target=stop_it)
    thread.start()
    loop.run()
    thread.join()


def test_stop_lets_the_actions_posted_before_it_finish():
    loop, done = Loop(), []
    loop.post(lambda: done.append("before"))
    loop.stop()
    loop.post(lambda: done.append("after"))
    loop.run()
    assert done == ["before"]


def test_a_timer_that_is_due_runs_once():
    loop, done = Loop(), []
    loop.set_timer("a", 0.0, lambda: done.append("a"))
    run_all(loop)
    run_all(loop)
    assert done == ["a"]


def test_a_timer_that_is_not_due_does_not_run(hand):
    loop, done = Loop(), []
    loop.set_timer("a", 5.0, lambda: done.append("a"))
    run_all(loop)
    hand.time_s += 4.999
    run_all(loop)
    assert done == []
    hand.time_s += 0.001
    run_all(loop)
    assert done == ["a"]


def test_timers_run_in_order_of_their_time_not_of_their_setting(hand):
    loop, done = Loop(), []
    for delay_s in (3.0, 1.0, 2.0):
        loop.set_timer(str(delay_s), delay_s, lambda delay_s=delay_s: done.append(delay_s))
    hand.time_s += 10.0
    run_all(loop)
    assert done == [1.0, 2.0, 3.0]


def test_timers_of_one_time_run_in_the_order_they_were_set(hand):
    loop, done = Loop(), []
    for name in "abc":
        loop.set_timer(name, 1.0, lambda name=name: done.append(name))
    hand.time_s += 1.0
    run_all(loop)
    assert done == ["a", "b", "c"]


def test_a_timer_set_again_replaces_the_one_before(hand):
    loop, done = Loop(), []
    loop.set_timer("a", 1.0, lambda: done.append("first"))
    loop.set_timer("a", 3.0, lambda: done.append("second"))
    hand.time_s += 2.0
    run_all(loop)
    assert done == []
    hand.time_s += 1.0
    run_all(loop)
    assert done == ["second"]


def test_a_timer_set_again_to_an_earlier_time_runs_once(hand):
    loop, done = Loop(), []
    loop.set_timer("a", 3.0, lambda: done.append("first"))
    loop.set_timer("a", 1.0, lambda: done.append("second"))
    hand.time_s += 5.0
    run_all(loop)
    assert done == ["second"]


def test_a_cancelled_timer_does_not_run(hand):
    loop, done = Loop(), []
    loop.set_timer("a", 1.0, lambda: done.append("a"))
    loop.cancel_timer("a")
    loop.cancel_timer("never set")
    hand.time_s += 2.0
    run_all(loop)
    assert done == []


def test_a_cancelled_timer_may_be_set_again(hand):
    loop, done = Loop(), []
    loop.set_timer("a", 1.0, lambda: done.append("first"))
    loop.cancel_timer("a")
    loop.set_timer("a", 1.0, lambda: done.append("second"))
    hand.time_s += 1.0
    run_all(loop)
    assert done == ["second"]


def test_a_timer_that_sets_itself_again_lets_posted_actions_run_in_between():
    loop, done = Loop(), []

    def tick():
        done.append("tick")
        loop.set_timer("tick", 0.0, tick)

    tick()
    loop.post(lambda: done.append("posted"))
    run_all(loop)
    assert "posted" in done


def test_a_timer_may_cancel_another_that_is_due_at_the_same_time(hand):
    loop, done = Loop(), []
    loop.set_timer("a", 1.0, lambda: loop.cancel_timer("b"))
    loop.set_timer("b", 1.0, lambda: done.append("b"))
    hand.time_s += 1.0
    run_all(loop)
    assert done == []


def test_a_negative_delay_means_now():
    loop, done = Loop(), []
    loop.set_timer("a", -5.0, lambda: done.append("a"))
    run_all(loop)
    assert done == ["a"]


def test_an_action_that_raises_ends_the_loop_loudly():
    loop = Loop()
    loop.post(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        loop.run()
