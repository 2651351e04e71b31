"""What the policy grants of what a board has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.grant import FLOOR_CPU_SHARE_FRACTION, grant
from firmware_profiles.policy import Policy
from firmware_profiles.profile import load_profile
from firmware_profiles.resources import Budget, Pause, Snapshot, Task

MIB = 1024 * 1024
PI = load_profile("raspberry-pi-4")  # reserves 256 MiB, throttles at 80 °C
TASK = Task(time_left_s=60.0, num_batches_left=10)
COOL = Snapshot(
    num_cores=4, cpu_others_fraction=0.0, memory_available_bytes=1024 * MIB, memory_own_bytes=100 * MIB
)


def budget(snapshot: Snapshot = COOL, policy: Policy | None = None) -> Budget:
    granted = grant(PI, snapshot, policy or Policy(), TASK)
    assert isinstance(granted, Budget), granted
    return granted


def reason(snapshot: Snapshot, policy: Policy | None = None) -> str:
    granted = grant(PI, snapshot, policy or Policy(), TASK)
    assert isinstance(granted, Pause), granted
    return granted.reason


def test_the_task_is_passed_on():
    assert (budget().time_left_s, budget().num_batches_left) == (60.0, 10)


def test_an_idle_board_gives_what_the_policy_allows():
    assert budget(policy=Policy(max_cpu_share_fraction=0.5)).cpu_share_fraction == 0.5


def test_a_busy_board_gives_what_others_leave():
    assert budget(replace(COOL, cpu_others_fraction=0.75)).cpu_share_fraction == pytest.approx(0.25)


def test_agents_of_one_machine_share_equally():
    snapshot = replace(COOL, cpu_others_fraction=0.5, cohort_size=4)
    assert budget(snapshot).cpu_share_fraction == pytest.approx(0.125)


def test_many_agents_do_not_make_the_floor_pause_them():
    assert budget(replace(COOL, cohort_size=100)).cpu_share_fraction == pytest.approx(0.009)


def test_below_the_floor_training_pauses_and_says_the_numbers():
    assert reason(replace(COOL, cpu_others_fraction=0.97)) == "others use 97 % of the CPU; training needs 5 %"


def test_an_owner_who_allows_less_than_the_floor_means_it():
    assert budget(policy=Policy(max_cpu_share_fraction=0.02)).cpu_share_fraction == 0.02


def test_memory_is_what_is_ours_plus_what_is_free_above_the_reserve():
    assert budget().memory_bytes == (1024 - 256 + 100) * MIB


def test_free_memory_is_shared_by_the_agents_of_one_machine():
    assert budget(replace(COOL, cohort_size=4)).memory_bytes == ((1024 - 256) // 4 + 100) * MIB


def test_the_policy_caps_memory():
    assert budget(policy=Policy(max_memory_bytes=64 * MIB)).memory_bytes == 64 * MIB


def test_without_memory_above_the_reserve_training_pauses():
    snapshot = replace(COOL, memory_available_bytes=100 * MIB, memory_own_bytes=50 * MIB)
    assert reason(snapshot) == "memory: 100 MiB available, and 256 MiB are reserved for the system"


def test_a_low_battery_pauses_and_says_the_numbers():
    snapshot = replace(COOL, battery_fraction=0.12, charging=False)
    assert reason(snapshot, Policy(min_battery_fraction=0.2)) == "battery 12 % is below min_battery 20 %"


def test_a_battery_just_below_the_minimum_is_not_rounded_up_to_it():
    assert "29.9 % is below" in reason(replace(COOL, battery_fraction=0.29999, charging=False))


def test_a_low_battery_on_the_charger_does_not_pause():
    assert budget(replace(COOL, battery_fraction=0.12, charging=True))


def test_only_when_charging_pauses_on_battery():
    snapshot = replace(COOL, battery_fraction=0.9, charging=False)
    assert "external power is not connected" in reason(snapshot, Policy(only_when_charging=True))


def test_only_when_charging_pauses_where_a_battery_has_an_unknown_charger():
    snapshot = replace(COOL, battery_fraction=0.9)
    assert "unknown" in reason(snapshot, Policy(only_when_charging=True))


def test_a_board_without_a_battery_counts_as_charging():
    assert budget(COOL, Policy(only_when_charging=True))


def test_a_throttled_board_pauses_with_its_temperature_and_clock():
    snapshot = replace(COOL, throttled=True, temperature_celsius=70.0, clock_hz=6e8)
    assert reason(snapshot) == "the board is throttled (heat or voltage) at 70.0 °C, clock 600 MHz"


def test_an_owner_can_train_a_throttled_board():
    assert budget(replace(COOL, throttled=True), Policy(pause_when_throttled=False))


def test_the_share_falls_over_the_last_degrees_below_the_limit():
    shares = [
        budget(
            replace(COOL, temperature_celsius=celsius), Policy(max_cpu_share_fraction=1.0)
        ).cpu_share_fraction
        for celsius in (60.0, 75.0, 77.5, 79.0)
    ]
    assert shares == pytest.approx([1.0, 1.0, 0.5, 0.2])


def test_at_the_limit_training_pauses_and_says_the_numbers():
    assert reason(replace(COOL, temperature_celsius=80.0)) == (
        "temperature 80.0 °C leaves no room below max_temperature 80.0 °C"
    )


def test_the_policy_can_ask_for_a_cooler_board():
    assert "below max_temperature 50.0 °C" in reason(
        replace(COOL, temperature_celsius=55.0), Policy(max_temperature_celsius=50.0)
    )


def test_outside_its_hours_training_pauses_and_says_the_time():
    policy = Policy(hours=("22:00-06:00", "12:00-13:00"))
    assert reason(replace(COOL, hour_of_day=7.5), policy) == "07:30 is outside hours 22:00-06:00, 12:00-13:00"


@pytest.mark.parametrize("hour", [23.0, 2.0, 12.5])
def test_within_any_of_its_hours_training_goes_on(hour):
    assert budget(replace(COOL, hour_of_day=hour), Policy(hours=("22:00-06:00", "12:00-13:00")))


def test_hours_need_a_clock():
    assert "time of day is unknown" in reason(COOL, Policy(hours=("22:00-06:00",)))


def test_a_board_without_any_sensor_trains_within_its_profile():
    granted = budget(Snapshot(num_cores=4))
    assert granted.cpu_share_fraction == 0.9
    assert granted.memory_bytes == PI.memory_total_bytes - PI.memory_reserve_bytes


def fraction() -> st.SearchStrategy[float]:
    return st.floats(0.0, 1.0)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


SNAPSHOTS = st.builds(
    Snapshot,
    num_cores=st.integers(1, 64),
    cpu_others_fraction=maybe(fraction()),
    cohort_size=st.integers(1, 20),
    memory_available_bytes=maybe(st.integers(0, 2**36)),
    memory_own_bytes=maybe(st.integers(0, 2**33)),
    battery_fraction=maybe(fraction()),
    charging=maybe(st.booleans()),
    temperature_celsius=maybe(st.floats(-40.0, 150.0)),
    throttled=maybe(st.booleans()),
    clock_hz=maybe(st.floats(1e6, 1e10)),
    hour_of_day=maybe(st.floats(0.0, 24.0, exclude_max=True)),
)
POLICIES = st.builds(
    Policy,
    max_cpu_share_fraction=st.floats(0.001, 1.0),
    max_memory_bytes=maybe(st.integers(1, 2**36)),
    max_temperature_celsius=maybe(st.floats(20.0, 150.0)),
    min_battery_fraction=fraction(),
    only_when_charging=st.booleans(),
    pause_when_throttled=st.booleans(),
    hours=st.sampled_from([(), ("22:00-06:00",), ("09:00-17:00", "20:00-21:00")]),
)
PROFILES = st.sampled_from(
    [load_profile(name) for name in ("raspberry-pi-4", "generic-linux", "jetson-nano")]
)


@settings(deadline=None, max_examples=300)
@given(PROFILES, SNAPSHOTS, POLICIES)
def test_a_budget_never_exceeds_the_policy_nor_what_there_is(profile, snapshot, policy):
    granted = grant(profile, snapshot, policy, TASK)
    if isinstance(granted, Pause):
        assert granted.reason
        return
    together = granted.cpu_share_fraction * snapshot.cohort_size
    assert 0.0 < granted.cpu_share_fraction <= 1.0
    assert together <= policy.max_cpu_share_fraction + 1e-9
    assert together <= 1.0 - (snapshot.cpu_others_fraction or 0.0) + 1e-9
    assert together >= min(FLOOR_CPU_SHARE_FRACTION, policy.max_cpu_share_fraction) - 1e-9
    assert 0 < granted.memory_bytes <= (policy.max_memory_bytes or 2**62)


def relieved(snapshot: Snapshot, factor: float, extra_bytes: int, cooler: float, charge: float) -> Snapshot:
    """The same board with more of whatever it knows of."""
    better = {
        "cpu_others_fraction": lambda others: others * factor,
        "memory_available_bytes": lambda available: available + extra_bytes,
        "temperature_celsius": lambda celsius: celsius - cooler,
        "battery_fraction": lambda battery: min(1.0, battery + charge),
    }
    known = {name: value for name in better if (value := getattr(snapshot, name)) is not None}
    return replace(snapshot, **{name: better[name](value) for name, value in known.items()})


RELIEF = st.tuples(fraction(), st.integers(0, 2**30), st.floats(0.0, 30.0), fraction())


@settings(deadline=None, max_examples=300)
@given(PROFILES, SNAPSHOTS, POLICIES, RELIEF)
def test_more_to_spare_never_grants_less(profile, snapshot, policy, relief):
    before, after = (grant(profile, at, policy, TASK) for at in (snapshot, relieved(snapshot, *relief)))
    if isinstance(before, Budget):
        assert isinstance(after, Budget)
        assert after.cpu_share_fraction >= before.cpu_share_fraction
        assert after.memory_bytes >= before.memory_bytes


@settings(deadline=None)
@given(SNAPSHOTS, POLICIES)
def test_the_same_snapshot_is_granted_the_same(snapshot, policy):
    assert grant(PI, snapshot, policy, TASK) == grant(PI, snapshot, policy, TASK)
