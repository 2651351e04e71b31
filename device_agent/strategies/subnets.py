"""The device half of every method that trains sub-networks: it follows the bundle's SubnetSettings.

References:
    Rapp et al., DISTREAL, AAAI 2022, arXiv 2112.08761: the look-up before every mini-batch. Stretching the
    remaining time over the remaining mini-batches, the floor and the ceilings are ours. The other methods'
    sources are named in `coordinator.strategies.presets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from device_agent.strategies.strategy import Choice, Choose, Chosen, DeviceStrategy, Moment, OrderStart
from firmware_profiles.resources import Pause
from models.draws import portable_fraction
from models.subnet_settings import SubnetSettings
from models.table import ParetoTable, TableEntry, select


def admissible(table: ParetoTable, settings: SubnetSettings, round_number: int) -> ParetoTable:
    """The entries between floor and ceiling; where there is none, the one nearest to them in MACs."""
    full_macs = table.entries[-1].macs
    floor = settings.floor_fraction * full_macs
    ceiling = settings.ceiling_fraction(round_number) * full_macs
    entries = tuple(entry for entry in table.entries if floor <= entry.macs <= ceiling)
    if len(entries) == len(table.entries):
        return table
    if not entries:
        entries = (
            min(table.entries, key=lambda entry: max(floor - entry.macs, 0) + max(entry.macs - ceiling, 0)),
        )
    return msgspec.structs.replace(table, entries=entries)


@dataclass
class _Follower:
    """The choice of one order; remembers its level where that holds for the whole order."""

    start: OrderStart
    level: TableEntry | None = None
    _admitted: dict[int, tuple[ParetoTable, ParetoTable]] = field(default_factory=dict)

    def __call__(self, moment: Moment) -> Choice:
        settings = self.start.settings
        if moment.budget.time_left_s <= 0.0:
            return Pause("the time for this order is over")
        table = self._admissible(moment)
        chosen = _CHOICES[settings.choice](self, table, moment)
        if isinstance(chosen, Pause):
            return chosen
        cheapest = _in_memory(table, moment)[:1]
        if cheapest and cheapest[0].macs < chosen.entry.macs and self._is_sandwich(moment.step):
            is_in_time = _samples_in_time(cheapest[0], moment) == moment.num_samples
            chosen = Chosen(cheapest[0], chosen.largest) if is_in_time else chosen
        return _hindrance(chosen, moment, is_first=self.is_first(moment)) or chosen

    def is_first(self, moment: Moment) -> bool:
        """Whether nobody knows yet how long a mini-batch takes here: then one is tried."""
        return self.start.is_first and moment.step == 0

    def _is_sandwich(self, step: int) -> bool:
        share = self.start.settings.sandwich_fraction
        return share > 0 and portable_fraction("sandwich", self.start.seed, step) < share

    def _admissible(self, moment: Moment) -> ParetoTable:
        table = moment.table
        known = self._admitted.get(id(table))
        if known is None or known[0] is not table:
            known = table, admissible(table, self.start.settings, self.start.round_number)
            self._admitted = {id(table): known}
        if _in_memory(known[1], moment) or not (fitting := _in_memory(table, moment)):
            return known[1]
        # The floor saves time up, but no memory: the largest vector that fits is better than none.
        ceiling = known[1].entries[-1].macs
        largest = max(fitting, key=lambda entry: (entry.macs <= ceiling, entry.macs))
        return msgspec.structs.replace(table, entries=(largest,))


def _live(follower: _Follower, table: ParetoTable, moment: Moment) -> Choice:
    """The best one for the budget of this moment."""
    found = select(table, moment.budget, moment.num_cores, moment.core_seconds)
    if isinstance(found, Pause) and follower.is_first(moment):
        found = next(iter(_in_memory(table, moment)), found)
    return found if isinstance(found, Pause) else Chosen(found, found)


def _widest(follower: _Follower, table: ParetoTable, moment: Moment) -> Choice:
    """The largest one that would be done before the deadline, in part if need be."""
    fitting = _in_memory(table, moment)
    if not fitting:
        return _live(follower, table, moment)
    settings, size = follower.start.settings, moment.num_samples
    may_cut = settings.cut_batch and not settings.self_distillation
    least = min(settings.cut_batch, size) if may_cut else size
    for entry in reversed(fitting):
        num_samples = _samples_in_time(entry, moment)
        if num_samples >= least:
            return Chosen(entry, entry, None if num_samples == size else num_samples)
    return Chosen(fitting[0], fitting[0])


def _samples_in_time(entry: TableEntry, moment: Moment) -> int:
    """How many of a mini-batch's samples would be done before the deadline."""
    size = moment.num_samples
    left_s = moment.num_cores * moment.budget.cpu_share_fraction * moment.budget.time_left_s
    whole_s = moment.core_seconds(entry)
    if whole_s <= left_s:
        return size
    fixed_s = moment.core_seconds(_cut(entry, 0, size))
    return max(0, int(size * (left_s - fixed_s) / (whole_s - fixed_s))) if fixed_s < whole_s else 0


