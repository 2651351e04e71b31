"""The modelled links: latency, bandwidth one message after another, loss that TCP makes good."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.twins.groups import Link
from coordinator.twins.network import FIRST_TIMEOUT_S, HEADER_BYTES, LinkNetwork
from device_agent.wire.memory import Delivery, MemoryBroker

TOPIC = "t"


def delivery(
    publication=1, *, size=1000, sent_s=0.0, qos=1, topic=TOPIC, sender="device", receiver="coordinator"
):
    payload = bytes(size - len(topic) - HEADER_BYTES)  # so that `size` bytes go over the link
    return Delivery(sender, receiver, topic, payload, qos, sent_s, publication)


def network(**link):
    return LinkNetwork({"device": Link(**link)}, "seed")


def test_a_link_without_limits_delivers_at_once():
    assert network()(delivery()) == (0.0,)


def test_latency_delays_one_way():
    assert network(latency_ms=20)(delivery()) == pytest.approx((0.020,))


def test_bandwidth_takes_time_by_the_bits():
    assert network(up_kbit_s=8)(delivery(size=1000)) == pytest.approx((1.0,))


def test_up_and_down_have_their_own_bandwidth():
    link = network(up_kbit_s=8, down_kbit_s=80)
    down = delivery(2, sender="coordinator", receiver="device")
    assert link(down) == pytest.approx((0.1,))


def test_a_link_sends_one_message_after_another():
    link = network(up_kbit_s=8)
    assert [link(delivery(number))[0] for number in (1, 2, 3)] == pytest.approx([1.0, 2.0, 3.0])


def test_a_link_that_was_idle_sends_at_once():
    link = network(up_kbit_s=8)
    link(delivery(1))
    assert link(delivery(2, sent_s=10.0)) == pytest.approx((1.0,))


def test_a_message_to_a_neighbour_goes_up_one_link_and_down_the_other():
    links = LinkNetwork({"device": Link(latency_ms=10), "peer": Link(latency_ms=5)}, "seed")
    assert links(delivery(receiver="peer")) == pytest.approx((0.015,))


def test_a_message_to_many_goes_up_once():
    links = LinkNetwork({name: Link(up_kbit_s=8) for name in ("device", "a", "b")}, "seed")
    assert [links(delivery(1, receiver=peer))[0] for peer in ("a", "b")] == pytest.approx([1.0, 1.0])


def test_a_retained_message_comes_from_the_broker_not_from_its_sender():
    link = network(latency_ms=10)
    assert link(delivery(None)) == (0.0,)


def test_lost_qos_0_is_gone_at_the_rate_of_the_link():
    link = network(loss_fraction=0.25)
    arrived = sum(bool(link(delivery(number, qos=0))) for number in range(2000))
    assert 1420 <= arrived <= 1580


def test_lost_qos_1_arrives_later_instead():
    link = network(loss_fraction=0.5, latency_ms=10)
    delays = [link(delivery(number, sent_s=1000.0 * number))[0] for number in range(200)]
    late = [delay for delay in delays if delay > 0.011]
    assert 60 <= len(late) <= 140
    assert min(late) == pytest.approx(0.010 + FIRST_TIMEOUT_S)


@settings(deadline=None, max_examples=50)
@given(
    jitter_ms=st.floats(0, 500),
    loss_fraction=st.floats(0, 0.5),
    gaps_s=st.lists(st.floats(0, 0.2), min_size=2, max_size=20),
)
def test_order_holds_within_a_connection(jitter_ms, loss_fraction, gaps_s):
    link, now_s, arrivals = network(jitter_ms=jitter_ms, loss_fraction=loss_fraction), 0.0, []
    for number, gap_s in enumerate(gaps_s):
        now_s += gap_s
        arrivals.append(now_s + link(delivery(number, sent_s=now_s))[0])
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(arrivals))


def test_what_is_late_on_the_bulk_connection_does_not_hold_up_the_other():
    link = network(loss_fraction=0.5)
    bulk = [link(delivery(number, topic="t/bulk"))[0] for number in range(20)]
    plain = [delay for number in range(20, 40) for delay in link(delivery(number, qos=0))]
    assert max(bulk) > FIRST_TIMEOUT_S
    assert set(plain) == {0.0}


def test_the_same_seed_draws_the_same_and_another_device_changes_nothing():
    alone = LinkNetwork({"device": Link(jitter_ms=100)}, "7")
    together = LinkNetwork({"other": Link(jitter_ms=100), "device": Link(jitter_ms=100)}, "7")
    other_seed = LinkNetwork({"device": Link(jitter_ms=100)}, "8")
    together(delivery(0, sender="other"))
    assert alone(delivery(1)) == together(delivery(1)) != other_seed(delivery(1))


def test_the_broker_tells_the_network_what_it_needs():
    seen = []
    broker = MemoryBroker(network=lambda told: seen.append(told) or (0.0,))
    sender = broker.connect("device")
    for name in ("a", "b"):
        broker.connect(name).subscribe("t", lambda _topic, _payload: None)
    broker.run_until(3.0)
    sender.publish("t", b"x", retain=True)
    sender.publish("t", b"y")
    broker.connect("c").subscribe("t", lambda _topic, _payload: None)
    numbers = [told.publication for told in seen]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    assert numbers[4] is None
    assert {told.sent_s for told in seen} == {3.0}
