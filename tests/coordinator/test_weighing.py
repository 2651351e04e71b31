from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.weighing import Weighing, damping, most_late

POLICIES = ("constant", "polynomial", "hinge", "drop")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("polynomial", [1.0, 0.5, 1 / 3, 0.25]),
        ("hinge", [1.0, 1.0, 0.5, 1 / 3]),
        ("drop", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_a_policy_damps_as_its_source_says(policy, expected):
    settings = AsyncSettings(staleness=policy, staleness_exponent=1.0, hinge_after=1)
    assert [damping(settings, late) for late in range(4)] == pytest.approx(expected)


def test_only_drop_shortens_how_late_an_update_may_be():
    limits = {policy: most_late(AsyncSettings(staleness=policy, hinge_after=3)) for policy in POLICIES}
    assert limits == {"constant": 20, "polynomial": 20, "hinge": 20, "drop": 3}
    assert most_late(AsyncSettings(staleness="drop", hinge_after=3, max_staleness=2)) == 2


def contributions(settings, *, num_versions=100, buffer_size=1, ratio=8):
    """What two devices count with the same data, the first `ratio` times as fast."""
    weighing, sums, numbers = Weighing(settings, num_sharing=2), Counter(), Counter()
    base = {"fast": 0, "slow": 0}
    for device in base:
        weighing.open(device)
    version = num_in_buffer = moment = 0
    while version < num_versions:
        moment += 1
        for device in ("fast", *(("slow",) if moment % ratio == 0 else ())):
            late = version - base[device]
            sums[device] += weighing.weigh(device, late)
            weighing.spend(device, late, 1.0)
            numbers[device] += 1
            num_in_buffer += 1
            base[device] = version
            if num_in_buffer == buffer_size:
                version, num_in_buffer = version + 1, 0
    return sums, numbers


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("buffer_size", [1, 10])
def test_over_a_hundred_versions_a_device_eight_times_as_fast_counts_the_same(policy, buffer_size):
    settings = AsyncSettings(fairness="rate", staleness=policy, hinge_after=20)
    sums, numbers = contributions(settings, buffer_size=buffer_size)
    assert numbers["fast"] > 7 * numbers["slow"]
    assert sums["fast"] / sums["slow"] == pytest.approx(1.0, abs=0.1)
    assert sums.total() / numbers.total() == pytest.approx(1.0, abs=0.1)


def test_without_fairness_damping_makes_slow_devices_count_even_less():
    undamped, _ = contributions(AsyncSettings(staleness="constant", fairness="none"))
    damped, _ = contributions(AsyncSettings(staleness="polynomial", fairness="none"))
    assert undamped["fast"] / undamped["slow"] == pytest.approx(8.0, abs=0.5)
    assert damped["fast"] / damped["slow"] > 15


def test_of_one_devices_updates_the_later_one_counts_less():
    weighing = Weighing(AsyncSettings(fairness="rate"), num_sharing=1)
    for _ in range(20):
        weighing.spend("a", 1, 1.0)
    assert weighing.weigh("a", 8) < weighing.weigh("a", 1)


def test_a_device_that_was_away_for_long_counts_as_much_as_the_cap_allows():
    weighing = Weighing(AsyncSettings(fairness="rate", fairness_cap=4.0), num_sharing=2)
    weighing.open("away")
    for _ in range(1000):
        weighing.spend("there", 0, 1.0)
    assert weighing.weigh("away", 0) == 4.0
    weighing.spend("away", 0, 1.0)
    assert weighing.weigh("away", 0) == 0.5


def test_own_weights_are_averaged_over_devices_however_often_they_report():
    weighing = Weighing(AsyncSettings())
    assert weighing.mean_own_weight() == 1.0
    for _ in range(9):
        weighing.spend("often", 0, 10.0)
    weighing.spend("once", 0, 40.0)
    assert weighing.mean_own_weight() == 25.0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), min_size=1, max_size=80),
    st.sampled_from(POLICIES),
)
def test_whoever_reports_no_device_spends_more_than_it_was_credited(reports, policy):
    weighing, spent = Weighing(AsyncSettings(fairness="rate", staleness=policy), num_sharing=3), Counter()
    for device in "abc":
        weighing.open(device)
    for number, (device, late) in enumerate(reports, 1):
        weight = weighing.weigh(device, late)
        assert 0 < weight <= 8.0
        weighing.spend(device, late, 1.0)
        spent[device] += weight
        assert spent[device] <= 1.0 + number / 3 + 1e-9


def test_a_device_that_rested_has_saved_nothing_up():
    weighing = Weighing(AsyncSettings(fairness="rate"), num_sharing=2)
    for device in "abc":
        weighing.open(device)
    weighing.rest("c")
    for _ in range(20):
        for device in "ab":
            weighing.spend(device, 0, 1.0)
    assert weighing.weigh("c", 0) == pytest.approx(1.5)
    weighing.spend("c", 0, 1.0)
    for _ in range(20):
        weighing.spend("a", 0, 1.0)
    assert weighing.weigh("c", 0) > 5.0
