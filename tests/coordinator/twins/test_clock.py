"""Virtual time: one order of events, whatever was set when."""

import pytest

from coordinator.twins.clock import VirtualClock, VirtualTimers
from device_agent.wire.memory import MemoryBroker


@pytest.fixture
def broker():
    return MemoryBroker(network=lambda delivery: (float(delivery.payload),))


@pytest.fixture
def clock(broker):
    return VirtualClock(broker)


def run_all(clock, limit_s=1e6):
    return clock.run(lambda: False, limit_s)


def test_timers_run_by_time_then_in_the_order_they_were_set(clock):
    timers, other, seen = VirtualTimers(clock), VirtualTimers(clock), []
    timers.set_timer("late", 2.0, lambda: seen.append(("late", clock.now_s)))
    timers.set_timer("first", 1.0, lambda: seen.append(("first", clock.now_s)))
    other.set_timer("second", 1.0, lambda: seen.append(("second", clock.now_s)))
    run_all(clock)
    assert seen == [("first", 1.0), ("second", 1.0), ("late", 2.0)]


def test_a_timer_of_the_same_key_is_replaced(clock):
    timers, seen = VirtualTimers(clock), []
    timers.set_timer("key", 1.0, lambda: seen.append("old"))
    timers.set_timer("key", 2.0, lambda: seen.append("new"))
    run_all(clock)
    assert seen == ["new"]


def test_the_same_key_of_two_nodes_is_two_timers(clock):
    seen = []
    for name in ("a", "b"):
        VirtualTimers(clock).set_timer("key", 1.0, lambda name=name: seen.append(name))
    run_all(clock)
    assert seen == ["a", "b"]


def test_a_cancelled_timer_does_not_run(clock):
    timers, seen = VirtualTimers(clock), []
    timers.set_timer("key", 1.0, lambda: seen.append("ran"))
    timers.cancel_timer("key")
    run_all(clock)
    assert seen == []


def test_deliveries_and_timers_share_one_time(clock, broker):
    seen = []
    bus = broker.connect("a")
    bus.subscribe("topic", lambda _topic, payload: seen.append((payload, clock.now_s)))
    timers = VirtualTimers(clock)
    timers.set_timer("between", 2.0, lambda: seen.append((b"timer", clock.now_s)))
    bus.publish("topic", b"3")
    bus.publish("topic", b"1")
    run_all(clock)
    assert seen == [(b"1", 1.0), (b"timer", 2.0), (b"3", 3.0)]


def test_what_a_timer_sends_leaves_at_the_timers_time(clock, broker):
    seen = []
    bus = broker.connect("a")
    bus.subscribe("topic", lambda _topic, _payload: seen.append(clock.now_s))
    VirtualTimers(clock).set_timer("send", 5.0, lambda: bus.publish("topic", b"1"))
    run_all(clock)
    assert seen == [6.0]


def test_it_stops_when_the_run_is_over(clock):
    timers, seen = VirtualTimers(clock), []
    for second in (1, 2, 3):
        timers.set_timer(str(second), second, lambda second=second: seen.append(second))
    assert clock.run(lambda: len(seen) == 2, 100.0)
    assert (seen, clock.now_s) == ([1, 2], 2.0)


def test_it_says_so_when_time_passes_the_limit(clock):
    VirtualTimers(clock).set_timer("late", 11.0, lambda: None)
    assert not run_all(clock, limit_s=10.0)


def test_an_action_that_raises_ends_the_run_loudly(clock):
    VirtualTimers(clock).set_timer("bad", 1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_all(clock)
