from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.ages import (
    AgeRecord,
    after_arrival,
    age_now_s,
    expected_age_s,
    mean_age_s,
    mean_peak_s,
    updates_hz,
)


def record_of(*arrivals):
    record = AgeRecord()
    for arrival_s, age_s in arrivals:
        record = after_arrival(record, arrival_s, age_s)
    return record


def test_the_mean_age_is_the_area_under_the_sawtooth_over_its_length():
    record = record_of((10.0, 1.0), (14.0, 2.0))
    # From 1 to 5 in 4 s: 12; from 2 to 4 in 2 s: 6. Together 18 in 6 s.
    assert mean_age_s(record, 16.0) == 3.0
    assert mean_peak_s(record) == 5.0
    assert age_now_s(record, 16.0) == 4.0


def test_content_older_than_what_is_held_changes_nothing():
    record = record_of((0.0, 0.0), (2.0, 0.0))
    assert after_arrival(record, 3.0, 5.0) == record
    assert after_arrival(record, 3.0, 1.0) == record


def test_an_age_is_unknown_until_there_is_one():
    assert mean_age_s(AgeRecord(), 5.0) is None
    assert mean_peak_s(AgeRecord()) is None
    first = record_of((5.0, 1.0))
    assert mean_age_s(first, 5.0) is None
    assert mean_age_s(first, 7.0) == 2.0
    assert mean_peak_s(first) is None
    with pytest.raises(ValueError, match="no age"):
        age_now_s(AgeRecord(), 5.0)


def test_clocks_do_not_go_back_and_ages_are_not_below_zero():
    record = record_of((5.0, 1.0))
    with pytest.raises(ValueError, match="no age"):
        after_arrival(record, 4.0, 0.0)
    with pytest.raises(ValueError, match="not there yet"):
        after_arrival(record, 6.0, -1.0)


def test_the_rate_of_updates_is_the_thinned_rate_of_samples():
    assert updates_hz(samples_hz=10, send_fraction=0.1, num_chosen=1, num_nodes=5) == pytest.approx(0.25)
    assert updates_hz(samples_hz=10, send_fraction=1, num_chosen=4, num_nodes=5) == pytest.approx(10)
    thinned = updates_hz(
        samples_hz=10, send_fraction=1, num_chosen=4, num_nodes=5, gate_fraction=0.5, loss_fraction=0.2
    )
    assert thinned == pytest.approx(4)


def test_the_expected_age_is_the_mean_gap_and_the_delay():
    assert expected_age_s(0.25) == 4.0
    assert expected_age_s(10.0, 0.5) == pytest.approx(0.6)
    assert expected_age_s(0.0) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss_fraction": 1.5},
        {"send_fraction": -0.1},
        {"num_chosen": 5},
        {"num_nodes": 1},
        {"samples_hz": -1},
    ],
)
def test_rates_of_impossible_settings_are_errors(wrong):
    fair = {"samples_hz": 10, "send_fraction": 0.1, "num_chosen": 1, "num_nodes": 5}
    with pytest.raises(ValueError):
        updates_hz(**{**fair, **wrong})


@pytest.mark.parametrize("delay_s", [0.0, 0.7])
def test_simulated_gossip_has_the_age_of_the_formula(delay_s):
    random = np.random.default_rng(1)
    setup = {"samples_hz": 10.0, "send_fraction": 0.5, "num_chosen": 2, "num_nodes": 5}
    gate, loss = 0.6, 0.2
    made_s = np.cumsum(random.exponential(1 / 10.0, 100_000))
    sent = random.random(len(made_s)) < 0.5
    chosen = (random.random((len(made_s), 4)).argsort(axis=1)[:, :2] == 0).any(axis=1)
    arrives = sent & chosen & (random.random(len(made_s)) < gate) & (random.random(len(made_s)) >= loss)
    record = record_of(*((when_s + delay_s, delay_s) for when_s in made_s[arrives]))
    expected_s = expected_age_s(updates_hz(**setup, gate_fraction=gate, loss_fraction=loss), delay_s)
    assert mean_age_s(record, record.last_s) == pytest.approx(expected_s, rel=0.05)
    assert mean_peak_s(record) == pytest.approx(expected_s, rel=0.05)
