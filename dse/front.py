"""The Pareto front of what was measured, and the table that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dse.costs import VectorCost
from dse.settings import Objective
from models.subnet import DropoutVector
from models.table import TableEntry

MIN_GAIN_SHARE = 0.1
"""Of what training everything gains; less is taken for not training."""

DEFAULT_OBJECTIVES: tuple[Objective, ...] = ("cost", "progress")


class Measurement(NamedTuple):
    """What training with one dropout vector costs and brings.

    Attributes:
        vector: kept channels of each width group.
        macs: training MACs of one sample.
        memory_bytes: of training one mini-batch.
        cost: in the unit that is searched with: MACs of one sample, or seconds or joules of a mini-batch.
        stage_gains: for each stage the held-out accuracy after the short training less before it, at full
            width, a fraction.
    """

    vector: DropoutVector
    macs: int
    memory_bytes: int
    cost: float
    stage_gains: tuple[float, ...]

    @property
    def gain(self) -> float:
        """The mean gain over the stages."""
        return sum(self.stage_gains) / len(self.stage_gains)


def as_point(measured: Measurement, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The objectives as numbers of which less is better."""
    values: dict[Objective, float] = {
        "cost": measured.cost,
        "memory": float(measured.memory_bytes),
        "progress": -measured.gain,
    }
    return tuple(values[name] for name in objectives)


def to_reference(full: VectorCost, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The worst corner of `as_point`: what the full vector takes, and no gain."""
    values: dict[Objective, float] = {
        "cost": full.cost,
        "memory": float(full.memory_bytes),
        "progress": 0.0,
    }
    return tuple(values[name] for name in objectives)


def pareto_front(
    measurements: Iterable[Measurement], objectives: Sequence[Objective] = DEFAULT_OBJECTIVES
) -> tuple[Measurement, ...]:
    """Keep what no other measurement beats, by rising MACs.

    Of those equal in all objectives the first vector in order stays.
    """
    points = {one: as_point(one, objectives) for one in sorted(measurements)}
    best: list[Measurement] = []
    # By rising objectives: what beats a measurement comes before it.
    for one in sorted(points, key=points.__getitem__):
        if not any(_no_worse(points[other], points[one]) for other in best):
            best.append(one)
    return tuple(sorted(best, key=lambda one: (one.macs, one.vector)))


def pareto_layers(
    measurements: Iterable[Measurement],
    num_layers: int,
    objectives: Sequence[Objective] = DEFAULT_OBJECTIVES,
) -> tuple[Measurement, ...]:
    """The front, then the front of what is left, and so on; by rising MACs."""
    left = list(measurements)
    kept: list[Measurement] = []
    for _ in range(num_layers):
        front = pareto_front(left, objectives)
        kept.extend(front)
        left = [one for one in left if one not in front]
    return tuple(sorted(kept, key=lambda one: (one.macs, one.vector)))


def does_good(measured: Measurement, full: Measurement) -> bool:
    """Whether training with it is measurably better than not training, at every stage.

    A vector may help a young network and harm a trained one, or the other way round; a device trains with
    it at any stage. A stage at which the full network itself gained nothing tells nothing.
    """
    return measured.gain > 0 and all(
        gain > MIN_GAIN_SHARE * of_full
        for gain, of_full in zip(measured.stage_gains, full.stage_gains, strict=True)
        if of_full > 0
    )


def table_entries(
    measurements: Iterable[Measurement],
    full: Measurement,
    objectives: Sequence[Objective] = DEFAULT_OBJECTIVES,
    core_seconds: Callable[[Measurement], float | None] = lambda _measured: None,
) -> tuple[TableEntry, ...]:
    """Make the entries of a table, by rising MACs, the full vector last.

    A vector that does no measurable good is left out: random sub-networks that are too small make the
    full network worse or leave it as it was, yet would stand on the front because they are cheap. The
    full vector is always in; where a cheaper one measured better, that is noise of a short training, and the
    full one's progress is put just above it.

    Args:
        measurements: what was measured, the full vector among them or not.
        full: the measurement of the vector that drops nothing.
        objectives: what the front trades off. With memory among them an entry may stand here that takes
            less memory than a better one of the same cost: `models.table.select` takes it where memory is
            short.
        core_seconds: of one mini-batch on one core, as far as somebody measured it.
    """
    good = [one for one in measurements if one.macs < full.macs and does_good(one, full)]
    front = pareto_front(good, objectives)
    top = max([full.gain, *(one.gain + 1e-6 for one in front)])
    return tuple(
        TableEntry(
            vector=one.vector,
            macs=one.macs,
            progress=round(top if one is full else one.gain, 6),
            memory_bytes=one.memory_bytes,
            core_seconds=core_seconds(one),
        )
        for one in (*front, full)
    )


def _no_worse(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