def _cut(entry: TableEntry, num_samples: int, size: int) -> TableEntry:
    """The entry as step times know it: with the MACs a sample that so few of a mini-batch have on average."""
    return msgspec.structs.replace(entry, macs=entry.macs * num_samples // size)


def _per_order(follower: _Follower, table: ParetoTable, moment: Moment) -> Choice:
    """The best one for the budget at the first mini-batch, for all of them.

    The very first mini-batch here is the cheapest one: it tells how long the others take.
    """
    if follower.level is None:
        if follower.is_first(moment) and (fitting := _in_memory(table, moment)):
            return Chosen(fitting[0], fitting[0])
        found = _live(follower, table, moment)
        if isinstance(found, Pause):
            return found
        follower.level = found.entry
    return Chosen(follower.level, follower.level)


def _below(follower: _Follower, table: ParetoTable, moment: Moment) -> Choice:
    """One drawn evenly from those up to the level of the order.

    References:
        Horvath et al., FjORD, NeurIPS 2021: each mini-batch's width is drawn evenly from the widths up to
        the client's largest one.
    """
    level = _per_order(follower, table, moment)
    if isinstance(level, Pause):
        return level
    up_to = [entry for entry in table.entries if entry.macs <= level.entry.macs] or [level.entry]
    place = int(portable_fraction("width", follower.start.seed, moment.step) * len(up_to))
    return Chosen(up_to[place], level.entry)


def _fixed(follower: _Follower, table: ParetoTable, moment: Moment) -> Choice:
    """The largest one within a share of the full MACs."""
    limit = follower.start.settings.fixed_fraction * moment.table.entries[-1].macs
    within = [entry for entry in table.entries if entry.macs <= limit] or list(table.entries[:1])
    return Chosen(within[-1], within[-1])


_CHOICES: dict[str, Callable[[_Follower, ParetoTable, Moment], Choice]] = {
    "live": _live,
    "widest": _widest,
    "per-order": _per_order,
    "below": _below,
    "fixed": _fixed,
}


def _in_memory(table: ParetoTable, moment: Moment) -> list[TableEntry]:
    return [entry for entry in table.entries if entry.memory_bytes <= moment.budget.memory_bytes]


def _hindrance(chosen: Chosen, moment: Moment, *, is_first: bool) -> Pause | None:
    """Why a mini-batch must not begin: its memory, or that it would not be done before the deadline."""
    entry, budget, full = chosen.entry, moment.budget, moment.table.entries[-1]
    is_full = entry.vector == full.vector
    what = "the full network" if is_full else f"the network of {entry.macs / full.macs:.0%} of the MACs"
    if entry.memory_bytes > budget.memory_bytes:
        return Pause(
            f"{what} needs {entry.memory_bytes / 2**20:.0f} MiB, "
            f"training may take {budget.memory_bytes / 2**20:.0f} MiB"
        )
    num_samples = chosen.num_samples
    trained = entry if num_samples is None else _cut(entry, num_samples, moment.num_samples)
    needed_s = moment.core_seconds(trained) / (moment.num_cores * budget.cpu_share_fraction)
    if needed_s > budget.time_left_s and not is_first:
        return Pause(
            f"time: a mini-batch of {what} takes {needed_s:.3g} s at {budget.cpu_share_fraction:.0%} of the "
            f"CPU, and {budget.time_left_s:.3g} s are left before the deadline"
        )
    return None


def follow(start: OrderStart) -> Choose:
    """Make the choice of an order, as its settings say."""
    return _Follower(start)


SUBNETS = DeviceStrategy(begin=follow)
