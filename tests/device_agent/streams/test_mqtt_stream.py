"""A live stream from a topic."""

import pytest

from device_agent.streams.mqtt_stream import MqttStream, filled_in
from device_agent.wire.topics import device_topic, matches
from firmware_profiles.errors import UserError
from models.data.live import LiveSource

SOURCE = LiveSource("mqtt", "plant/{device}/power", 2, ("down", "up"))


class Topic:
    """A stream of one topic whose messages the test sends."""

    def __init__(self, **options):
        self.receivers, self.samples, self.ends = {}, [], []
        self.posted = []
        self.stream = MqttStream(
            SOURCE, "plant/pi/power", self.receivers.__setitem__, self.posted.append, **options
        )
        self.stream.start(self.samples.extend, lambda: self.ends.append(None))

    def send(self, *payloads):
        for payload in payloads:
            self.receivers["plant/pi/power"]("plant/pi/power", payload)
        self.run()

    def run(self):
        while self.posted:
            self.posted.pop(0)()

    @property
    def told(self):
        return [(one.number, one.vector is not None, one.label) for one in self.samples]


def test_messages_are_numbered_in_the_order_they_come():
    topic = Topic()
    topic.send(b"1,2,up", b"3,4", b"5,6,down")
    assert topic.told == [(0, True, 1), (1, True, None), (2, True, 0)]
    assert topic.stream.num_left is None


def test_numbers_go_on_from_an_earlier_life():
    topic = Topic(first_number=40)
    topic.send(b"1,2,up")
    assert topic.told == [(40, True, 1)]


def test_a_late_label_takes_no_number():
    topic = Topic()
    topic.send(b'{"x": [1, 2], "id": 9}', b'{"id": 9, "y": "up"}', b"3,4")
    assert topic.told == [(0, True, None), (0, False, 1), (1, True, None)]


def test_what_cannot_be_read_is_counted_logged_a_few_times_and_takes_no_number(caplog):
    topic = Topic()
    topic.send(*[b"nonsense"] * 50, b"1,2")
    assert topic.told == [(0, True, None)]
    assert topic.stream.num_missed == 50
    assert 1 <= len(caplog.records) <= 5
    assert "plant/pi/power" in caplog.text


def test_what_comes_while_held_is_left_out_and_counted():
    topic = Topic()
    topic.stream.hold()
    topic.send(b"1,2,up", b"1,2,up")
    topic.stream.go_on()
    topic.send(b"3,4,up")
    assert topic.told == [(0, True, 1)]
    assert topic.stream.num_missed == 2


def test_what_comes_while_it_rests_waits():
    topic = Topic()
    topic.send(b"1,2,up")
    topic.stream.rest()
    topic.send(b"3,4,down", b"nonsense")
    assert topic.told == [(0, True, 1)]
    topic.stream.go_on()
    topic.run()
    topic.send(b"5,6,up")
    assert topic.told == [(0, True, 1), (1, True, 0), (2, True, 1)]
    assert topic.stream.num_missed == 1


def test_of_what_waits_too_long_the_oldest_is_left_out():
    topic = Topic()
    topic.stream.rest()
    topic.send(*[b"1,2,up"] * 5000, b"3,4,down")
    topic.stream.go_on()
    topic.run()
    assert len(topic.samples) + topic.stream.num_missed == 5001
    assert topic.stream.num_missed > 0
    assert topic.samples[-1].label == 0


def test_a_pause_that_follows_a_rest_leaves_out_what_waited():
    topic = Topic()
    topic.stream.rest()
    topic.send(b"1,2,up")
    topic.stream.hold()
    topic.run()
    topic.stream.go_on()
    topic.send(b"3,4,up")
    assert topic.told == [(0, True, 1)]
    assert topic.stream.num_missed == 1


def test_a_rest_within_a_delivery_holds_back_the_next():
    topic = Topic()
    took = []

    def take(samples):
        took.append(len(samples))
        topic.stream.rest()

    topic.stream.start(take, lambda: None)
    topic.send(*[b"1,2,up"] * 600)
    assert took == [256]
    topic.stream.go_on()
    topic.run()
    assert took == [256, 256]


def test_a_stopped_stream_delivers_nothing():
    topic = Topic()
    topic.stream.stop()
    topic.send(b"1,2,up")
    assert (topic.told, topic.ends, topic.stream.num_missed) == ([], [], 0)


def test_a_stream_that_is_stopped_while_it_rests_forgets_what_waits_and_stays_stopped():
    topic = Topic()
    topic.stream.rest()
    topic.send(b"1,2,up", b"nonsense")
    topic.stream.stop()
    topic.stream.go_on()
    topic.send(b"1,2,up")
    assert (topic.told, topic.stream.num_missed) == ([], 0)


def test_the_id_of_the_device_is_filled_in():
    assert filled_in(SOURCE, "pi-3") == "plant/pi-3/power"


@pytest.mark.parametrize("topic", ["plant/+/power", "plant/#", "+", "+/power", "edgetide/v2/#", "$SYS/load"])
def test_wildcards_are_allowed(topic):
    MqttStream(SOURCE, topic, lambda *_: None, lambda _action: None)


@pytest.mark.parametrize(
    "topic",
    ["edgetide/v1/f/pi/telemetry", "edgetide/v1/#", "edgetide/#", "#", "+/v1/+/+/up", "+/#", "+/+/+/+/up"],
)
def test_topics_of_the_fleet_are_refused(topic):
    fleet = device_topic("f", "pi", "up"), device_topic("f", "pi", "telemetry")
    assert any(matches(topic, one) for one in fleet)
    with pytest.raises(UserError, match="fleet's own"):
        MqttStream(SOURCE, topic, lambda *_: None, lambda _action: None)


@pytest.mark.parametrize("topic", ["", "a/#/b", "a#", "a/b+", "a\0b", "x" * 70_000, "$share/g/a"])
def test_what_is_no_filter_is_refused(topic):
    with pytest.raises(UserError, match="topic"):
        MqttStream(SOURCE, topic, lambda *_: None, lambda _action: None)
