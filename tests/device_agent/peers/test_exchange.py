"""The exchange of two devices, and of a fleet whose carrier loses, repeats, delays and reorders messages."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.peers.exchange import FORGET_AGES, GIVE_UP_AGES, ReciprocalExchanges, first_nonce
from device_agent.peers.mixing import moved, moved_back
from device_agent.peers.snapshots import OwnWeights
from device_agent.wire.messages import Answer, Offer, Settle, Settled
from models.peer_settings import PeerSettings

SETTINGS = PeerSettings(barrier_s=1.0, max_age_s=8.0)
MAX_AGE_S = SETTINGS.max_age_s


class Device:
    """A device with exchanges and nothing else; `log` has every pull it made or took back."""

    def __init__(self, name, values, settings=SETTINGS, boot_epoch=1, degree=1):
        self.name, self.boot_epoch, self.degree = name, boot_epoch, degree
        self.exchanges = ReciprocalExchanges(name, boot_epoch, settings)
        self.own = OwnWeights({"w": np.array(values, np.float32)})
        self.log = []

    @property
    def values(self):
        return self.own.weights["w"]

    def begin(self, now_s, neighbour):
        return self.exchanges.begin(now_s, neighbour, self.degree, lambda nonce: self.own.snapshot(0, nonce))

    def hear(self, now_s, sender, body, theirs=None):
        """Take a message in; returns the answer."""
        exchanges, name = self.exchanges, sender.name
        if isinstance(body, Offer):
            own = self.own.snapshot(0, body.nonce)
            deed = exchanges.on_offer(now_s, name, sender.boot_epoch, body, theirs, own, self.degree)
        elif isinstance(body, Answer):
            deed = exchanges.on_answer(now_s, name, body, theirs)
        elif isinstance(body, Settle):
            deed = exchanges.on_settle(now_s, name, sender.boot_epoch, body)
        else:
            deed = exchanges.on_settled(name, body)
        key = (name, self.name) if isinstance(body, (Offer, Settle)) else (self.name, name)
        if deed.pull is not None:
            self.own.set(moved(self.own.weights, deed.pull))
            self.log.append((key, body.nonce, self.name, deed.pull["w"]))
        if deed.taken_back is not None:
            self.own.set(moved_back(self.own.weights, deed.taken_back))
            self.log.append((key, body.nonce, self.name, -deed.taken_back["w"]))
        return deed.send

    def outcome(self, neighbour):
        return self.exchanges.counts[neighbour]


def pair(first=(0.0, 8.0), second=(4.0, 2.0)):
    return Device("a", first), Device("b", second)


def offered(a, b, now_s=0.0):
    """Up to the answer, which nobody has heard yet: (offer, answer, b's weights in it)."""
    offer = a.begin(now_s, "b")
    theirs = b.own.weights
    return offer, b.hear(now_s, a, offer, a.own.weights), theirs


# ---------------------------------------------------------------- two devices


def test_the_share_of_answered_offers_falls_in_silence_and_recovers():
    a, b = pair()
    for now_s in range(100):
        a.begin(float(now_s), "b")
    silent = a.exchanges.answered
    assert silent < 0.2
    for now_s in range(100, 300):
        _, answer, theirs = offered(a, b, float(now_s))
        settle = a.hear(now_s, b, answer, theirs)
        a.hear(now_s, b, b.hear(now_s, a, settle))
    assert a.exchanges.answered > 0.95


def test_an_exchange_that_is_settled_pulls_both_sides_to_their_mean():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    assert b.values.tolist() == [4.0, 2.0]  # nothing before the other side has pulled
    settle = a.hear(0.1, b, answer, theirs)
    settled = b.hear(0.2, a, settle)
    assert a.hear(0.3, b, settled) is None
    assert a.values.tolist() == b.values.tolist() == [2.0, 5.0]
    assert a.outcome("b").completed == a.outcome("b").begun == 1


def test_a_pair_that_the_answering_side_gave_up_is_refused_and_the_pull_taken_back():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    b.exchanges.give_up(0.05)
    settled = b.hear(0.2, a, a.hear(0.1, b, answer, theirs))
    assert settled.applied is False
    a.hear(0.3, b, settled)
    assert (a.values.tolist(), b.values.tolist()) == ([0.0, 8.0], [4.0, 2.0])


def test_what_the_beginning_side_gave_up_pulls_it_no_more_and_is_counted():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    a.exchanges.give_up(0.05)
    assert a.hear(0.1, b, answer, theirs) is None
    assert a.values.tolist() == [0.0, 8.0]
    _, answer, theirs = offered(a, b, 20.0)
    settled = b.hear(20.2, a, a.hear(20.1, b, answer, theirs))
    a.exchanges.give_up(20.3)
    a.hear(20.4, b, settled)
    assert a.outcome("b").one_sided == 1


def test_an_offer_that_nobody_answers_changes_nothing():
    a, b = pair()
    offered(a, b)
    a.exchanges.on_timer(100.0)
    assert a.values.tolist() == [0.0, 8.0]
    assert b.hear(100.0, a, Settle(nonce=first_nonce("a", 1) + 77)).applied is False
    assert b.values.tolist() == [4.0, 2.0]


def test_a_settlement_that_comes_too_late_is_refused_and_the_pull_taken_back():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    settle = a.hear(0.1, b, answer, theirs)
    settled = b.hear(MAX_AGE_S + 1.0, a, settle)
    assert settled.applied is False
    a.hear(MAX_AGE_S + 1.1, b, settled)
    assert (a.values.tolist(), b.values.tolist()) == ([0.0, 8.0], [4.0, 2.0])
    assert a.outcome("b").taken_back == 1
    assert b.hear(MAX_AGE_S + 2.0, a, settle).applied is False  # never again otherwise


def test_a_settlement_is_sent_again_with_growing_waits_until_it_is_given_up_and_counted():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    a.hear(0.1, b, answer, theirs)
    sent_s = []
    while (due_s := a.exchanges.next_due_s()) is not None:
        sent_s += [due_s] if a.exchanges.on_timer(due_s) else []
    waits = np.diff(sent_s)
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(waits))
    assert waits[-1] == pytest.approx(MAX_AGE_S / 8)
    assert sent_s[-1] < 0.1 + GIVE_UP_AGES * MAX_AGE_S
    assert a.outcome("b").one_sided == 1
    assert a.values.tolist() == [2.0, 5.0]


