"""The fleet as it is seen now: a pure fold over what devices and the coordinator say.

Whatever a sender does, the state stays bounded: in devices, in points a device, in events, in the
length of texts. Time is a monotonic clock's and only ever shown as an age.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.effects import Settled
from coordinator.peer_view import PeerView, fold_report, fold_window
from coordinator.peer_view import to_json as peers_json
from coordinator.stream_view import StreamView
from coordinator.stream_view import fold_report as fold_stream
from coordinator.stream_view import fold_window as fold_streams
from coordinator.stream_view import to_json as streams_json
from device_agent.effects import Note
from device_agent.wire.messages import Hello, Run, Status, Telemetry
from models.widths import WidthGroup

Message = Status | Hello | Telemetry | Run | Note

MAX_DEVICES = 4096
"""More would make the fold slow; beyond, the fleet is sharded over coordinators."""
MAX_POINTS = 150
"""Points of a device's series: five minutes at a telemetry every two seconds."""
MAX_SHOWN_POINTS = 40_000
"""Points of all devices together in one view, so that the page of a large fleet stays light."""
MAX_EVENTS = 200
MAX_TEXT = 500
MAX_DETAILS = 16
SILENT_AFTER_S = 20.0
"""An online device that says nothing for so long is shown as silent."""

UPDATE_APPLIED = "update applied"
"""A note of this event, about a device, counts as one of its updates in the model."""


@dataclass(frozen=True)
class DeviceView:
    """What is known of one device.

    Attributes:
        last_seen_s: when it last said something itself.
        macs_series: (when, share of the full network's MACs trained, 0..1), oldest first; 0 while paused.
        num_updates: its updates in the model.
    """

    last_seen_s: float
    status: Status | None = None
    hello: Hello | None = None
    telemetry: Telemetry | None = None
    macs_series: tuple[tuple[float, float], ...] = ()
    num_updates: int = 0

    @property
    def boot_epoch(self) -> int:
        """The newest start of the agent that was heard of."""
        return max(
            (m.boot_epoch for m in (self.status, self.hello, self.telemetry) if m is not None), default=0
        )


@dataclass(frozen=True)
class Event:
    """A line of the page's history."""

    at_s: float
    event: str
    device: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Fleet:
    """All that is shown.

    Attributes:
        groups: width groups of the model, which vectors are counted in.
        run: what the fleet is doing, or None before the first run.
        devices: by id.
        events: oldest first.
        staleness: versions late -> updates applied that were, since the coordinator started.
        peers: of a method whose devices learn from each other.
        streams: of a method whose devices learn from streams.
        num_ignored: messages that contradicted themselves, or came from one device too many.
    """

    groups: tuple[WidthGroup, ...] = ()
    run: Run | None = None
    devices: Mapping[str, DeviceView] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    staleness: Mapping[int, int] = field(default_factory=dict)
    peers: PeerView | None = None
    streams: StreamView | None = None
    num_ignored: int = 0


def fold(fleet: Fleet, now_s: float, device: str, message: Message) -> Fleet:
    """The fleet after one message.

    Args:
        fleet: the fleet before.
        now_s: seconds of a monotonic clock.
        device: who said it, from the topic; not looked at for runs and notes.
        message: already checked by the codec.
    """
    if isinstance(message, Run):
        return replace(fleet, run=message)
    if isinstance(message, Note):
        return _fold_note(fleet, now_s, message)
    view = fleet.devices.get(device)
    if getattr(message, "device", device) != device or (view and message.boot_epoch < view.boot_epoch):
        return replace(fleet, num_ignored=fleet.num_ignored + 1)
    devices = dict(fleet.devices)
    if view is None and not _make_room(devices):
        return replace(fleet, num_ignored=fleet.num_ignored + 1)
    if view is None or message.boot_epoch > view.boot_epoch:
        # A new start: what the last one said is no longer so; its history stays.
        view = DeviceView(now_s) if view is None else replace(view, status=None, telemetry=None)
    devices[device] = _fold_device(replace(view, last_seen_s=now_s), now_s, message)
    return replace(fleet, devices=devices)


def fold_settled(fleet: Fleet, now_s: float, window: int, settled: Sequence[Settled]) -> Fleet:
    """The fleet after updates were settled: how late they were, what they tell of exchanges and streams.

    Args:
        fleet: the fleet before.
        now_s: seconds of the same clock as in `fold`.
        window: that those applied belong to.
        settled: once for each update.
    """
    in_time = [(one.device, one.peers) for one in settled if one.peers and one.outcome == "applied"]
    peers = fleet.peers
    for one in settled:
        if one.peers is not None and one.outcome != "applied":
            peers = fold_report(peers, one.device, one.peers)
    counts = Counter(fleet.staleness)
    counts.update(one.staleness for one in settled if one.staleness is not None)
    fleet = replace(fleet, staleness=dict(counts), streams=_streams(fleet.streams, now_s, window, settled))
    return replace(fleet, peers=fold_window(peers, window, now_s, in_time) if in_time else peers)


