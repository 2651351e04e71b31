"""The Pareto front of what was measured, and the table that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from models.subnet import DropoutVector
from models.table import TableEntry

MIN_GAIN_SHARE = 0.1
"""Of what training everything gains; less is taken for not training."""


class Measurement(NamedTuple):
    """What training with one dropout vector costs and brings.

    Attributes:
        vector: kept channels of each width group.
        macs: training MACs of one sample.
        gain: held-out accuracy after the short training less before it, at full width, a fraction.
    """

    vector: DropoutVector
    macs: int
    gain: float


def pareto_front(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Keep what no other measurement beats: by rising MACs the gain rises strictly.

    Of equal cost and gain the first vector in order stays.
    """
    best: list[Measurement] = []
    for measured in sorted(measurements, key=lambda one: (one.macs, -one.gain, one.vector)):
        if not best or measured.gain > best[-1].gain:
            best.append(measured)
    return tuple(best)


def pareto_layers(measurements: Iterable[Measurement], num_layers: int) -> tuple[Measurement, ...]:
    """The front, then the front of what is left, and so on; by rising MACs."""
    left = list(measurements)
    kept: list[Measurement] = []
    for _ in range(num_layers):
        front = pareto_front(left)
        kept.extend(front)
        left = [one for one in left if one not in front]
    return tuple(sorted(kept, key=lambda one: one.macs))


def table_entries(
    measurements: Iterable[Measurement], full: Measurement, memory_bytes: Callable[[DropoutVector], int]
) -> tuple[TableEntry, ...]:
    """Make the entries of a table, by rising MACs and progress, the full vector last.

    A vector that does no measurable good is left out: random sub-networks that are too small make the
    full network worse or leave it as it was, yet would stand on the front because they are cheap. The
    full vector is always in; where a cheaper one measured better, that is noise of a short training, and the
    full one's progress is put just above it.

    Args:
        measurements: what was measured, the full vector among them or not.
        full: the measurement of the vector that drops nothing.
        memory_bytes: memory of training one mini-batch with a vector.
    """
    least = max(0.0, MIN_GAIN_SHARE * full.gain)
    front = pareto_front(one for one in measurements if one.gain > least and one.macs < full.macs)
    top = max([full.gain, *(one.gain + 1e-6 for one in front)])
    return tuple(
        TableEntry(
            vector=one.vector,
            macs=one.macs,
            progress=round(one.gain, 6),
            memory_bytes=memory_bytes(one.vector),
        )
        for one in (*front, full._replace(gain=top))
    )
