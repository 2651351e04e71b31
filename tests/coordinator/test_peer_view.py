"""What is seen of learning from neighbours."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coordinator import peer_view
from coordinator.effects import Settled
from coordinator.fleet import Fleet, fold_settled
from coordinator.fleet import to_json as fleet_json
from coordinator.peer_view import (
    PeerView,
    Told,
    consensus_distance,
    fold_report,
    fold_run,
    fold_window,
    to_json,
)
from device_agent.peers.sketch import sketch
from device_agent.wire.messages import Exchanges, PeerReport


def report(step=10, *, sketch=(), staleness=(), discarded=0, bytes_sent=0, **exchanges):
    return PeerReport(
        step=step,
        sketch=sketch,
        staleness=staleness,
        discarded=discarded,
        bytes_sent=bytes_sent,
        exchanges={
            other: Exchanges(begun=begun, completed=done) for other, (begun, done) in exchanges.items()
        },
    )


def test_the_consensus_distance_of_points_is_the_root_mean_square_distance_to_their_mean():
    assert consensus_distance([(0.0, 0.0), (0.0, 2.0)]) == pytest.approx(1.0)
    assert consensus_distance([(1.0, 1.0)] * 5) == 0.0


def test_one_device_alone_has_no_distance():
    assert consensus_distance([(1.0, 2.0)]) is None
    assert consensus_distance([]) is None


def test_a_sketch_that_cannot_be_right_is_left_out():
    sound = [(0.0, 0.0), (0.0, 2.0)]
    for liar in ((float("nan"), 0.0), (1.0,), ()):
        assert consensus_distance([*sound, liar]) == pytest.approx(1.0)
    assert consensus_distance([*sound, (1e308, -1e308)]) is None  # overflows: not known, and not infinite


def test_sketches_tell_the_distance_of_the_weights():
    rng = np.random.default_rng(1)
    nodes = [{"w": rng.normal(0, 0.1, 5000).astype(np.float32)} for _ in range(10)]
    flat = np.array([node["w"] for node in nodes], np.float64)
    exact = np.sqrt(np.mean(np.sum((flat - flat.mean(axis=0)) ** 2, axis=1)))
    assert consensus_distance([sketch(node, "run") for node in nodes]) == pytest.approx(exact, rel=0.25)


def test_a_window_adds_up_what_its_devices_tell():
    view = fold_window(
        None,
        1,
        12.0,
        [
            ("a", report(10, sketch=(0.0,), staleness=(3, 1), bytes_sent=100, b=(4, 3))),
            ("b", report(9, sketch=(2.0,), staleness=(2,), discarded=1, bytes_sent=50, a=(2, 2))),
        ],
    )
    view = fold_window(view, 2, 24.0, [("a", report(20, staleness=(1, 0, 1), bytes_sent=10, b=(1, 1)))])
    assert to_json(view) == {
        "consensus_distance": [
            {"window": 1, "at_s": 12.0, "devices": 2, "distance": 1.0},
            {"window": 2, "at_s": 24.0, "devices": 1, "distance": None},
        ],
        "staleness": [6, 1, 1],
        "discarded": 1,
        "devices": ["a", "b"],
        "barriers": [20, 9],
        "bytes_sent": [110, 50],
        "links": [[0, 1, 5, 4, 0, 0], [1, 0, 2, 2, 0, 0]],
        "num_links": 2,
    }


def test_what_comes_too_late_for_a_windows_mean_is_counted_all_the_same():
    told = [
        Told("a", 2, report(20, sketch=(0.0,), b=(2, 2)), in_time=True),
        Told("a", 1, report(10, sketch=(0.0,), b=(3, 1)), in_time=False),
        Told("b", 2, report(20, sketch=(2.0,)), in_time=True),
    ]
    view = fold_run(told, {2: 8.0})
    assert view.links["a", "b"] == Exchanges(begun=5, completed=3)
    assert [(window.number, window.at_s, window.num_devices) for window in view.windows] == [(2, 8.0, 2)]


def test_links_beyond_the_limit_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(peer_view, "MAX_LINKS", 2)
    view = fold_report(None, "a", report(b=(1, 1), c=(1, 1), d=(1, 1)))
    assert (len(view.links), view.links_left_out) == (2, 1)
    assert to_json(fold_report(view, "a", report(b=(1, 1))))["num_links"] == 3


def test_the_busiest_links_are_shown_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(peer_view, "MAX_SHOWN_LINKS", 1)
    shown = to_json(fold_report(None, "a", report(b=(1, 1), c=(9, 9))))
    assert shown["links"] == [[0, 2, 9, 9, 0, 0]]
    assert shown["devices"] == ["a", "b", "c"]


def test_old_windows_make_room(monkeypatch):
    monkeypatch.setattr(peer_view, "MAX_WINDOWS", 2)
    view = PeerView()
    for number in (1, 2, 3):
        view = fold_window(view, number, float(number), [("a", report())])
    assert [window.number for window in view.windows] == [2, 3]


# ---------------------------------------------------------------- as part of the fleet


def settled(device, outcome, **fields):
    return Settled(device=device, boot_epoch=1, sequence=1, outcome=outcome, round=3, **fields)


def test_the_fleet_shows_the_exchanges_of_updates_as_they_are_settled():
    fleet = fold_settled(
        Fleet(),
        100.0,
        3,
        [
            settled("a", "applied", peers=report(30, sketch=(0.0,), b=(3, 3))),
            settled("b", "applied", peers=report(30, sketch=(4.0,))),
            settled("c", "expired", peers=report(20, sketch=(9.0,), a=(1, 0))),
        ],
    )
    shown = fleet_json(fleet, 101.5)["peers"]
    assert shown["consensus_distance"] == [{"window": 3, "ago_s": 1.5, "devices": 2, "distance": 2.0}]
    assert shown["links"] == [[0, 1, 3, 3, 0, 0], [2, 0, 1, 0, 0, 0]]
    json.dumps(shown, allow_nan=False)


def test_a_fleet_without_exchanges_shows_none():
    fleet = fold_settled(Fleet(), 1.0, 1, [settled("a", "applied")])
    assert fleet_json(fleet, 1.0)["peers"] is None
