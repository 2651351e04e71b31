"""The bus in memory behaves as MQTT does where it matters."""

from __future__ import annotations

import random

import pytest

from device_agent.wire.codec import MAX_MESSAGE_BYTES
from device_agent.wire.memory import MemoryBroker, faulty_network


def listener(broker, pattern="#", client_id="listener", **arguments):
    received = []
    bus = broker.connect(client_id, **arguments)
    bus.subscribe(pattern, lambda topic, payload: received.append((topic, payload)))
    return bus, received


def test_a_message_reaches_every_matching_subscriber_when_the_broker_runs():
    broker = MemoryBroker()
    _, first = listener(broker, "a/+", "1")
    _, second = listener(broker, "b/#", "2")
    broker.connect("sender").publish("a/x", b"1")
    assert first == []
    assert broker.run_until_idle() == 1
    assert (first, second) == ([("a/x", b"1")], [])


def test_who_subscribes_connects_or_leaves_later_counts_from_then_on():
    broker = MemoryBroker(direct=True)
    sender = broker.connect("sender")
    _, first = listener(broker, "a", "1")
    sender.publish("a", b"1")
    late, second = listener(broker, "a", "2")
    sender.publish("a", b"2")
    late.close()
    sender.publish("a", b"3")
    assert [payload for _, payload in first] == [b"1", b"2", b"3"]
    assert [payload for _, payload in second] == [b"2"]


def test_a_direct_broker_delivers_within_publish():
    broker = MemoryBroker(direct=True)
    _, received = listener(broker)
    broker.connect("sender").publish("a", b"1")
    assert received == [("a", b"1")]


def test_an_answer_published_by_a_receiver_comes_after_it_returned():
    broker = MemoryBroker(direct=True)
    bus = broker.connect("echo")
    order = []

    def answer(topic, _payload):
        if topic == "question":
            bus.publish("answer", b"")
        order.append(topic)

    bus.subscribe("#", answer)
    bus.publish("question", b"")
    assert order == ["question", "answer"]


def test_a_retained_message_reaches_later_subscribers_until_it_is_cleared():
    broker = MemoryBroker(direct=True)
    sender = broker.connect("sender")
    sender.publish("status", b"on", retain=True)
    assert listener(broker, client_id="1")[1] == [("status", b"on")]
    sender.publish("status", b"", retain=True)
    assert listener(broker, client_id="2")[1] == []


def test_a_broken_connection_publishes_the_will_and_retains_it():
    broker = MemoryBroker(direct=True)
    _, received = listener(broker)
    broker.connect("device", will=("status", b"lost")).lose_connection()
    assert received == [("status", b"lost")]
    assert broker.retained("status") == b"lost"


def test_a_closed_connection_keeps_its_will_back():
    broker = MemoryBroker(direct=True)
    _, received = listener(broker)
    bus = broker.connect("device", will=("status", b"lost"))
    bus.close()
    bus.close()
    assert received == []


def test_a_second_client_of_the_same_id_throws_the_first_out():
    broker = MemoryBroker()
    reasons = []
    first = broker.connect("device", on_disconnect=reasons.append)
    broker.connect("device")
    assert not first.connected
    assert reasons == ["another connection took over the client id"]


def test_a_lost_client_misses_what_is_said_and_hears_again_after_reconnecting():
    broker = MemoryBroker(direct=True)
    connects = []
    bus, received = listener(broker, on_connect=lambda: connects.append(1))
    sender = broker.connect("sender")
    bus.lose_connection()
    sender.publish("a", b"missed")
    bus.publish("b", b"dropped")
    bus.reconnect()
    sender.publish("a", b"heard")
    assert received == [("a", b"heard")]
    assert (len(connects), bus.num_dropped) == (2, 1)


def test_what_was_under_way_to_a_lost_connection_is_lost():
    broker = MemoryBroker()
    bus, received = listener(broker)
    broker.connect("sender").publish("a", b"under way")
    bus.lose_connection()
    bus.reconnect()
    broker.run_until_idle()
    assert (received, broker.num_lost) == ([], 1)


def test_a_receiver_that_raises_does_not_keep_others_from_theirs():
    broker = MemoryBroker(direct=True)
    bus = broker.connect("fragile")
    bus.subscribe("a", lambda *_: 1 / 0)
    _, received = listener(broker)
    bus.publish("a", b"1")
    assert received == [("a", b"1")]


def run_faulty(seed, **faults):
    broker = MemoryBroker(network=faulty_network(random.Random(seed), **faults))
    _, received = listener(broker)
    sender = broker.connect("sender")
    for number in range(200):
        sender.publish("a", b"%d" % number)
    broker.run_until_idle()
    return [int(payload) for _, payload in received]


def test_a_faulty_network_loses_messages():
    assert 0 < len(run_faulty(1, drop_fraction=0.5)) < 200


def test_a_faulty_network_repeats_messages():
    received = run_faulty(1, duplicate_fraction=0.5)
    assert len(received) > len(set(received)) == 200


def test_a_faulty_network_reorders_messages():
    received = run_faulty(1, max_delay_s=1.0)
    assert received != sorted(received) == list(range(200))


def test_the_same_seed_makes_the_same_faults():
    faults = {"drop_fraction": 0.2, "duplicate_fraction": 0.2, "max_delay_s": 1.0}
    assert run_faulty(7, **faults) == run_faulty(7, **faults)


def test_a_delayed_message_arrives_at_its_time():
    broker = MemoryBroker(network=lambda _: (2.5,))
    _, received = listener(broker)
    broker.connect("sender").publish("a", b"1")
    assert broker.next_due_s() == 2.5
    assert broker.run_until(2.0) == 0
    assert broker.run_until(3.0) == 1
    assert (received, broker.now_s) == ([("a", b"1")], 3.0)


def test_two_receivers_that_answer_each_other_for_ever_are_found_out():
    broker = MemoryBroker()
    bus = broker.connect("echo")
    bus.subscribe("a", bus.publish)
    bus.publish("a", b"1")
    with pytest.raises(RuntimeError, match="answer each other"):
        broker.run_until_idle(max_deliveries=100)


def test_a_payload_no_mqtt_broker_should_see_is_refused_here_too():
    with pytest.raises(ValueError, match="use chunks"):
        MemoryBroker().connect("a").publish("a", bytes(MAX_MESSAGE_BYTES + 1))
