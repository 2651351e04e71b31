"""Step times from a calibrated table, corrected by the steps really made. Others are in test_table.py."""

from __future__ import annotations

import pytest

from models.step_times import StepTimes
from models.table import ParetoTable, TableEntry


def entry(kept, macs, core_seconds):
    return TableEntry(
        vector=(kept,), macs=macs, progress=kept / 8, memory_bytes=10**6, core_seconds=core_seconds
    )


def table_of(*entries):
    return ParetoTable(model="small", graph_digest="a" * 64, batch_size=32, entries=entries, source="by hand")


# The vector of 400 MACs takes less than that of 300.
UNEVEN = table_of(entry(2, 100, 0.1), entry(3, 300, 0.5), entry(4, 400, 0.35), entry(8, 1600, 1.6))
PLAIN = table_of(entry(2, 100, None), entry(3, 300, None), entry(4, 400, None), entry(8, 1600, None))


def predicted(times, table):
    return [times.predict(entry) for entry in table.entries]


def test_before_any_step_each_vector_takes_its_own_calibrated_seconds():
    assert predicted(StepTimes(UNEVEN), UNEVEN) == pytest.approx([0.1, 0.5, 0.35, 1.6])


def test_a_board_that_is_twice_as_slow_is_so_for_every_vector():
    times = StepTimes(UNEVEN)
    for _ in range(60):
        times.observe(300, 1.0, (3,))
    assert predicted(times, UNEVEN) == pytest.approx([0.2, 1.0, 0.7, 3.2], rel=0.05)


def test_vectors_in_turn_keep_their_differences():
    times = StepTimes(UNEVEN)
    for _ in range(60):
        for kept, macs, seconds in ((2, 100, 0.15), (3, 300, 0.75), (4, 400, 0.525), (8, 1600, 2.4)):
            times.observe(macs, seconds, (kept,))
    assert predicted(times, UNEVEN) == pytest.approx([0.15, 0.75, 0.525, 2.4], rel=0.02)


def test_a_calibrated_table_that_comes_later_brings_its_differences_and_no_scale():
    times = StepTimes(PLAIN)
    for _ in range(100):
        times.observe(100, 0.1, (2,))
        times.observe(1600, 1.6, (8,))
    # as a board twice as slow would have made it
    times.take(table_of(entry(2, 100, 0.2), entry(3, 300, 1.0), entry(4, 400, 0.7), entry(8, 1600, 3.2)))
    found = predicted(times, UNEVEN)
    assert found[1] / found[2] == pytest.approx(StepTimes(UNEVEN).predict(UNEVEN.entries[1]) / 0.35, rel=0.05)
    assert found[3] == pytest.approx(1.6, rel=0.25)


def test_a_calibrated_table_that_comes_before_the_first_step_counts_as_it_is():
    times = StepTimes(PLAIN)
    times.take(UNEVEN)
    assert predicted(times, UNEVEN) == pytest.approx([0.1, 0.5, 0.35, 1.6])


def test_a_vector_that_the_table_lacks_is_predicted_by_its_macs():
    times = StepTimes(UNEVEN)
    between = times.predict(entry(5, 800, None))
    assert times.predict(UNEVEN.entries[1]) < between < times.predict(UNEVEN.entries[3])


def test_a_teacher_beside_the_vector_adds_its_macs():
    times = StepTimes(UNEVEN)
    assert times.predict(entry(3, 600, 0.5)) > 1.5 * times.predict(UNEVEN.entries[1])


def test_a_board_whose_speed_is_known_needs_no_step_to_predict_from():
    times = StepTimes(PLAIN, speed=(1e-5, 0.1))
    assert predicted(times, PLAIN) == pytest.approx(
        [0.1 + 32 * macs * 1e-5 for macs in (100, 300, 400, 1600)]
    )
