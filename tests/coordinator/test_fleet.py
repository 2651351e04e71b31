"""The fold that the dashboard shows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import fleet as module
from coordinator.fleet import UPDATE_APPLIED, Fleet, fold, to_json
from device_agent.effects import Note
from device_agent.wire.messages import Hello, Run, Status, Telemetry
from models.widths import WidthGroup

GROUPS = (WidthGroup("conv1", 16), WidthGroup("conv2", 32))
RUN = Run(
    run="r", strategy="distreal", state="training", round=3, num_rounds=8, model_version=3, accuracy=0.71
)


def hello(device="board-1", boot_epoch=1, **more):
    return Hello(
        device=device,
        boot_epoch=boot_epoch,
        version="0.1",
        profile="pi4",
        engine="onnx",
        num_cores=4,
        memory_total_bytes=None,
        num_samples=500,
        input_shape=(1, 28, 28),
        num_classes=10,
        cpu_share_fraction=0.8,
        **more,
    )


def telemetry(device="board-1", boot_epoch=1, state="training", **more):
    return Telemetry(device=device, boot_epoch=boot_epoch, state=state, **more)


def after(*messages, fleet=None):
    """Fold messages at 0, 1, 2, … seconds; a message is (device, message)."""
    fleet = fleet or Fleet(groups=GROUPS)
    for now_s, (device, message) in enumerate(messages):
        fleet = fold(fleet, float(now_s), device, message)
    return fleet


def shown(fleet, now_s=10.0, device="board-1"):
    return next(d for d in to_json(fleet, now_s)["devices"] if d["device"] == device)


ONLINE = ("board-1", Status(online=True, boot_epoch=1))


def test_a_device_that_says_hello_is_joining():
    card = shown(after(ONLINE, ("board-1", hello())))
    assert (card["state"], card["online"], card["hello"]["profile"]) == ("joining", True, "pi4")


def test_telemetry_is_shown_with_its_vector_and_age():
    fleet = after(ONLINE, ("board-1", telemetry(vector=(4, 8), macs_fraction=0.2, battery_fraction=0.5)))
    card = shown(fleet, 3.5)
    assert (card["vector"], card["battery_fraction"], card["last_seen_ago_s"]) == ([4, 8], 0.5, 2.5)


def test_a_vector_of_another_model_is_not_shown():
    assert shown(after(ONLINE, ("board-1", telemetry(vector=(4, 8, 2)))))["vector"] is None


def test_the_series_is_of_the_mean_since_the_last_telemetry_and_zero_while_paused():
    fleet = after(
        ("board-1", telemetry(mean_macs_fraction=0.5)),
        ("board-1", telemetry(state="paused", reason="hot")),
        ("board-1", telemetry(state="fetching")),
        ("board-1", telemetry(mean_macs_fraction=1.0)),
    )
    assert shown(fleet, 3.0)["macs_series"] == [[3.0, 0.5], [2.0, 0.0], [0.0, 1.0]]


def test_the_last_will_shows_a_device_as_lost():
    card = shown(after(ONLINE, ("board-1", Status(online=False, boot_epoch=1, reason="lost"))))
    assert (card["state"], card["online"]) == ("lost", False)


def test_a_device_that_left_says_why():
    card = shown(after(ONLINE, ("board-1", Status(online=False, boot_epoch=1, reason="stopped by the user"))))
    assert (card["state"], card["reason"]) == ("offline", "stopped by the user")


def test_an_online_device_that_says_nothing_becomes_silent():
    fleet = after(ONLINE, ("board-1", telemetry()))
    assert shown(fleet, 21.0)["state"] == "training"
    assert shown(fleet, 22.0)["state"] == "silent"


def test_what_an_earlier_start_of_the_agent_said_comes_too_late():
    fleet = after(
        ("board-1", Status(online=True, boot_epoch=2)), ("board-1", Status(online=False, boot_epoch=1))
    )
    assert shown(fleet)["online"]
    assert fleet.num_ignored == 1


def test_a_new_start_forgets_the_old_state_and_keeps_the_history():
    fleet = after(
        ("board-1", telemetry(state="paused")),
        ("board-1", Status(online=False, boot_epoch=1, reason="lost")),
        ("board-1", hello(boot_epoch=2)),
    )
    card = shown(fleet)
    assert (card["state"], len(card["macs_series"])) == ("joining", 1)


def test_a_device_that_speaks_for_another_is_ignored():
    fleet = after(ONLINE, ("board-1", telemetry(device="board-2")))
    assert set(fleet.devices) == {"board-1"}
    assert fleet.num_ignored == 1


def test_applied_updates_are_counted_and_every_note_is_an_event():
    fleet = after(
        ONLINE,
        ("", Note(UPDATE_APPLIED, "board-1", {"samples": 32})),
        ("", Note(UPDATE_APPLIED, "board-1")),
        ("", Note("update refused", "board-1", {"reason": "NaN"})),
    )
    assert shown(fleet)["num_updates"] == 2
    events = to_json(fleet, 3.0)["events"]
    assert [line["event"] for line in events] == ["update refused", UPDATE_APPLIED, UPDATE_APPLIED]
    assert events[0] == {
        "ago_s": 0.0,
        "event": "update refused",
        "device": "board-1",
        "details": {"reason": "NaN"},
    }


def test_the_run_is_shown():
    view = to_json(after(("", RUN)), 1.0, {"broker": "mosquitto"})
    assert (view["run"]["round"], view["run"]["accuracy"], view["about"]) == (
        3,
        0.71,
        {"broker": "mosquitto"},
    )


def test_folding_leaves_the_fleet_before_as_it_was():
    before = after(ONLINE)
    fold(before, 9.0, "board-2", Status(online=True, boot_epoch=1))
    assert set(before.devices) == {"board-1"}


def test_one_device_too_many_is_ignored_until_one_is_offline(monkeypatch):
    monkeypatch.setattr(module, "MAX_DEVICES", 2)
    online, offline = Status(online=True, boot_epoch=1), Status(online=False, boot_epoch=1)
    fleet = after(("a", online), ("b", online), ("c", online))
    assert (set(fleet.devices), fleet.num_ignored) == ({"a", "b"}, 1)
    fleet = after(("a", offline), ("c", online), fleet=fleet)
    assert set(fleet.devices) == {"b", "c"}


def test_series_events_and_texts_are_bounded():
    fleet = after(*[("board-1", telemetry(mean_macs_fraction=0.5))] * 200)
    fleet = after(
        *[("", Note("x" * 9999, "d" * 9999, dict.fromkeys(map(str, range(99)), "y" * 9999)))] * 300,
        fleet=fleet,
    )
    assert len(fleet.devices["board-1"].macs_series) == module.MAX_POINTS
    assert len(fleet.events) == module.MAX_EVENTS
    assert len(json.dumps(to_json(fleet, 300.0)["events"][0])) < 10_000


def test_the_view_of_a_large_fleet_carries_fewer_points_a_device(monkeypatch):
    monkeypatch.setattr(module, "MAX_SHOWN_POINTS", 10)
    messages = [(d, telemetry(device=d, mean_macs_fraction=0.5)) for d in ("a", "b") for _ in range(20)]
    assert [len(d["macs_series"]) for d in to_json(after(*messages), 40.0)["devices"]] == [5, 5]
    monkeypatch.setattr(module, "MAX_SHOWN_POINTS", 1)
    assert [len(d["macs_series"]) for d in to_json(after(*messages), 40.0)["devices"]] == [0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_json_cannot_carry_become_null(value):
    fleet = after(
        ("board-1", telemetry(temperature_celsius=value)),
        ("", Note("odd", "", {"value": value, "at": object})),
    )
    text = json.dumps(to_json(fleet, 1.0), allow_nan=False)
    assert json.loads(text)["devices"][0]["temperature_celsius"] is None


EPOCH = st.integers(0, 3)
DEVICE = st.sampled_from(["a", "b"])
MESSAGES = st.one_of(
    st.builds(Status, online=st.booleans(), boot_epoch=EPOCH, reason=st.text(max_size=20)),
    st.builds(hello, device=DEVICE, boot_epoch=EPOCH),
    st.builds(
        telemetry,
        device=DEVICE,
        boot_epoch=EPOCH,
        state=st.text(max_size=9),
        loss=st.none() | st.floats(),
        mean_macs_fraction=st.none() | st.floats(0, 1),
        vector=st.none() | st.tuples(st.integers(1, 9)),
    ),
    st.builds(
        Note, event=st.text(max_size=9), device=DEVICE, details=st.dictionaries(st.text(), st.floats())
    ),
    st.just(RUN),
)


@settings(deadline=None, max_examples=60)
@given(messages=st.lists(st.tuples(DEVICE, MESSAGES), max_size=30))
def test_any_order_of_messages_yields_a_view_that_json_can_carry(messages):
    view = to_json(after(*messages), 100.0)
    json.dumps(view, allow_nan=False)
    assert {device["device"] for device in view["devices"]} <= {"a", "b"}
