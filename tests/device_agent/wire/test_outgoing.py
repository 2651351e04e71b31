"""The queue of one MQTT connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.wire.codec import MAX_MESSAGE_BYTES
from device_agent.wire.outgoing import MAX_STRIKES, Message, Outgoing


def offer(queue, *topics, connected=True, **changes):
    return [queue.offer(Message(topic, b"x", **changes), connected=connected) for topic in topics]


def take_all(queue):
    taken = []
    while (pair := queue.take()) is not None:
        taken.append(pair)
    return taken


def topics(pairs):
    return [message.topic for _, message in pairs]


def test_messages_leave_in_order():
    queue = Outgoing()
    offer(queue, "a", "b", "c")
    assert topics(take_all(queue)) == ["a", "b", "c"]


def test_no_more_than_the_window_is_in_flight():
    queue = Outgoing(max_window=2)
    offer(queue, "a", "b", "c")
    first, _second = take_all(queue)
    queue.acknowledged(first[0])
    assert topics(take_all(queue)) == ["c"]


def test_what_was_in_flight_is_sent_again_in_order_after_a_loss():
    queue = Outgoing()
    offer(queue, "a", "b", "c")
    queue.take()
    queue.take()
    queue.connection_lost(by_broker=True)
    sent = []
    while (pair := queue.take()) is not None:
        sent.append(pair[1].topic)
        queue.acknowledged(pair[0])
    assert sent == ["a", "b", "c"]


def test_after_a_loss_the_window_grows_again_from_one():
    queue = Outgoing(max_window=4)
    offer(queue, *"abcdefgh")
    queue.connection_lost(by_broker=True)
    sizes = []
    while flight := take_all(queue):
        sizes.append(len(flight))
        for ticket, _ in flight:
            queue.acknowledged(ticket)
    assert sizes == [1, 2, 4, 1]


def test_the_message_over_which_the_broker_hangs_up_again_and_again_is_dropped_alone():
    queue = Outgoing()
    offer(queue, "poison", "b", "c")
    take_all(queue)
    assert queue.connection_lost(by_broker=True) == []
    for _ in range(MAX_STRIKES - 1):
        take_all(queue)
        assert queue.connection_lost(by_broker=True) == []
    take_all(queue)
    assert [message.topic for message in queue.connection_lost(by_broker=True)] == ["poison"]
    assert topics([queue.take()]) == ["b"]
    assert queue.counters.num_dropped_refused == 1


def test_a_dead_link_is_not_the_messages_fault():
    queue = Outgoing()
    offer(queue, "a")
    for _ in range(10):
        queue.take()
        assert queue.connection_lost(by_broker=False) == []
    assert topics(take_all(queue)) == ["a"]


def test_telemetry_is_not_kept_without_a_connection():
    queue = Outgoing()
    assert offer(queue, "a", connected=False, qos=0) == [False]
    assert queue.counters.num_dropped_offline == 1


def test_waiting_telemetry_is_dropped_with_the_connection_and_the_rest_is_not():
    queue = Outgoing(max_window=1)
    offer(queue, "first")
    offer(queue, "telemetry", qos=0)
    offer(queue, "last")
    queue.connection_lost(by_broker=False)
    queue.take()
    assert (len(queue), queue.counters.num_dropped_offline) == (2, 1)


def test_a_full_queue_takes_no_more_messages():
    queue = Outgoing(max_messages=2)
    assert offer(queue, "a", "b", "c") == [True, True, False]
    assert queue.counters.num_dropped_full == 1


def test_a_queue_full_of_bytes_takes_no_more_messages():
    queue = Outgoing(max_bytes=3000)
    assert [queue.offer(Message("a", bytes(1000)), connected=True) for _ in range(3)] == [True, True, False]


def test_a_full_queue_still_takes_state_and_sends_it_first():
    queue = Outgoing(max_messages=1)
    offer(queue, "a")
    assert offer(queue, "status", retain=True) == [True]
    assert topics(take_all(queue)) == ["status", "a"]


def test_only_the_newest_state_of_a_topic_waits():
    queue = Outgoing()
    queue.offer(Message("status", b"old", retain=True), connected=False)
    queue.offer(Message("status", b"new", retain=True), connected=False)
    assert [message.payload for _, message in take_all(queue)] == [b"new"]


def test_a_loss_does_not_bring_an_older_state_back():
    queue = Outgoing()
    for payload in (b"old", b"new"):
        queue.offer(Message("status", payload, retain=True), connected=True)
        queue.take()
    queue.connection_lost(by_broker=False)
    assert [message.payload for _, message in take_all(queue)] == [b"new"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("otal"), st.integers(0, 3)), max_size=60))
def test_the_queue_counts_its_bytes_down_to_nothing(steps):
    queue = Outgoing(max_messages=5, max_bytes=2000, max_window=3)
    flight = []
    for what, number in steps:
        if what == "o":
            message = Message(f"t{number}", bytes(number), qos=number % 2, retain=number == 3)
            queue.offer(message, connected=True)
        elif what == "t" and (pair := queue.take()) is not None:
            flight.append(pair[0])
        elif what == "a" and flight:
            queue.acknowledged(flight.pop(number % len(flight)))
        elif what == "l":
            queue.connection_lost(by_broker=number == 0)
            flight = []
        assert (queue.num_bytes == 0) == (len(queue) == 0)
    for ticket in flight:
        queue.acknowledged(ticket)
    while (pair := queue.take()) is not None:
        queue.acknowledged(pair[0])
    assert (len(queue), queue.num_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("topic", "size_bytes", "qos"), [("a", MAX_MESSAGE_BYTES + 1, 1), ("a/+", 1, 1), ("", 1, 1), ("a", 1, 2)]
)
def test_a_message_nobody_should_publish_cannot_be_made(topic, size_bytes, qos):
    with pytest.raises(ValueError):
        Message(topic, bytes(size_bytes), qos=qos)
