"""What is seen of learning from streams: a pure fold over the reports of devices.

Every prediction was made before its label was known (prequential), so accuracy and F1 need no held-out data.
A report tells of all since the run began on its device: of a device's reports the one of most samples counts,
and a window is what came to it since the one before. So the order in which reports come changes nothing.
Whatever devices report, the state stays bounded: in windows, devices, pairs and drifts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_agent.gossip.tally import COUNTED
from device_agent.wire.stream_report import MAX_SAMPLES, DriftSeen, StreamReport
from models.prototypes.prequential import accuracy, f1_scores

MAX_WINDOWS = 2000
"""The oldest go."""
MAX_DEVICES = 4096
"""What is said of further ones is left out."""
MAX_DRIFTS = 20
"""Of a device, the latest."""
MAX_SHOWN_PAIRS = 2500
"""In one view, so that the page of a large fleet stays light."""

Counts = NDArray[np.int64]


class ToldOfStream(NamedTuple):
    """What a device told of its stream with one of its updates.

    Attributes:
        device, window: who, of which window. report: what.
        in_time: whether it is among its window's.
    """

    device: str
    window: int
    report: StreamReport
    in_time: bool


@dataclass(frozen=True)
class DeviceStream:
    """What a device told so far.

    Attributes:
        report: that of most samples. counts: of it: int64 [C, C], samples by true class, then predicted one.
        at_window: counts when its last window was closed. recent: what came with that window.
        drifts: the latest, by sample.
    """

    report: StreamReport
    counts: Counts
    at_window: Counts
    recent: Counts
    drifts: tuple[DriftSeen, ...] = ()


@dataclass(frozen=True)
class StreamWindow:
    """What the reports of one window say together.

    Attributes:
        number: of the window, from 1. at_s: when it was closed.
        num_devices: that reported. num_samples: whose labels came since their last window.
        accuracy, f1: of these, None without any.
    """

    number: int
    at_s: float
    num_devices: int
    num_samples: int
    accuracy: float | None
    f1: float | None


@dataclass(frozen=True)
class StreamView:
    """All that is known of the streams of a run.

    Attributes:
        windows: oldest first. devices: by id.
    """

    windows: tuple[StreamWindow, ...] = ()
    devices: Mapping[str, DeviceStream] = field(default_factory=dict)


def fold_report(view: StreamView | None, device: str, report: StreamReport) -> StreamView:
    """The view after a device reported, in time or not; what is no report of a stream changes nothing."""
    before = view or StreamView()
    counts, known = counts_of(report), before.devices.get(device)
    if counts is None or (known is None and len(before.devices) >= MAX_DEVICES):
        return before
    if known is not None and known.counts.shape != counts.shape:
        return before
    if known is None:
        nothing = np.zeros_like(counts)
        known = DeviceStream(report, counts, nothing, nothing)
    drifts = tuple(sorted({*known.drifts, *report.drifts}, key=lambda one: one.sample))[-MAX_DRIFTS:]
    known = replace(known, drifts=drifts)
    if _extent(report, counts) >= _extent(known.report, known.counts):
        known = replace(known, report=report, counts=counts)
    return replace(before, devices={**before.devices, device: known})


def fold_window(
    view: StreamView | None, number: int, at_s: float, reports: Sequence[tuple[str, StreamReport]]
) -> StreamView:
    """The view after a window was closed.

    Args:
        view: before it; None: nothing yet.
        number: of the window.
        at_s: now.
        reports: (device, what it said) that came in time.
    """
    folded = view or StreamView()
    for device, report in reports:
        folded = fold_report(folded, device, report)
    devices, new = dict(folded.devices), list[Counts]()
    told = {device for device, _ in reports} & devices.keys()
    for device in sorted(told):
        known = devices[device]
        gained = np.maximum(known.counts - known.at_window, 0)
        devices[device] = replace(known, at_window=known.counts, recent=gained)
        new.append(gained)
    counts = _sum(new)
    window = StreamWindow(
        number,
        at_s,
        len(told),
        0 if counts is None else int(counts.sum()),
        None if counts is None else accuracy(counts),
        None if counts is None else mean_f1(counts),
    )
    return replace(folded, devices=devices, windows=(*folded.windows, window)[-MAX_WINDOWS:])


def fold_run(told: Iterable[ToldOfStream], closed_s: Mapping[int, float]) -> StreamView:
    """The view of a whole run.

    Args:
        told: by all devices in all windows.
        closed_s: when each window was closed.
    """
    view, windows = StreamView(), dict[int, list[tuple[str, StreamReport]]]()
    late = []
    for one in told:
        if one.in_time:
            windows.setdefault(one.window, []).append((one.device, one.report))
        else:
            late.append(one)
    for number, reports in sorted(windows.items()):
        view = fold_window(view, number, closed_s.get(number, 0.0), reports)
    for one in late:
        view = fold_report(view, one.device, one.report)
    return view


def _extent(report: StreamReport, counts: Counts) -> tuple[int, int]:
    return int(counts.sum()), report.seen


def newest_window(view: StreamView | None) -> tuple[float | None, float]:
    """(accuracy, share of wrong predictions) of the newest window; (None, 0) where no label came in it."""
    found = view.windows[-1].accuracy if view is not None and view.windows else None
    return found, 0.0 if found is None else 1.0 - found


def counts_of(report: StreamReport) -> Counts | None:
    """int64 [C, C]; None where it is no square, or of more samples than there can be."""
    num_classes = math.isqrt(len(report.counts))
    if num_classes < 1 or num_classes**2 != len(report.counts) or sum(report.counts) > MAX_SAMPLES:
        return None
    return np.array(report.counts, np.int64).reshape(num_classes, num_classes)


def mean_f1(counts: Counts) -> float | None:
    """F1, the mean over the classes that are there or were predicted; None without samples."""
    occur = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    return float(f1_scores(counts)[occur].mean()) if occur.any() else None


def to_json(view: StreamView, now_s: float | None = None) -> dict[str, Any]:
    """The view as JSON-ready data.

    Args:
        view: what to show.
        now_s: shows windows by their age, on the clock of `at_s`; None: by their time.

    Returns:
        Of the whole run `accuracy`, `f1`, `f1_by_class`, `samples` and bytes for each of them; `windows`;
        `devices`, each with its own; `ages`: of the pairs that heard most: [device, neighbour, updates, mean
        age, mean peak, age by the formula], in seconds.
    """
    counts = _sum(stream.counts for stream in view.devices.values())
    num_samples = 0 if counts is None else int(counts.sum())
    devices = view.devices.values()
    pairs = [
        [device, other, age.updates, age.mean_s, age.peak_s, age.expected_s]
        for device, stream in sorted(view.devices.items())
        for other, age in sorted(stream.report.ages.items())
    ]
    shown = sorted(pairs, key=lambda pair: -int(pair[2] or 0))[:MAX_SHOWN_PAIRS]
    return {
        "accuracy": None if counts is None else _rounded(accuracy(counts)),
        "f1": None if counts is None else _rounded(mean_f1(counts)),
        "f1_by_class": [] if counts is None else [round(float(one), 4) for one in f1_scores(counts)],
        "samples": num_samples,
        "sent_bytes_per_sample": _per_sample(sum(one.report.bytes_sent for one in devices), num_samples),
        "received_bytes_per_sample": _per_sample(
            sum(one.report.bytes_received for one in devices), num_samples
        ),
        "windows": [
            {
                "window": one.number,
                **({"at_s": round(one.at_s, 3)} if now_s is None else {"ago_s": round(now_s - one.at_s, 1)}),
                "devices": one.num_devices,
                "samples": one.num_samples,
                "accuracy": _rounded(one.accuracy),
                "f1": _rounded(one.f1),
            }
            for one in view.windows
        ],
        "devices": [_device_json(device, stream) for device, stream in sorted(view.devices.items())],
        "ages": sorted(shown, key=lambda pair: (str(pair[0]), str(pair[1]))),
    }


def _sum(counts: Iterable[Counts]) -> Counts | None:
    found = list(counts)
    if not found:
        return None
    shape = Counter(one.shape for one in found).most_common(1)[0][0]
    return np.sum([one for one in found if one.shape == shape], axis=0)


def _device_json(device: str, stream: DeviceStream) -> dict[str, Any]:
    report = stream.report
    return {
        "device": device,
        "seen": report.seen,
        "is_over": report.is_over,
        "labelled": int(stream.counts.sum()),
        "accuracy": _rounded(accuracy(stream.counts)),
        "f1": _rounded(mean_f1(stream.counts)),
        "recent_accuracy": _rounded(accuracy(stream.recent)),
        **{name: getattr(report, name) for name in COUNTED},
        "drifts": [[drift.sample, drift.before, drift.after] for drift in stream.drifts],
    }


def _per_sample(num_bytes: int, num_samples: int) -> float | None:
    return round(num_bytes / num_samples, 2) if num_samples else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