def test_the_two_pulls_are_exact_negatives():
    rng = np.random.default_rng(0)
    a, b = pair(rng.normal(0, 1, 1000), rng.normal(0, 1e-3, 1000))
    _, answer, theirs = offered(a, b)
    b.hear(0.2, a, a.hear(0.1, b, answer, theirs))
    assert a.log[0][3].tolist() == (-b.log[0][3]).tolist()


def test_what_a_gradient_did_meanwhile_is_not_pulled_away():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    a.own.set(moved(a.own.weights, {"w": np.float32([100.0, 0.0])}))
    a.hear(0.1, b, answer, theirs)
    assert a.values.tolist() == [102.0, 5.0]


def test_an_answer_heard_twice_and_a_settlement_heard_twice_pull_once():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    settle = a.hear(0.1, b, answer, theirs)
    assert a.hear(0.2, b, answer, theirs) is None
    first, second = b.hear(0.3, a, settle), b.hear(0.4, a, settle)
    assert first == second == Settled(nonce=settle.nonce, applied=True)
    assert a.values.tolist() == b.values.tolist() == [2.0, 5.0]


def test_an_old_offer_that_comes_after_its_end_is_not_answered():
    a, b = pair()
    offer, answer, theirs = offered(a, b)
    b.hear(0.2, a, a.hear(0.1, b, answer, theirs))
    assert b.hear(0.3, a, offer, a.own.weights) is None


def test_an_answer_to_an_offer_that_was_replaced_pulls_nothing():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    a.begin(5.0, "b")
    assert a.hear(5.1, b, answer, theirs) is None
    assert a.values.tolist() == [0.0, 8.0]


def test_a_pair_has_one_exchange_at_a_time():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    assert not a.exchanges.can_begin(0.5, "b")
    assert not b.exchanges.can_begin(0.5, "a")
    settle = a.hear(0.6, b, answer, theirs)
    assert not a.exchanges.can_begin(2.0, "b")
    a.hear(2.2, b, b.hear(2.1, a, settle))
    assert a.exchanges.can_begin(2.3, "b")


def test_of_two_offers_that_cross_one_is_answered():
    a, b = pair()
    of_a, of_b = a.begin(0.0, "b"), b.begin(0.0, "a")
    answers = [b.hear(0.1, a, of_a, a.own.weights), a.hear(0.1, b, of_b, b.own.weights)]
    assert [answer is not None for answer in answers].count(True) == 1


