"""What is seen of learning from neighbours: a pure fold over the reports of devices.

Whatever devices report, the state stays bounded: in windows, links, devices and numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from device_agent.wire.messages import Exchanges, PeerReport

MAX_WINDOWS = 2000
"""The oldest go."""
MAX_LINKS = 50_000
"""Pairs counted; what is said of further ones is left out, and `links_left_out` counts them."""
MAX_SHOWN_LINKS = 2500
"""In one view, so that the page of a large fleet stays light: those with the most exchanges."""

Link = tuple[str, str]


@dataclass(frozen=True)
class Window:
    """What the reports of one window say together.

    Attributes:
        number: of the window, from 1. at_s: when it was closed.
        num_devices: that reported in time.
        distance: consensus distance, None where fewer than two devices said where they are.
    """

    number: int
    at_s: float
    num_devices: int
    distance: float | None


@dataclass(frozen=True)
class PeerView:
    """All that is known of the exchanges of a run.

    Attributes:
        windows: oldest first.
        staleness: gradients applied, by the barriers since each was begun; the last entry counts all later.
        discarded: gradients given up.
        links: (who began, with whom) -> what became of the exchanges. links_left_out: see MAX_LINKS.
        bytes_sent: to neighbours, by device.
        barriers: that each device had passed at its last report.
    """

    windows: tuple[Window, ...] = ()
    staleness: tuple[int, ...] = ()
    discarded: int = 0
    links: Mapping[Link, Exchanges] = field(default_factory=dict)
    links_left_out: int = 0
    bytes_sent: Mapping[str, int] = field(default_factory=dict)
    barriers: Mapping[str, int] = field(default_factory=dict)


def fold_window(
    view: PeerView | None, number: int, at_s: float, reports: Sequence[tuple[str, PeerReport]]
) -> PeerView:
    """The view after a window was closed.

    Args:
        view: before it; None: nothing yet.
        number: of the window.
        at_s: now.
        reports: (device, what it said) of those whose weights are in the window's mean.
    """
    counted = view or PeerView()
    for device, report in reports:
        counted = fold_report(counted, device, report)
    distance = consensus_distance([report.sketch for _, report in reports])
    window = Window(number, at_s, len(reports), distance)
    return replace(counted, windows=(*counted.windows, window)[-MAX_WINDOWS:])


class Told(NamedTuple):
    """What a device told of its exchanges with one of its updates.

    Attributes:
        device, window: who, of which window. report: what.
        in_time: whether its weights are in the window's mean.
    """

    device: str
    window: int
    report: PeerReport
    in_time: bool


def fold_run(told: Iterable[Told], closed_s: Mapping[int, float]) -> PeerView:
    """The view of a whole run.

    Args:
        told: by all devices in all windows.
        closed_s: when each window was closed.
    """
    view, in_time = PeerView(), dict[int, list[tuple[str, PeerReport]]]()
    for one in told:
        if one.in_time:
            in_time.setdefault(one.window, []).append((one.device, one.report))
        else:
            view = fold_report(view, one.device, one.report)
    for number, reports in sorted(in_time.items()):
        view = fold_window(view, number, closed_s.get(number, 0.0), reports)
    return view


def fold_report(view: PeerView | None, device: str, report: PeerReport) -> PeerView:
    """The view after a device told what it did, in time for its window's mean or not."""
    before = view or PeerView()
    links, left_out = dict(before.links), before.links_left_out
    for other, exchanges in report.exchanges.items():
        link = (device, other)
        if link in links or len(links) < MAX_LINKS:
            links[link] = _sum(links.get(link, Exchanges()), exchanges)
        else:
            left_out += 1
    return PeerView(
        windows=before.windows,
        staleness=tuple(
            one + other for one, other in zip_longest(before.staleness, report.staleness, fillvalue=0)
        ),
        discarded=before.discarded + report.discarded,
        links=links,
        links_left_out=left_out,
        bytes_sent={**before.bytes_sent, device: before.bytes_sent.get(device, 0) + report.bytes_sent},
        barriers={**before.barriers, device: report.step},
    )


def consensus_distance(sketches: Iterable[Sequence[float]]) -> float | None:
    """Root mean square distance of the nodes' weights to their mean, estimated from sketches.

    A sketch is P w with a random P of k rows, the same for all nodes: each weight is added to one of k
    numbers with a random sign (`device_agent.peers.sketch`). So |P x|^2 has the mean |x|^2 and a standard
    deviation of at most sqrt(2 / k) |x|^2. With k = 32 the squared distance of one node is known to a
    quarter, and the result to an eighth where all nodes deviate in the same direction, better where they
    deviate in many. The same P in every window makes the errors of one run's windows alike, so that its
    course is known better than its level.

    Args:
        sketches: [k] of each node. One that is empty, holds a value that is not finite, or is of another
            length than most is left out.

    Returns:
        sqrt of the mean over nodes of |P w - mean of P w|^2, in units of weights; None with fewer than two.

    References:
        Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", ICALP 2002.
    """
    sound = [sketch for sketch in sketches if len(sketch) and all(map(math.isfinite, sketch))]
    if not sound:
        return None
    length = Counter(map(len, sound)).most_common(1)[0][0]
    points = np.array([sketch for sketch in sound if len(sketch) == length], np.float64)
    if len(points) < 2:
        return None
    with np.errstate(over="ignore"):  # a liar's sketch makes it infinite, and that is shown as None
        distance = float(np.sqrt(np.mean(np.sum((points - points.mean(axis=0)) ** 2, axis=1))))
    return distance if math.isfinite(distance) else None


def to_json(view: PeerView, now_s: float | None = None) -> dict[str, Any]:
    """The view as JSON-ready data.

    Args:
        view: what to show.
        now_s: shows windows by their age, on the clock of `at_s`; None: by their time.

    Returns:
        `consensus_distance`: one point a window; `staleness`, `discarded`; `devices`, `barriers` and
        `bytes_sent`, which belong together; `links`: [index of who began, of the other, begun, completed,
        taken back, one-sided]; `num_links`: how many there are, shown or not.
    """
    devices = sorted({*view.barriers, *(device for link in view.links for device in link)})
    index = {device: number for number, device in enumerate(devices)}
    shown = sorted(view.links.items(), key=lambda item: (-item[1].begun, item[0]))[:MAX_SHOWN_LINKS]
    return {
        "consensus_distance": [
            {
                "window": window.number,
                **(
                    {"at_s": round(window.at_s, 3)}
                    if now_s is None
                    else {"ago_s": round(now_s - window.at_s, 1)}
                ),
                "devices": window.num_devices,
                "distance": window.distance,
            }
            for window in view.windows
        ],
        "staleness": list(view.staleness),
        "discarded": view.discarded,
        "devices": devices,
        "barriers": [view.barriers.get(device, 0) for device in devices],
        "bytes_sent": [view.bytes_sent.get(device, 0) for device in devices],
        "links": [
            [index[one], index[other], links.begun, links.completed, links.taken_back, links.one_sided]
            for (one, other), links in sorted(shown)
        ],
        "num_links": len(view.links) + view.links_left_out,
    }


def _sum(one: Exchanges, other: Exchanges) -> Exchanges:
    return Exchanges(
        begun=one.begun + other.begun,
        completed=one.completed + other.completed,
        taken_back=one.taken_back + other.taken_back,
        one_sided=one.one_sided + other.one_sided,
    )
