"""What is seen of learning from streams."""

from __future__ import annotations

import json

import pytest

from coordinator import stream_view
from coordinator.effects import Settled
from coordinator.fleet import Fleet, fold_settled
from coordinator.fleet import to_json as fleet_json
from coordinator.stream_view import (
    StreamView,
    ToldOfStream,
    fold_report,
    fold_run,
    fold_window,
    newest_window,
    to_json,
)
from device_agent.wire.stream_report import DriftSeen, PairAge, StreamReport

HUGE = 2**53


def report(counts=(3, 1, 1, 5), seen=10, *, is_over=False, **fields):
    return StreamReport(seen=seen, is_over=is_over, counts=counts, **fields)


def shown(view, now_s=None):
    """As JSON, which must be JSON."""
    told = to_json(view, now_s)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    return told


def test_accuracy_and_f1_are_those_of_all_predictions():
    # class 0: 3 of 4 right, and 1 of the other class taken for it: F1 = 2 * 3 / (4 + 4); class 1: 2 * 5 / 12
    told = shown(fold_report(None, "a", report((3, 1, 1, 5))))
    assert (told["samples"], told["accuracy"]) == (10, 0.8)
    assert told["f1_by_class"] == [0.75, round(10 / 12, 4)]
    assert told["f1"] == round((0.75 + 10 / 12) / 2, 4)


def test_a_class_that_never_occurred_is_not_in_the_mean_f1():
    told = shown(fold_report(None, "a", report((3, 1, 0, 1, 5, 0, 0, 0, 0))))
    assert told["f1"] == round((0.75 + 10 / 12) / 2, 4)
    assert told["f1_by_class"][2] == 0.0


FIRST = report((3, 1, 1, 5), 10, told=2, heard=3, missed=1, bytes_sent=100)
SECOND = report((4, 1, 2, 5), 13, is_over=True, told=3, heard=3, repeats=4, missed=1, bytes_sent=160)


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST), (FIRST, SECOND, SECOND, FIRST)])
def test_of_a_device_the_report_of_most_samples_counts_in_whatever_order_they_come(order):
    view = None
    for one in order:
        view = fold_report(view, "a", one)
    (device,) = shown(view)["devices"]
    assert (device["labelled"], device["seen"], device["is_over"]) == (12, 13, True)
    assert device["accuracy"] == 0.75
    assert [device[key] for key in ("told", "heard", "repeats", "unread", "missed")] == [3, 3, 4, 0, 1]
    assert device["bytes_sent"] == 160


def test_what_a_device_is_lately_is_what_came_with_its_last_window():
    view = fold_window(None, 1, 1.0, [("a", FIRST)])
    (device,) = shown(fold_window(view, 2, 2.0, [("a", SECOND)]))["devices"]
    assert device["recent_accuracy"] == 0.5


def test_bytes_are_those_of_a_sample_of_a_device():
    view = fold_report(None, "a", report(bytes_sent=50, bytes_received=80))
    told = shown(fold_report(view, "b", report(bytes_sent=30)))
    assert (told["sent_bytes_per_sample"], told["received_bytes_per_sample"]) == (4.0, 4.0)


def test_a_window_is_what_its_reports_say_together():
    view = fold_window(None, 1, 4.0, [("a", report((3, 1, 1, 5))), ("b", report((0, 0, 2, 8)))])
    view = fold_window(view, 2, 9.0, [("a", report((3, 1, 1, 5)))])
    first, second = shown(view)["windows"]
    # together 3 1 3 13: 16 of 20; F1 2 * 3 / (4 + 6) and 2 * 13 / (14 + 16)
    assert first == {
        "window": 1,
        "at_s": 4.0,
        "devices": 2,
        "samples": 20,
        "accuracy": 0.8,
        "f1": round((0.6 + 26 / 30) / 2, 4),
    }
    assert second == {"window": 2, "at_s": 9.0, "devices": 1, "samples": 0, "accuracy": None, "f1": None}
    assert [window["ago_s"] for window in shown(view, 10.0)["windows"]] == [6.0, 1.0]
    assert newest_window(view) == (None, 0.0)
    assert newest_window(fold_window(view, 3, 9.0, [("a", report((4, 1, 1, 5)))])) == (1.0, 0.0)


def test_a_device_that_answers_two_orders_in_a_window_is_one_device():
    view = fold_window(None, 1, 4.0, [("a", FIRST), ("a", SECOND)])
    assert [(window.num_devices, window.num_samples) for window in view.windows] == [(1, 12)]


def test_old_windows_make_room(monkeypatch):
    monkeypatch.setattr(stream_view, "MAX_WINDOWS", 2)
    view = StreamView()
    for number in (1, 2, 3):
        view = fold_window(view, number, float(number), [("a", report())])
    assert [window.number for window in view.windows] == [2, 3]
    assert shown(view)["samples"] == 10


def test_the_latest_drifts_are_shown(monkeypatch):
    monkeypatch.setattr(stream_view, "MAX_DRIFTS", 2)
    drifts = tuple(DriftSeen(sample=n, before=0.1, after=0.4) for n in (1, 2, 3))
    view = fold_report(fold_report(None, "a", report(drifts=drifts[:2])), "a", report(drifts=drifts[2:]))
    assert shown(view)["devices"][0]["drifts"] == [[2, 0.1, 0.4], [3, 0.1, 0.4]]