def test_an_unanswered_offer_does_not_block_the_pair_for_longer_than_a_barrier():
    a, _ = pair()
    a.begin(0.0, "b")
    assert not a.exchanges.can_begin(0.9, "b")
    assert a.exchanges.can_begin(1.0, "b")


def test_a_late_answer_teaches_patience():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    a.begin(1.0, "b")
    a.hear(2.0, b, answer, theirs)
    assert a.exchanges.patience_s("b") == pytest.approx(6.0)


def test_who_is_silent_for_long_is_offered_less_often_until_it_is_heard():
    a, b = pair()
    for number in range(20):
        a.begin(10.0 * number, "b")
    assert a.exchanges.patience_s("b") == MAX_AGE_S
    b.begin(200.0, "c")
    a.hear(200.0, b, b.begin(200.0, "a"), b.own.weights)
    assert a.exchanges.patience_s("b") == 1.0


def test_at_half_weight_a_device_exchanges_with_one_at_a_time():
    a, b = (Device(name, [0.0], PeerSettings(weight="half", partners=1)) for name in "ab")
    a.begin(0.0, "c")
    assert not a.exchanges.can_begin(0.1, "b")
    b.begin(0.0, "d")
    answers = [
        a.hear(0.1, b, b.begin(0.0, "a"), b.own.weights),
        b.hear(0.1, a, a.begin(0.0, "b"), a.own.weights),
    ]
    assert answers.count(None) >= 1


def test_a_neighbour_that_restarted_has_given_up_what_it_had_answered():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    settle = a.hear(0.1, b, answer, theirs)
    reborn = Device("b", [1.0, 1.0], boot_epoch=2)
    settled = reborn.hear(0.2, a, settle)
    a.hear(0.3, reborn, settled)
    assert a.values.tolist() == [0.0, 8.0]
    assert reborn.values.tolist() == [1.0, 1.0]


def test_an_answer_to_an_earlier_life_fits_no_offer():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    reborn = Device("a", [0.0, 0.0], boot_epoch=2)
    reborn.begin(0.1, "b")
    assert reborn.hear(0.2, b, answer, theirs) is None


def test_how_an_exchange_ended_is_forgotten_only_when_nobody_can_ask_any_more():
    a, b = pair()
    _, answer, theirs = offered(a, b)
    settle = a.hear(0.1, b, answer, theirs)
    b.hear(0.2, a, settle)
    assert b.hear(GIVE_UP_AGES * MAX_AGE_S, a, settle).applied is True
    b.exchanges.on_timer(0.3 + FORGET_AGES * MAX_AGE_S)
    assert b.hear(0.3 + FORGET_AGES * MAX_AGE_S, a, settle) is None


def test_a_neighbour_that_settles_what_nobody_offered_fills_no_memory(monkeypatch):
    monkeypatch.setattr("device_agent.peers.exchange.MAX_ENDED", 10)
    a, b = pair()
    answers = [b.hear(0.0, a, Settle(nonce=nonce)) for nonce in range(100)]
    assert {answer.applied for answer in answers} == {False}
    known = [b.hear(0.0, a, Settle(nonce=nonce)) is not None for nonce in range(100)]
    assert sum(known) <= 11
    assert known[-1]


def test_the_weight_is_that_of_the_better_connected_side():
    a, b = Device("a", [0.0], degree=1), Device("b", [8.0], degree=3)
    _, answer, theirs = offered(a, b)
    b.hear(0.2, a, a.hear(0.1, b, answer, theirs))
    assert (a.values.tolist(), b.values.tolist()) == ([2.0], [6.0])


# ---------------------------------------------------------------- a fleet


