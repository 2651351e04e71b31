"""A gossip run's stream holds to what the device may take."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_agent.effects import OpenStream
from device_agent.gossip.link import LEAST_REST_S, GossipLink
from device_agent.streams.mqtt_stream import MqttStream
from device_agent.streams.replay import ReplayStream
from firmware_profiles.resources import Pause
from models.data.live import LiveSource

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "tiny_fleet.py")))

SAMPLE_CORE_S = 0.001
NUM = 20_000


class Session:
    """Learns, at a price."""

    def __init__(self, device):
        self.device = device
        self.numbers, self.missed = [], 0

    def on_samples(self, now_s, samples, num_left):
        self.numbers += [sample.number for sample in samples]
        self.device.core_s += SAMPLE_CORE_S * len(samples)
        self.device.clock.time_s += SAMPLE_CORE_S * len(samples)
        return []

    def on_missed(self, num):
        self.missed += num

    def on_ended(self, now_s):
        self.device.ended_s = now_s
        return []


class Device:
    """A link with a session that counts, on a clock of its own."""

    def __init__(self, stream, allowance=1.0):
        self.clock = tiny.FakeClock()
        self.core_s, self.allowance, self.ended_s = 100.0, allowance, None
        self.gossip = Session(self)
        self.hello = SimpleNamespace(device="pi")
        timers = self.clock.timers()
        self.link = GossipLink(
            fleet="f",
            core=self,
            timers=timers,
            publish=lambda topic, payload: None,
            listen=lambda topic: None,
            streams=lambda effect: stream(self, timers),
            allowance=lambda: self.allowance,
            core_seconds=lambda: self.core_s,
            perform=lambda effects: None,
        )
        self.link.open_stream(OpenStream(0, 0, 1, 0.0))

    def on_learning(self):
        return []

    def on_paused(self, pause):
        return []

    def taken(self, seconds):
        """Cores taken on average while these seconds pass."""
        core_s, began_s = self.core_s, self.clock.time_s
        self.clock.advance(seconds)
        return (self.core_s - core_s) / (self.clock.time_s - began_s)


def stored(_device, timers):
    """All due at once: as fast as the device can."""
    return ReplayStream(np.zeros((NUM, 1), np.float32), np.zeros(NUM, np.int64), np.zeros(NUM), timers)


class Topic:
    """A live stream that brings a sample each `every_s`."""

    def __init__(self, every_s):
        self.every_s = every_s

    def __call__(self, device, _timers):
        source = LiveSource("mqtt", "t", 1, ("a", "b"))
        return MqttStream(source, "t", lambda _topic, take: self._publish(device, take), device.clock.post)

    def _publish(self, device, take):
        take("t", b"1,a")
        device.clock.at(device.clock.time_s + self.every_s, "publisher", lambda: self._publish(device, take))


@pytest.mark.parametrize("cores", [0.05, 0.2, 0.5])
def test_a_stored_stream_is_learned_no_faster_than_the_share_allows(cores):
    device = Device(stored, cores)
    assert device.taken(30.0) == pytest.approx(cores, rel=0.1)
    assert device.gossip.numbers == list(range(len(device.gossip.numbers)))


def test_nothing_of_a_stored_stream_is_left_out_and_it_ends():
    device = Device(stored, 0.5)
    device.clock.advance(NUM * SAMPLE_CORE_S / 0.5 + 5.0)
    assert device.gossip.numbers == list(range(NUM))
    assert device.gossip.missed == 0
    assert device.ended_s == pytest.approx(NUM * SAMPLE_CORE_S / 0.5, rel=0.1)


def test_a_share_that_suffices_costs_no_rest():
    device = Device(stored, 2.0)
    assert device.taken(10.0) > 0.7


def test_a_share_that_grows_ends_the_rest_within_a_second():
    device = Device(stored, 0.01)
    device.clock.advance(5.0)
    device.allowance = 1.0
    device.clock.advance(1.0)
    assert device.taken(5.0) > 0.7


def test_a_slow_live_stream_is_learned_in_full_within_a_small_share():
    device = Device(Topic(every_s=0.1), 0.2)
    device.clock.advance(30.0)
    assert len(device.gossip.numbers) == pytest.approx(300, abs=2)
    assert device.gossip.missed == 0


def test_a_live_stream_that_is_too_fast_for_the_share_leaves_out_what_waited_longest():
    device = Device(Topic(every_s=0.002), 0.2)
    device.clock.advance(20.0)
    assert device.taken(30.0) == pytest.approx(0.2, rel=0.15)
    device.clock.advance(50.0)
    assert device.gossip.missed > 0


def test_what_was_computed_before_the_stream_and_during_a_pause_is_not_owed():
    device = Device(stored, Pause("hot"))
    device.clock.advance(3.0)
    device.core_s += 1000.0
    assert device.gossip.numbers == []
    device.allowance = 0.5
    device.clock.advance(1.0 + 2 * LEAST_REST_S)
    assert device.gossip.numbers


def test_what_neighbours_and_the_source_cost_is_not_owed():
    device = Device(Topic(every_s=0.1), 0.2)

    def hear():
        device.core_s += 0.05
        device.clock.at(device.clock.time_s + 0.1, "neighbours", hear)

    hear()
    device.clock.advance(30.0)
    assert len(device.gossip.numbers) == pytest.approx(300, abs=2)


def test_what_was_missed_is_counted_before_the_end_is_told():
    class Broken(Topic):
        """Says three things that nobody understands, and ends."""

        def __call__(self, device, timers):
            stream = super().__call__(device, timers)
            start = stream.start

            def start_and_end(deliver, ended):
                start(deliver, ended)
                device.clock.at(0.5, "end", ended)

            stream.start = start_and_end
            return stream

        def _publish(self, device, take):
            for _ in range(3):
                take("t", b"?")

    device = Device(Broken(1.0))
    device.gossip.on_ended = lambda now_s: device.gossip.numbers.append(device.gossip.missed) or []
    device.clock.advance(0.8)
    assert device.gossip.numbers == [3]


def test_a_pause_leaves_out_what_comes_of_a_live_stream():
    device = Device(Topic(every_s=0.1), Pause("hot"))
    device.clock.advance(10.0)
    assert device.gossip.numbers == []
    assert device.gossip.missed > 80


def test_a_stream_that_is_closed_while_it_rests_stays_closed():
    device = Device(stored, 0.01)
    device.clock.advance(2.0)
    learned = len(device.gossip.numbers)
    device.link.close_stream()
    device.clock.advance(100.0)
    assert len(device.gossip.numbers) == learned
