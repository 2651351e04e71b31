"""What the sensors are made of: power supplies, counters of ticks, the cohort file."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.sensors import Cohort, parse_cohort, write_cohort
from device_agent.sensors.power import Power, Supply, combine
from device_agent.sensors.procfs import CpuTicks, ProcessTicks
from device_agent.sensors.usage import Sample, Window, others_fraction, usable_cores


def battery(charge=0.5, weight=1.0, status=None):
    return Supply(is_battery=True, charge_fraction=charge, weight=weight, status=status)


def charger(online):
    return Supply(is_battery=False, online=online)


@pytest.mark.parametrize(
    ("supplies", "power"),
    [
        ([], Power(None, None)),
        ([charger(online=False)], Power(None, None)),
        ([charger(online=True)], Power(None, True)),
        ([battery(status=None)], Power(0.5, None)),
        ([battery(status=False)], Power(0.5, False)),
        ([battery(status=True)], Power(0.5, True)),
        ([battery(status=None), charger(online=False)], Power(0.5, False)),
        ([battery(status=False), charger(online=False), charger(online=True)], Power(0.5, True)),
        ([battery(0.2, 3.0), battery(1.0, 1.0)], Power(0.4, None)),
        ([battery(charge=None, status=False)], Power(None, False)),
    ],
)
def test_batteries_and_chargers_are_joined(supplies, power):
    assert combine(supplies) == pytest.approx(power)


@settings(deadline=None)
@given(st.integers(1, 64), st.none() | st.floats(0, 1), st.none() | st.floats(0.01, 100))
def test_usable_cores_leave_no_more_than_quota_and_machine(num_cpus, others, quota):
    num_cores, fraction = usable_cores(num_cpus, others, quota)
    room = num_cores * (1 - (fraction or 0.0))
    assert 1 <= num_cores <= num_cpus
    assert room <= min(num_cpus * (1 - (others or 0.0)), quota or num_cpus) + 1e-6


TICKS = st.integers(0, 10_000)
SAMPLES = st.builds(
    Sample,
    time_s=st.just(0.0),
    cpus=st.dictionaries(st.integers(0, 3), st.builds(CpuTicks, TICKS, TICKS), max_size=4),
    own=st.dictionaries(st.integers(1, 3), st.builds(ProcessTicks, st.integers(0, 1), TICKS), max_size=3),
)


@settings(deadline=None)
@given(SAMPLES, SAMPLES)
def test_others_use_is_a_fraction_whatever_the_counters_do(before, after):
    fraction = others_fraction(before, after)
    assert fraction is None or 0.0 <= fraction <= 1.0


def test_readings_within_one_tick_keep_the_last_value():
    window = Window(1.5)
    window.add(Sample(0.0, {0: CpuTicks(0, 0)}, {}))
    window.add(Sample(1.0, {0: CpuTicks(50, 50)}, {}))
    window.add(Sample(3.0, {0: CpuTicks(50, 50)}, {}))
    assert window.add(Sample(3.0, {0: CpuTicks(50, 50)}, {})) == 0.5


def test_a_cohort_file_is_replaced_whole_and_leaves_no_litter(tmp_path):
    path = tmp_path / "cohort.json"
    for agents in [(1, 2), (3,)]:
        write_cohort(path, Cohort(agents=agents, others=(9,)))
    assert parse_cohort(path.read_text()) == Cohort(agents=(3,), others=(9,))
    assert list(tmp_path.iterdir()) == [path]
