"""Seconds of a mini-batch by vector: a prediction, corrected by the steps really made."""

from __future__ import annotations

from typing import NamedTuple

from models.subnet import DropoutVector
from models.table import ParetoTable, TableEntry

DEFAULT_SECONDS_PER_MAC = 5e-10
"""Where nobody measured anything: 2 GMAC/s on one core, a small ARM board's order of magnitude."""

PROBES = 2

_DEFAULT_FIXED_SECONDS = 1e-3
_MEMORY = 0.95  # share of an observation's weight that is left at the next one
_PRIOR_WEIGHT = 0.5  # of each of the two points that hold the table's shape
_SETTLED_WEIGHT = 4.0  # observations after which a surprise is limited
_LARGEST_SURPRISE = 2.0


class _Line(NamedTuple):
    """core_seconds = fixed + per_mac * macs."""

    fixed: float
    per_mac: float

    def at(self, macs: float) -> float:
        return self.fixed + self.per_mac * macs


class _Sums:
    """Weighted sums of a least-squares line; each point counts by its relative error."""

    def __init__(self) -> None:
        self.w = self.x = self.y = self.xx = self.xy = 0.0

    def add(self, x: float, y: float, weight: float) -> None:
        self.w += weight
        self.x += weight * x
        self.y += weight * y
        self.xx += weight * x * x
        self.xy += weight * x * y

    def fade(self, share: float) -> None:
        for name in ("w", "x", "y", "xx", "xy"):
            setattr(self, name, share * getattr(self, name))

    def plus(self, other: _Sums) -> _Sums:
        total = _Sums()
        for name in ("w", "x", "y", "xx", "xy"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def line(self) -> _Line:
        """The best line with neither a negative fixed part nor a negative slope."""
        spread = self.w * self.xx - self.x * self.x
        if spread > 1e-9 * self.w * self.xx:
            per_mac = (self.w * self.xy - self.x * self.y) / spread
            fixed = (self.y - per_mac * self.x) / self.w
            if fixed >= 0.0 and per_mac >= 0.0:
                return _Line(fixed, per_mac)
            if per_mac < 0.0:
                return _Line(self.y / self.w, 0.0)
        return _Line(0.0, self.xy / self.xx)


class StepTimes:
    """Predicts the core seconds of a mini-batch from its MACs and its vector.

    It fits core_seconds = fixed + per_mac * macs, both 0 or more, to the steps made lately (weight
    0.95 to the power of their age in steps, errors relative). The table's own seconds, or a default
    where it has none, give the line's shape where nothing was observed yet: they are scaled by the
    ratio seen. One step that is far off, because the board was busy, counts as twice (or half) the
    prediction at most; a lasting change is followed within some tens of steps.

    Vectors of equal MACs don't take equal time. Where the table is calibrated (`edgetide agent bench`),
    each vector keeps its own distance from the line through the table's seconds, as a factor: before any
    step exactly the table's seconds are predicted, and later the line moves below them.

    A prediction far too high would never be corrected, since nothing would be trained. So the first
    PROBES mini-batches after `begin` may take the cheapest vector whatever is predicted of it.

    Args:
        table: whose entries will be predicted; all MACs are of one sample, as there.
        speed: seconds of one core per training MAC, and besides per mini-batch, where this board's are known:
            then they are the line to begin with.
    """

    def __init__(self, table: ParetoTable, speed: tuple[float, float] | None = None) -> None:
        self._speed = speed
        self._seen = _Sums()
        self._num_seen = 0.0
        self._ratio_sum = 0.0
        self._probes_left = 0
        self._start_from(table)

    def begin(self) -> None:
        """An order begins: what the board can do may have changed since the last one."""
        self._probes_left = PROBES

    def take(self, table: ParetoTable) -> None:
        """Another table is in force: what was learned stays; each vector's own factor is the new one's."""
        if not self._num_seen:
            self._start_from(table)
        else:
            self._factors |= _factors(table, _prior(table))

    def observe(self, macs: int, core_seconds: float, vector: DropoutVector | None = None) -> None:
        """Learn from one mini-batch.

        Args:
            macs: training MACs of one sample with the vector used (`TableEntry.macs`).
            core_seconds: seconds of one core that the mini-batch took, above 0; others are ignored.
            vector: that was used, if it is known.
        """
        if not 0.0 < core_seconds < float("inf") or macs <= 0:
            return
        if vector is not None:
            core_seconds /= self._factors.get(vector, 1.0)
        if self._num_seen >= _SETTLED_WEIGHT:
            expected = self._line.at(macs)
            core_seconds = min(max(core_seconds, expected / _LARGEST_SURPRISE), expected * _LARGEST_SURPRISE)
        self._probes_left = max(0, self._probes_left - 1)
        prior_seconds = self._prior.at(macs)
        self._seen.fade(_MEMORY)
        self._num_seen = _MEMORY * self._num_seen + 1.0
        self._ratio_sum = _MEMORY * self._ratio_sum + core_seconds / prior_seconds
        self._seen.add(macs, core_seconds, 1.0 / prior_seconds**2)
        ratio = self._ratio_sum / self._num_seen
        shape = _Sums()
        for end in self._ends:
            shape.add(end, ratio * self._prior.at(end), _PRIOR_WEIGHT / self._prior.at(end) ** 2)
        self._line = self._seen.plus(shape).line()

    def predict(self, entry: TableEntry) -> float:
        """Seconds of one core for one mini-batch with this entry's vector; 0 for a probe's."""
        if self._probes_left and entry.vector == self._cheapest:
            return 0.0
        return self._line.at(entry.macs) * self._factors.get(entry.vector, 1.0)

    def _start_from(self, table: ParetoTable) -> None:
        self._cheapest = table.entries[0].vector
        self._ends = (float(table.entries[0].macs), float(table.entries[-1].macs))
        self._prior = _prior(table)
        self._factors = _factors(table, self._prior)
        if self._speed is not None:
            per_mac, fixed = self._speed
            self._prior = _Line(fixed, per_mac * table.batch_size)
        self._line = self._prior


def _prior(table: ParetoTable) -> _Line:
    measured = _Sums()
    for entry in table.entries:
        if entry.core_seconds is not None:
            measured.add(entry.macs, entry.core_seconds, 1.0 / entry.core_seconds**2)
    if measured.w:
        return measured.line()
    return _Line(_DEFAULT_FIXED_SECONDS, DEFAULT_SECONDS_PER_MAC * table.batch_size)


def _factors(table: ParetoTable, line: _Line) -> dict[DropoutVector, float]:
    """How far each measured vector is from the line, as a factor on it."""
    return {
        entry.vector: entry.core_seconds / line.at(entry.macs)
        for entry in table.entries
        if entry.core_seconds is not None
    }