# ---------------------------------------------------------------- ages


def test_ages_are_those_of_the_newest_report():
    view = fold_report(None, "b", report(ages={"a": PairAge(updates=1)}))
    view = fold_report(
        view, "b", report(ages={"a": PairAge(updates=4, mean_s=0.5, peak_s=0.75, expected_s=0.8)})
    )
    view = fold_report(view, "a", report(ages={"b": PairAge(updates=0)}))
    assert shown(view)["ages"] == [["a", "b", 0, None, None, None], ["b", "a", 4, 0.5, 0.75, 0.8]]


def test_of_too_many_pairs_those_that_heard_most_are_shown(monkeypatch):
    monkeypatch.setattr(stream_view, "MAX_SHOWN_PAIRS", 2)
    ages = {other: PairAge(updates=num) for other, num in (("b", 5), ("c", 9), ("d", 7))}
    pairs = shown(fold_report(None, "a", report(ages=ages)))["ages"]
    assert [pair[1] for pair in pairs] == ["c", "d"]


# ---------------------------------------------------------------- what cannot be right


@pytest.mark.parametrize("counts", [(), (1, 2), (1,) * 8])
def test_counts_that_are_no_square_are_left_out(counts):
    view = fold_window(None, 1, 1.0, [("liar", report(counts)), ("a", report())])
    told = shown(view)
    assert [device["device"] for device in told["devices"]] == ["a"]
    assert (told["accuracy"], told["windows"][0]["accuracy"]) == (0.8, 0.8)


def test_a_device_that_changes_its_classes_is_not_believed():
    view = fold_report(fold_report(None, "a", report()), "a", report((1,) * 9, seen=99))
    assert shown(view)["devices"][0]["seen"] == 10


@pytest.mark.parametrize("liars", [["a"], ["z"]])
def test_devices_of_other_classes_do_not_hide_what_the_others_do(liars):
    reports = [("m", report()), ("n", report()), *((liar, report((9,) * 9)) for liar in liars)]
    told = shown(fold_window(None, 1, 1.0, reports))
    assert (told["samples"], told["accuracy"]) == (20, 0.8)
    assert (told["windows"][0]["samples"], told["windows"][0]["accuracy"]) == (20, 0.8)


def test_more_samples_than_can_have_been_are_left_out():
    counts = (HUGE,) * 65_536  # their sum is beyond 64 bits
    told = shown(fold_window(None, 1, 1.0, [("liar", report(counts)), ("a", report())]))
    assert (told["samples"], told["accuracy"]) == (10, 0.8)


def test_large_numbers_of_a_liar_stay_numbers():
    lies = dict.fromkeys(
        ("told", "heard", "repeats", "unread", "missed", "bytes_sent", "bytes_received"), HUGE
    )
    view = fold_report(None, "liar", report(seen=HUGE, **lies))
    assert shown(view)["devices"][0]["bytes_sent"] == HUGE


def test_devices_beyond_the_limit_are_left_out(monkeypatch):
    monkeypatch.setattr(stream_view, "MAX_DEVICES", 1)
    view = fold_report(fold_report(None, "a", report()), "b", report())
    assert [device["device"] for device in shown(fold_report(view, "a", report()))["devices"]] == ["a"]
    assert shown(fold_report(view, "a", report()))["samples"] == 10


def test_nothing_is_known_before_the_first_report():
    told = shown(StreamView())
    assert (told["accuracy"], told["f1"], told["samples"]) == (None, None, 0)
    assert told["sent_bytes_per_sample"] is None
    assert newest_window(None) == newest_window(StreamView()) == (None, 0.0)


# ---------------------------------------------------------------- of a run, and of the fleet


def test_what_comes_too_late_for_its_window_counts_in_the_totals_alone():
    view = fold_run(
        [
            ToldOfStream("a", 1, report((4, 1, 1, 5), 15), in_time=False),
            ToldOfStream("b", 2, report(), in_time=True),
            ToldOfStream("a", 1, report(), in_time=True),
        ],
        {1: 3.0, 2: 6.0},
    )
    told = shown(view)
    assert told["samples"] == 21
    assert [(one["window"], one["at_s"], one["samples"]) for one in told["windows"]] == [
        (1, 3.0, 10),
        (2, 6.0, 10),
    ]


def settled(device, outcome, **fields):
    return Settled(device=device, boot_epoch=1, sequence=1, outcome=outcome, round=3, **fields)


def test_the_fleet_shows_streams_as_updates_are_settled_and_not_what_was_refused():
    fleet = fold_settled(
        Fleet(),
        100.0,
        3,
        [
            settled("a", "applied", stream=report()),
            settled("b", "expired", stream=report()),
            settled("c", "refused", stream=report()),
        ],
    )
    told = fleet_json(fleet, 101.5)["streams"]
    assert [device["device"] for device in told["devices"]] == ["a", "b"]
    assert [(one["window"], one["ago_s"], one["samples"]) for one in told["windows"]] == [(3, 1.5, 10)]


def test_a_fleet_without_streams_shows_none():
    fleet = fold_settled(Fleet(), 1.0, 1, [settled("a", "applied")])
    assert fleet_json(fleet, 1.0)["streams"] is None