class Fleet:
    """Devices in a ring with a chord, and a carrier that a random generator drives."""

    def __init__(self, seed, loss, max_delay_s, duplicates, kind):
        self.rng, self.loss = random.Random(seed), loss
        self.max_delay_s, self.duplicates = max_delay_s, duplicates
        values = np.random.default_rng(seed).normal(0, 1, (5, 3))
        self.devices = [Device(f"d{i}", row, kind, degree=2 + (i in (0, 2))) for i, row in enumerate(values)]
        self.before = self.total()
        self.edges = [(i, (i + 1) % 5) for i in range(5)] + [(0, 2)]
        self.flights, self.numbers = [], itertools.count()

    def total(self):
        return np.sum([device.values.astype(np.float64) for device in self.devices], axis=0)

    def say(self, now_s, sender, to, body, weights):
        if self.rng.random() < self.loss:
            return
        for _ in range(1 + (self.rng.random() < self.duplicates)):
            due_s = now_s + self.rng.uniform(0.0, self.max_delay_s)
            heapq.heappush(self.flights, (due_s, next(self.numbers), sender, to, body, weights))

    def run(self, barriers):
        """Barriers with exchanges, then none until everything has come to its end."""
        tick_s, now_s = 0.25, 0.0
        while now_s < barriers + (GIVE_UP_AGES + 3) * MAX_AGE_S:
            now_s += tick_s
            while self.flights and self.flights[0][0] <= now_s:
                due_s, _, sender, to, body, weights = heapq.heappop(self.flights)
                own = self.devices[to].own.weights
                if (reply := self.devices[to].hear(due_s, self.devices[sender], body, weights)) is not None:
                    self.say(due_s, to, sender, reply, own)
            for number, device in enumerate(self.devices):
                for name, settle in device.exchanges.on_timer(now_s):
                    self.say(now_s, number, int(name[1:]), settle, None)
            if now_s < barriers:
                self.barrier(now_s)

    def barrier(self, now_s):
        for edge in self.edges:
            one, other = self.rng.sample(edge, 2)
            device = self.devices[one]
            if self.rng.random() < 0.5 and device.exchanges.can_begin(now_s, f"d{other}"):
                self.say(now_s, one, other, device.begin(now_s, f"d{other}"), device.own.weights)

    def one_sided(self):
        """(who began and with whom, nonce) -> the pull that one side alone holds in the end."""
        held = {}
        for device in self.devices:
            for key, nonce, side, change in device.log:
                sides = held.setdefault((key, nonce), {})
                sides.setdefault(side, []).append(change.astype(np.float64))
        found = {}
        for exchange, sides in held.items():
            net = {side: np.sum(changes, axis=0) for side, changes in sides.items()}
            assert all(len(changes) <= 2 for changes in sides.values())
            left = np.sum(list(net.values()), axis=0)
            if np.any(left):
                found[exchange] = left
        return found

    def counted(self):
        return Counter(
            {
                (device.name, neighbour): counts.one_sided
                for device in self.devices
                for neighbour, counts in device.exchanges.counts.items()
            }
        )


KINDS = st.sampled_from([SETTINGS, PeerSettings(barrier_s=1.0, max_age_s=8.0, weight="half", partners=1)])
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS, delay_s=st.floats(0.0, 6.0), duplicates=st.floats(0.0, 1.0), kind=KINDS)
def test_without_loss_nothing_is_one_sided_and_the_mean_stays(seed, delay_s, duplicates, kind):
    fleet = Fleet(seed, 0.0, delay_s, duplicates, kind)
    fleet.run(barriers=20)
    assert any(device.log for device in fleet.devices)
    assert fleet.one_sided() == {}
    assert np.allclose(fleet.total(), fleet.before, atol=1e-5)
    assert sum(fleet.counted().values()) == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=SEEDS,
    loss=st.floats(0.05, 0.9),
    delay_s=st.floats(0.0, 6.0),
    duplicates=st.floats(0.0, 1.0),
    kind=KINDS,
)
def test_under_loss_the_sum_drifts_by_counted_one_sided_pulls_alone(seed, loss, delay_s, duplicates, kind):
    fleet = Fleet(seed, loss, delay_s, duplicates, kind)
    fleet.run(barriers=20)
    one_sided = fleet.one_sided()
    drift = np.sum(list(one_sided.values()), axis=0) if one_sided else np.zeros(3)
    assert np.allclose(fleet.total() - fleet.before, drift, atol=1e-5)
    assert Counter(key for key, _ in one_sided) <= fleet.counted()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=SEEDS, delay_s=st.floats(0.0, 2.0))
def test_exchanges_alone_bring_the_devices_together(seed, delay_s):
    fleet = Fleet(seed, 0.3, delay_s, 0.3, SETTINGS)
    before = np.ptp([device.values for device in fleet.devices], axis=0)
    fleet.run(barriers=60)
    assert np.all(np.ptp([device.values for device in fleet.devices], axis=0) < 0.05 * before)
