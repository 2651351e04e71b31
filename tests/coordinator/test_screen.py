from __future__ import annotations

import io

import pytest
from rich.console import Console

from coordinator.fleet import Fleet, fold, to_json
from coordinator.screen import Screen, devices_table, one_line, print_report
from device_agent.wire.messages import Run, Status, Telemetry
from models.widths import WidthGroup
from tests.fixtures.shown_fleets import stream_fleet


def telemetry(**changes):
    fields = {
        "device": "device-1",
        "boot_epoch": 1,
        "state": "training",
        "round": 1,
        "vector": (4, 8),
        "macs_fraction": 0.25,
        "steps_done": 3,
        "steps_planned": 10,
        "cpu_share_fraction": 0.5,
        "memory_own_bytes": 100 * 2**20,
        "temperature_celsius": 61.4,
    }
    return Telemetry(**{**fields, **changes})


def view(*messages):
    fleet = Fleet(groups=(WidthGroup("a", 8), WidthGroup("b", 8)))
    run = Run(
        run="run-a",
        strategy="distreal",
        state="training",
        round=2,
        num_rounds=8,
        model_version=1,
        accuracy=0.5,
    )
    fleet = fold(fleet, 1.0, "coordinator", run)
    for message in messages:
        fleet = fold(fleet, 1.0, getattr(message, "device", "device-1"), message)
    return to_json(fleet, 1.0)


def drawn(renderable, *, terminal=False, width=200):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_a_line_says_round_accuracy_and_every_devices_state():
    text = one_line(view(telemetry(), telemetry(device="device-2", state="paused", macs_fraction=None)))
    assert text == "round 2/8  accuracy 50.0 %  device-1:training@0.25 device-2:paused"


def test_a_line_before_anything_is_known_is_a_line_too():
    assert one_line(to_json(Fleet(), 0.0)) == "round 0/0  accuracy -  "


def test_a_line_about_streams_says_window_and_accuracy_so_far_and_each_devices_lately():
    text = one_line(to_json(stream_fleet(), 400.0))
    assert text == "window 3/4  accuracy 90.0 %  pump-1:training@0.88 pump-2:training@0.88"


def test_a_device_on_a_stream_has_a_row_with_its_samples_and_no_vector():
    text = drawn(devices_table(to_json(stream_fleet(), 400.0)))
    assert all(told in text for told in ("pump-1", "87.5 %", "120/200", "samples"))
    assert not any(told in text for told in ("vector", "MACs", "batches", "None"))


def test_a_device_on_a_live_stream_says_how_many_samples_came():
    fleet = fold(Fleet(), 1.0, "a", telemetry(device="a", accuracy=0.5, steps_done=17, steps_planned=0))
    text = drawn(devices_table(to_json(fleet, 1.0)))
    assert " 17 " in text
    assert "/" not in text


def test_a_device_has_a_row_with_what_it_told():
    text = drawn(devices_table(view(telemetry())))
    for told in ("device-1", "training", "4·8", "25.0 %", "50.0 %", "100 MiB", "61", "3/10"):
        assert told in text


def test_what_a_device_did_not_tell_is_a_dash():
    text = drawn(devices_table(view(Status(online=True, boot_epoch=1))))
    assert "-" in text
    assert "None" not in text


def test_the_reason_of_a_pause_is_shown():
    assert "battery 12 %" in drawn(devices_table(view(telemetry(state="paused", reason="battery 12 %"))))


def test_text_from_devices_is_not_read_as_markup():
    text = drawn(devices_table(view(telemetry(state="paused", reason="[bold red]hot[/bold red] [link=x]"))))
    assert "[bold red]" in text


def test_markup_in_what_is_said_is_shown_as_it_is():
    console = Console(file=io.StringIO(), width=100)
    Screen(console).say("broker [/] at [x]")
    assert console.file.getvalue() == "broker [/] at [x]\n"


def test_without_a_terminal_lines_come_now_and_then_not_at_every_look():
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    with Screen(console) as screen:
        for _ in range(50):
            screen.show(view(telemetry()), [])
    assert console.file.getvalue().count("device-1:training") == 1


@pytest.mark.parametrize("curve", [[], [{"version": 0}, {"version": 1}, {"version": 2}]])
def test_on_a_terminal_the_fleet_is_drawn_live(curve):
    console = Console(file=io.StringIO(), width=120, height=40, force_terminal=True)
    with Screen(console) as screen:
        screen.show(view(telemetry()), curve)
    assert "device-1" in console.file.getvalue()


def test_before_the_coordinator_answers_a_terminal_is_drawn_too():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Screen(console) as screen:
        screen.show(to_json(Fleet(), 0.0), [])
    assert "edgetide" in console.file.getvalue()


def report(**changes):
    return {
        "accuracy": 0.8123,
        "rounds": 8,
        "wall_s": 63.4,
        "updates_applied": 31,
        "updates_expired": 1,
        "updates_refused": 0,
        "macs": 5 * 10**9,
        "bytes_sent": 12_300_000,
        "broker": "mosquitto [2.0.11]",
        "engine": "torch",
        "vector_shares": {"8-16": 0.75, "4-8": 0.25},
        "devices": [
            {
                "id": "device-1",
                "engine": "ort-training",
                "updates": 8,
                "batches": 100,
                "macs": 5 * 10**9,
                "vectors": {"8-16": 75},
            }
        ],
        **changes,
    }


def printed(told):
    console = Console(file=io.StringIO(), width=120)
    print_report(told, console)
    return console.file.getvalue()


def test_a_report_is_printed_for_people():
    text = printed(report())
    for told in (
        "81.2 %",
        "31 / 1 / 0",
        "63 s",
        "12.3 MB",
        "5.0 G",
        "mosquitto [2.0.11]",
        "75.0 %",
        "device-1",
        "ort-training",
    ):
        assert told in text


def test_a_report_of_nothing_is_printed_too():
    empty = report(accuracy=None, devices=[], vector_shares={}, macs=0)
    assert "accuracy on held-out data" in printed(empty)


def test_the_head_of_a_run_on_streams_is_drawn_on_a_terminal():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    with Screen(console) as screen:
        screen.show(to_json(stream_fleet(), 400.0), [])
    assert "window 3/4 · accuracy 90.0 %" in console.file.getvalue()
