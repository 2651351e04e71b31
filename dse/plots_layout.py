"""Where things go on the plots of a table, in the units of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dse.plot_data import DevicePoint, EntryPoint, PlotData

MAX_LABELS = 30
"""Entries that are numbered on a plot, at most."""

MAX_TEXT_CELLS = 24
"""Rows and columns of a heat map whose cells still have room for a number."""


class FrontFrame(NamedTuple):
    """The vertical axis of the Pareto front.

    Attributes:
        factor: times progress is what is drawn: 100, for percentage points, beside a study's trials.
        bottom: end of the axis; what harms much is not worth the room.
        top: its other end.
        knee: where the lines from the entries to their numbers bend.
        rail: where the numbers stand.
    """

    factor: float
    bottom: float
    top: float
    knee: float
    rail: float


def front_frame(data: PlotData) -> FrontFrame:
    """Leave room for the entries' numbers above all points."""
    factor = 1.0 if data.trials is None else 100.0
    progress = [factor * entry.progress for entry in data.entries]
    gains = [factor * point.trial.gain for point in data.trials or ()]
    high = max(progress + gains)
    low = max(min(progress + gains), min([-0.25 * high, *progress])) if high > 0 else min(progress + gains)
    room = (high - low) or 1.0
    return FrontFrame(factor, low - 0.06 * room, high + 0.2 * room, high + 0.07 * room, high + 0.15 * room)


class Label(NamedTuple):
    """The number of an entry.

    Attributes:
        row: index of the entry.
        text: its number.
        place: of the entry on the axis of MACs, 0..100 %.
        label_place: of the number on the same axis.
    """

    row: int
    text: str
    place: float
    label_place: float


def entry_labels(entries: Sequence[EntryPoint], gap: float) -> list[Label]:
    """Numbers of the entries, at least `gap` apart (in % of the MACs) and near their entries."""
    step = every(len(entries), MAX_LABELS)
    shown = [index for index in range(len(entries)) if index % step == 0 or index == len(entries) - 1]
    places = [100 * entries[index].macs_fraction for index in shown]
    return [
        Label(index, str(entries[index].number), place, label_place)
        for index, place, label_place in zip(shown, places, spread(places, gap, 1.0, 102.0), strict=True)
    ]


def device_counts(
    entries: Sequence[EntryPoint], devices: Sequence[DevicePoint]
) -> tuple[list[int], dict[str, int]]:
    """Online devices by entry, and those that train with none of them, by why; only what there is."""
    counts = [sum(one.entry == entry.number and one.now != 0 for one in devices) for entry in entries]
    others = {
        "paused": sum(one.now == 0 for one in devices),
        "other vector": sum(one.entry is None and bool(one.now) for one in devices),
        "not known": sum(one.entry is None and one.now is None for one in devices),
    }
    return counts, {why: count for why, count in others.items() if count}


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels along a line apart, as little as possible, in their order.

    Args:
        places: where the labels belong, rising.
        gap: least distance between two labels; less where they do not fit into the line otherwise.
        low: begin of the line.
        high: end of the line.

    Returns:
        Where they go, rising, all within the line.
    """
    if len(places) < 2:
        return [min(max(place, low), high) for place in places]
    gap = min(gap, (high - low) / (len(places) - 1))
    # Labels that touch move as one block, whose middle is that of the places of its labels.
    blocks: list[tuple[float, int]] = []  # (sum of the starts its labels ask for, number of labels)
    for index, place in enumerate(places):
        total, count = place - gap * index, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            before, members = blocks.pop()
            total, count = total + before, count + members
        blocks.append((total, count))
    starts = [total / count for total, count in blocks for _ in range(count)]
    limit = high - gap * (len(places) - 1)
    return [min(max(start, low), limit) + gap * index for index, start in enumerate(starts)]


def every(count: int, most: int) -> int:
    """Step between labels so that at most `most` of `count` are written."""
    return max(1, -(-count // most))