def _streams(
    view: StreamView | None, now_s: float, window: int, settled: Sequence[Settled]
) -> StreamView | None:
    in_time = [(one.device, one.stream) for one in settled if one.stream and one.outcome == "applied"]
    for one in settled:
        if one.stream is not None and one.outcome == "expired":
            view = fold_stream(view, one.device, one.stream)
    return fold_streams(view, window, now_s, in_time) if in_time else view


def to_json(fleet: Fleet, now_s: float, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fleet as JSON-ready data: ages in seconds, absent values None, no NaN.

    Args:
        fleet: what to show.
        now_s: seconds of the same clock as in `fold`.
        about: what else the page's header says, such as broker and engine.
    """
    num_points = min(MAX_POINTS, MAX_SHOWN_POINTS // max(1, len(fleet.devices)))
    return {
        "about": dict(about or {}),
        "run": None if fleet.run is None else _fields(fleet.run),
        "groups": [{"name": group.name, "num_channels": group.num_channels} for group in fleet.groups],
        "devices": [
            _device_json(device, view, now_s, len(fleet.groups), num_points)
            for device, view in sorted(fleet.devices.items())
        ],
        "events": [
            {
                "ago_s": round(now_s - e.at_s, 1),
                "event": e.event,
                "device": e.device,
                "details": dict(e.details),
            }
            for e in reversed(fleet.events)
        ],
        "staleness": {str(late): fleet.staleness[late] for late in sorted(fleet.staleness)},
        "peers": None if fleet.peers is None else peers_json(fleet.peers, now_s),
        "streams": None if fleet.streams is None else streams_json(fleet.streams, now_s),
        "num_ignored": fleet.num_ignored,
    }


def _fold_note(fleet: Fleet, now_s: float, note: Note) -> Fleet:
    details = {str(key)[:MAX_TEXT]: _plain(value) for key, value in list(note.details.items())[:MAX_DETAILS]}
    line = Event(now_s, note.event[:MAX_TEXT], note.device[:MAX_TEXT], details)
    devices = fleet.devices
    if note.event == UPDATE_APPLIED and (view := devices.get(note.device)):
        devices = {**devices, note.device: replace(view, num_updates=view.num_updates + 1)}
    return replace(fleet, devices=devices, events=(*fleet.events, line)[-MAX_EVENTS:])


def _fold_device(view: DeviceView, now_s: float, message: Status | Hello | Telemetry) -> DeviceView:
    if isinstance(message, Status):
        return replace(view, status=message, telemetry=view.telemetry if message.online else None)
    if isinstance(message, Hello):
        return replace(view, hello=message)
    trained = 0.0 if message.state == "paused" else message.mean_macs_fraction
    series = view.macs_series if trained is None else (*view.macs_series, (now_s, trained))[-MAX_POINTS:]
    return replace(view, telemetry=message, macs_series=series)


def _make_room(devices: dict[str, DeviceView]) -> bool:
    """Whether one more device fits; the one that went offline first makes room."""
    if len(devices) < MAX_DEVICES:
        return True
    gone = [
        (view.last_seen_s, device)
        for device, view in devices.items()
        if view.status and not view.status.online
    ]
    if not gone:
        return False
    del devices[min(gone)[1]]
    return True


def _state(view: DeviceView, now_s: float) -> tuple[str, str]:
    """(state, reason) as a person would say it."""
    if view.status is not None and not view.status.online:
        lost = view.status.reason == "lost"
        return ("lost", "the connection broke") if lost else ("offline", view.status.reason)
    silent_s = now_s - view.last_seen_s
    if silent_s > SILENT_AFTER_S:
        return "silent", f"nothing heard for {silent_s:.0f} s"
    if view.telemetry is None:
        return "joining", ""
    return view.telemetry.state, view.telemetry.reason


def _device_json(
    device: str, view: DeviceView, now_s: float, num_groups: int, num_points: int
) -> dict[str, Any]:
    state, reason = _state(view, now_s)
    telemetry = _fields(view.telemetry) if view.telemetry else dict.fromkeys(Telemetry.__struct_fields__)
    vector = telemetry["vector"]
    hello = None if view.hello is None else _fields(view.hello)
    shown = (
        view.macs_series[len(view.macs_series) - num_points :]
        if num_points < MAX_POINTS
        else view.macs_series
    )
    return {
        **telemetry,
        "device": device,
        "boot_epoch": view.boot_epoch,
        "online": view.status is None or view.status.online,
        "state": state,
        "reason": reason,
        # A vector of another model says nothing beside this one's groups.
        "vector": vector if vector is not None and len(vector) == num_groups else None,
        "cpu_allowed_fraction": hello["cpu_share_fraction"] if hello else None,
        "num_updates": view.num_updates,
        "last_seen_ago_s": round(now_s - view.last_seen_s, 1),
        "macs_series": [[round(now_s - at_s, 1), round(value, 4)] for at_s, value in shown],
        "hello": hello,
    }


def _fields(message: Any) -> dict[str, Any]:
    return {name: _plain(getattr(message, name)) for name in message.__struct_fields__}


def _plain(value: Any) -> Any:
    """A value that JSON can carry: no NaN, no infinity, no endless text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bool, int)) or value is None:
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value)[:MAX_TEXT]
