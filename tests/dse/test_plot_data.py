"""What the plots show: trials, front, uniform vectors, hypervolume, live devices."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.live import LiveDevice, LiveFleet, LiveGroup
from dse.plot_data import is_uniform, prepare
from dse.plots_layout import device_counts, entry_labels, front_frame, spread
from dse.trial import StudyTrials, Trial
from firmware_profiles.errors import UserError
from models.table import ParetoTable, TableEntry

TABLE = ParetoTable(
    model="small",
    graph_digest="a" * 64,
    batch_size=32,
    source="by hand",
    entries=(
        TableEntry(vector=(2, 4), macs=100, progress=0.1, memory_bytes=1000),
        TableEntry(vector=(3, 8), macs=250, progress=0.2, memory_bytes=2000),
        TableEntry(vector=(4, 8), macs=400, progress=0.3, memory_bytes=4000),
    ),
)
STUDY = StudyTrials(
    "s",
    ("a.weight", "b.weight"),
    (
        Trial(0, (4, 8), 400, 0.3),
        Trial(1, (2, 4), 100, 0.1),
        Trial(2, (1, 8), 150, 0.05),
        Trial(4, (3, 8), 200, 0.3),
    ),
)


def fleet(*devices, groups=(4, 8)):
    return LiveFleet(
        groups=tuple(LiveGroup(f"g{index}", size) for index, size in enumerate(groups)), devices=devices
    )


def device(name, **fields):
    return LiveDevice(**{"device": name, "state": "training", **fields})


# ---------------------------------------------------------------- trials


def test_the_front_is_what_no_trial_beats():
    points = prepare(TABLE, study=STUDY).trials
    assert [point.trial.number for point in points if point.is_on_front] == [1, 4]


@pytest.mark.parametrize(
    ("vector", "expected"), [((4, 8), True), ((2, 4), True), ((1, 1), True), ((1, 8), False), ((3, 8), False)]
)
def test_a_vector_is_uniform_if_one_keep_fraction_makes_it(vector, expected):
    assert is_uniform(vector, (4, 8)) is expected


@given(fraction=st.floats(0.01, 1.0), sizes=st.lists(st.integers(1, 64), min_size=1, max_size=6))
def test_whatever_one_keep_fraction_makes_is_uniform(fraction, sizes):
    assert is_uniform(tuple(max(1, round(size * fraction)) for size in sizes), tuple(sizes))


def test_the_hypervolume_is_the_best_gain_averaged_over_the_budgets():
    curve = prepare(TABLE, study=STUDY).hypervolume
    # Nothing below 25 % of the MACs, 0.1 up to 50 %, 0.3 from there on.
    assert curve.values[-1] == pytest.approx(0.25 * 0.1 + 0.5 * 0.3)
    assert curve.values[0] == 0.0
    assert curve.of_uniform == pytest.approx(0.75 * 0.1)
    assert curve.reference == (1.0, 0.0)


def test_a_study_of_another_network_is_refused():
    study = StudyTrials("other", ("a",), (Trial(0, (3,), 10, 0.1),))
    with pytest.raises(UserError, match=r"study 'other' searched another network .* --name"):
        prepare(TABLE, study=study)


# ---------------------------------------------------------------- names and entries


def test_groups_have_the_names_that_study_fleet_or_caller_give_them():
    assert prepare(TABLE).groups == (("group 1", 4), ("group 2", 8))
    assert prepare(TABLE, study=STUDY).groups == (("a", 4), ("b", 8))
    assert prepare(TABLE, fleet=fleet()).groups == (("g0", 4), ("g1", 8))
    assert prepare(TABLE, study=STUDY, group_names=["x.weight", "y"]).groups == (("x", 4), ("y", 8))


def test_entries_are_shares_of_the_full_network():
    first = prepare(TABLE).entries[0]
    assert (first.number, first.macs_fraction, first.keep_fractions) == (1, 0.25, (0.5, 0.5))


# ---------------------------------------------------------------- devices


def test_a_device_is_at_the_entry_whose_vector_it_trains():
    data = prepare(
        TABLE,
        fleet=fleet(
            device("one", vector=(3, 8), macs_fraction=0.6, macs_series=((2.0, 0.25), (1.0, 0.6))),
            device("other", vector=(3, 7), macs_fraction=0.5),
            device("resting", vector=(2, 4), macs_fraction=0.25, state="paused"),
            device("new"),
            device("gone", online=False, vector=(2, 4), macs_fraction=0.25),
        ),
    )
    points = {point.device: point for point in data.devices}
    assert set(points) == {"one", "other", "resting", "new"}
    assert (points["one"].entry, points["one"].now, points["one"].recent) == (2, 0.6, (0.25, 0.6))
    assert points["other"].entry is None
    assert points["resting"].now == 0.0
    assert points["new"].now is None
    counts, others = device_counts(data.entries, data.devices)
    assert counts == [0, 1, 0]
    assert others == {"paused": 1, "other vector": 1, "not known": 1}


def test_a_fleet_that_trains_another_network_is_refused():
    with pytest.raises(UserError, match=r"another network .* \[4, 9\] channels, the table's \[4, 8\]"):
        prepare(TABLE, fleet=fleet(groups=(4, 9)))


# ---------------------------------------------------------------- places


@given(places=st.lists(st.floats(0, 100), max_size=30), gap=st.floats(0.1, 20))
def test_labels_keep_their_order_their_distance_and_the_line(places, gap):
    places = sorted(places)
    moved = spread(places, gap, 0.0, 100.0)
    assert len(moved) == len(places)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in moved)
    least = min(gap, 100 / max(1, len(places) - 1))
    assert all(after - before >= least - 1e-6 for before, after in pairwise(moved))


@given(places=st.lists(st.integers(1, 9), unique=True, max_size=9))
def test_labels_that_are_far_enough_apart_stay_where_they_belong(places):
    places = [10.0 * place for place in sorted(places)]
    assert spread(places, 10.0, 0.0, 100.0) == pytest.approx(places)


def test_the_axis_leaves_out_what_harms_much_but_no_entry():
    study = StudyTrials("s", (), (Trial(0, (1, 1), 10, -0.9), Trial(1, (4, 8), 400, 0.4)))
    frame = front_frame(prepare(TABLE, study=study))
    assert -20 < frame.bottom < 0
    assert 40 < frame.knee < frame.rail < frame.top


def test_a_long_table_is_numbered_sparsely_with_its_last_entry():
    entries = tuple(
        TableEntry(vector=(kept, 8), macs=kept, progress=kept, memory_bytes=1) for kept in range(1, 101)
    )
    long = ParetoTable(model="small", graph_digest="a" * 64, batch_size=1, source="", entries=entries)
    labels = entry_labels(prepare(long).entries, 2.0)
    assert len(labels) <= 31
    assert labels[-1].text == "100"
