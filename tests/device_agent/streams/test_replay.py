"""A stored stream in virtual time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.twins.clock import VirtualClock, VirtualTimers
from device_agent.streams.replay import MOST_EVENTS, ReplayStream
from device_agent.wire.memory import MemoryBroker


class Player:
    """A stream on a clock of its own, and what it delivered."""

    def __init__(self, times_s, start_s=0.0, **options):
        self.clock = VirtualClock(MemoryBroker(network=lambda _delivery: (0.0,)))
        self.clock.now_s = start_s
        num = len(times_s)
        self.stream = ReplayStream(
            np.arange(num, dtype=np.float32)[:, None],
            np.arange(num, dtype=np.int64) % 3,
            np.array(times_s, np.float64),
            VirtualTimers(self.clock),
            **options,
        )
        self.deliveries, self.ended_s = [], []
        self.on_delivery = lambda: None

    def start(self):
        self.stream.start(self._deliver, lambda: self.ended_s.append(self.clock.now_s))
        return self

    def _deliver(self, samples):
        self.deliveries.append((self.clock.now_s, list(samples)))
        self.on_delivery()

    def run(self, limit_s=1e6):
        self.clock.run(lambda: False, limit_s)
        return self

    def at(self, time_s, action):
        self.clock.call_at(time_s, action)
        return self

    @property
    def events(self):
        return [sample for _, samples in self.deliveries for sample in samples]

    @property
    def arrivals(self):
        return [
            (pytest.approx(time_s), one.number)
            for time_s, samples in self.deliveries
            for one in samples
            if one.vector is not None
        ]


def test_samples_come_with_their_labels_when_they_are_due_and_then_the_end():
    player = Player([0.5, 1.5, 4.0]).start().run()
    assert player.arrivals == [(0.5, 0), (1.5, 1), (4.0, 2)]
    assert [(one.vector.tolist(), one.label) for one in player.events] == [([0.0], 0), ([1.0], 1), ([2.0], 2)]
    assert player.ended_s == [4.0]


def test_nothing_is_delivered_within_the_start():
    player = Player([0.0]).start()
    assert player.deliveries == []
    assert player.stream.num_left == 1
    player.run()
    assert player.stream.num_left == 0


def test_an_empty_stream_ends_and_delivers_nothing():
    player = Player([]).start()
    assert player.ended_s == []
    player.run()
    assert (player.deliveries, player.ended_s) == ([], [0.0])


def test_samples_that_are_due_within_20_ms_come_together():
    player = Player([0.0, 0.005, 0.019, 0.021, 1.0]).start().run()
    assert player.arrivals == [(0.0, 0), (0.02, 1), (0.02, 2), (0.04, 3), (1.0, 4)]


def test_a_delivery_holds_256_events_at_most():
    player = Player([0.0] * 600).start().run()
    assert max(len(samples) for _, samples in player.deliveries) <= MOST_EVENTS
    assert [one.number for one in player.events] == list(range(600))
    times_s = np.array([time_s for time_s, _ in player.deliveries])
    assert (np.diff(times_s) >= 0.02 - 1e-9).all()


def test_a_late_label_comes_after_so_many_more_samples_and_the_last_at_the_end():
    player = Player([0.0, 1.0, 2.0, 3.0], label_delay=2).start().run()
    told = [(one.number, one.vector is not None, one.label) for one in player.events]
    assert told == [
        (0, True, None),
        (1, True, None),
        (2, True, None),
        (0, False, 0),
        (3, True, None),
        (1, False, 1),
        (2, False, 2),
        (3, False, 0),
    ]
    assert player.ended_s[0] <= 3.05


def test_labels_later_than_the_whole_stream_come_at_its_end():
    player = Player([0.0, 1.0], label_delay=1000).start().run()
    assert [(one.number, one.label) for one in player.events] == [(0, None), (1, None), (0, 0), (1, 1)]


def test_a_replay_goes_on_at_once_where_an_earlier_life_stopped():
    player = Player([0.0, 10.0, 20.0, 25.0], start_s=7.0, position=2).start().run()
    assert player.arrivals == [(7.0, 2), (12.0, 3)]


def test_two_lives_deliver_every_event_once():
    first = Player(np.arange(9) * 1.0, label_delay=3).start().run(limit_s=4.5)
    position = 9 - first.stream.num_left
    second = Player(np.arange(9) * 1.0, label_delay=3, position=position).start().run()
    events = [(one.number, one.vector is None) for one in first.events + second.events]
    assert sorted(events) == [(number, late) for number in range(9) for late in (False, True)]


def test_a_position_at_the_end_leaves_the_late_labels():
    player = Player([0.0, 1.0, 2.0], label_delay=1, position=3).start().run()
    assert [(one.number, one.vector, one.label) for one in player.events] == [(2, None, 2)]
    assert len(player.ended_s) == 1


def test_a_position_beyond_the_end_is_the_end():
    assert Player([0.0, 1.0], position=9).start().run().ended_s == [0.0]


def test_passes_follow_each_other_by_the_period_with_rising_numbers():
    player = Player([0.0, 1.0, 2.0], passes=2).start().run()
    assert player.arrivals == [(float(number), number) for number in range(6)]
    assert [one.label for one in player.events] == [0, 1, 2, 0, 1, 2]


def test_a_position_in_the_second_pass_goes_on_there():
    player = Player([0.0, 1.0, 2.0], passes=2, position=4).start().run()
    assert player.arrivals == [(0.0, 4), (1.0, 5)]


def test_while_held_the_clock_of_the_replay_stands_still():
    player = Player([0.0, 1.0, 2.0]).start()
    player.at(0.25, player.stream.hold).at(10.25, player.stream.go_on).run()
    assert player.arrivals == [(0.0, 0), (11.0, 1), (12.0, 2)]


def test_holding_and_going_on_twice_are_as_once():
    player = Player([0.0, 1.0]).start()
    for time_s, action in (
        (0.2, player.stream.hold),
        (0.4, player.stream.hold),
        (0.5, player.stream.go_on),
        (0.6, player.stream.go_on),
    ):
        player.at(time_s, action)
    assert player.run().arrivals == [(0.0, 0), (1.3, 1)]


def test_a_stream_held_before_its_start_waits():
    player = Player([0.0, 1.0])
    player.stream.hold()
    player.start().at(5.0, player.stream.go_on).run()
    assert player.arrivals == [(5.0, 0), (6.0, 1)]


def test_a_stream_held_by_its_last_delivery_ends_after_the_pause():
    player = Player([0.0])
    player.on_delivery = player.stream.hold
    player.start().at(3.0, player.stream.go_on).run()
    assert player.ended_s == [pytest.approx(3.02)]
    assert len(player.events) == 1


def test_a_stopped_stream_delivers_nothing_and_does_not_end():
    player = Player([0.0, 1.0])
    player.on_delivery = player.stream.stop
    player.start().run()
    player.stream.go_on()
    player.run()
    assert (len(player.events), player.ended_s) == (1, [])


@pytest.mark.parametrize(
    ("times_s", "options"),
    [
        ([1.0, 0.5], {}),
        ([-1.0], {}),
        ([float("nan")], {}),
        ([0.0], {"label_delay": -1}),
        ([0.0], {"position": -1}),
        ([0.0], {"passes": 0}),
    ],
)
def test_what_cannot_be_played_is_refused(times_s, options):
    with pytest.raises(ValueError):
        Player(times_s, **options)


@settings(deadline=None, max_examples=60)
@given(
    gaps_s=st.lists(st.floats(0, 0.1), max_size=40),
    holds=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), max_size=4),
    label_delay=st.integers(0, 50),
    passes=st.integers(1, 3),
    start_s=st.floats(0, 1e6),
)
def test_every_sample_and_every_label_comes_once_in_order_and_never_early(
    gaps_s, holds, label_delay, passes, start_s
):
    times_s = np.cumsum(gaps_s)
    player = Player(times_s, start_s, label_delay=label_delay, passes=passes).start()
    for hold_s, length_s in holds:
        player.at(start_s + hold_s, player.stream.hold)
        player.at(start_s + hold_s + length_s, player.stream.go_on)
    player.run(limit_s=1e9)
    numbers = list(range(len(gaps_s) * passes))
    assert [one.number for one in player.events if one.vector is not None] == numbers
    assert [one.number for one in player.events if one.label is not None] == numbers
    assert len(player.ended_s) == 1
    for time_s, samples in player.deliveries:
        for one in samples:
            if one.vector is not None and one.number < len(times_s):
                assert time_s - start_s >= times_s[one.number] - 1e-6
