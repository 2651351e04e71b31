"""Resource traces: pure functions of virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.twins.trace_kinds import Csv, Ramp, Resources, Steps, Walk
from coordinator.twins.traces import make_reading, make_sensors
from firmware_profiles.errors import UserError
from firmware_profiles.profile import load_profile
from firmware_profiles.resources import Snapshot

WALK = Walk(start=0.5, step=0.3, low=0.0, high=1.0, every_s=10.0)


def test_what_is_left_out_stays_none():
    read = make_sensors(Resources(), load_profile("raspberry-pi-4"), "seed")
    assert read(5.0) == Snapshot(num_cores=4)


def test_a_plain_value_is_constant():
    reading = make_reading(0.25, "seed")
    assert [reading(0.0), reading(1e6)] == [0.25, 0.25]


def test_steps_hold_until_the_next_and_begin_with_the_first():
    reading = make_reading(Steps(points=((10.0, 1.0), (20.0, 3.0))), "seed")
    assert [reading(time_s) for time_s in (9.9, 10.0, 19.9, 20.0, 99.0)] == [None, 1.0, 1.0, 3.0, 3.0]


def test_a_ramp_goes_straight_from_point_to_point():
    reading = make_reading(Ramp(points=((10.0, 1.0), (20.0, 3.0))), "seed")
    assert [reading(time_s) for time_s in (0.0, 10.0, 15.0, 20.0, 99.0)] == [1.0, 1.0, 2.0, 3.0, 3.0]


@settings(deadline=None, max_examples=30)
@given(times_s=st.lists(st.floats(0, 1000), min_size=1, max_size=10))
def test_a_walk_is_the_same_whatever_is_asked_first(times_s):
    asked, fresh = make_reading(WALK, "seed"), make_reading(WALK, "seed")
    readings = [asked(time_s) for time_s in times_s]
    assert [fresh(time_s) for time_s in reversed(times_s)] == readings[::-1]
    assert all(0.0 <= value <= 1.0 for value in readings)


def test_walks_of_two_seeds_part():
    one, other = make_reading(WALK, "1"), make_reading(WALK, "2")
    assert one(0.0) == other(0.0) == 0.5
    assert one(100.0) != other(100.0)


def test_a_csv_column_holds_until_the_next_row_and_an_empty_cell_is_not_known(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("t_s,others,heat\n0,0.1,50\n10,,60\n20,0.3,70\n")
    reading = make_reading(Csv(file=str(path), column="others"), "seed")
    assert [reading(time_s) for time_s in (0.0, 10.0, 20.0, 99.0)] == [0.1, None, 0.3, 0.3]


def test_a_csv_trace_can_repeat(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("t_s,others\n0,0.1\n10,0.2\n")
    reading = make_reading(Csv(file=str(path), column="others", repeat_s=20.0), "seed")
    assert [reading(time_s) for time_s in (20.0, 30.0, 45.0)] == [0.1, 0.2, 0.1]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("t_s,other\n0,1\n", "did you mean"),
        ("t_s,others\n", "no rows"),
        ("t_s,others\n0,1\n0,2\n", ":3: t_s must rise"),
        ("t_s,others\n0,much\n", ":2: 'much' is not a number"),
        ("t_s,others\n0,nan\n", "not a number"),
        ("", "no column"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_with_its_line(tmp_path, content, part):
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        make_reading(Csv(file=str(path), column="others"), "seed")
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_a_csv_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        make_reading(Csv(file=str(tmp_path / "none.csv"), column="x"), "seed")


def test_sensors_have_the_types_of_a_snapshot():
    resources = Resources(
        charging=Steps(points=((0.0, False), (5.0, True))),
        throttled=True,
        memory_available_bytes=1000.7,
        battery_fraction=1.5,
        start_hour=23.5,
    )
    read = make_sensors(resources, load_profile("raspberry-pi-4"), "seed")
    snapshot = read(3600.0)
    assert (snapshot.charging, snapshot.throttled) == (True, True)
    assert read(0.0).charging is False
    assert snapshot.memory_available_bytes == 1000
    assert snapshot.battery_fraction == 1.0
    assert snapshot.hour_of_day == pytest.approx(0.5)
