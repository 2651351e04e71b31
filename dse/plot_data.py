"""What the plots of a table show, as plain data; `dse.plots_html` and `dse.plots_png` draw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dse.hypervolume import running_hypervolume
from dse.live import LiveDevice, LiveFleet
from dse.trial import StudyTrials, Trial
from firmware_profiles.errors import UserError
from models.subnet import DropoutVector
from models.table import ParetoTable, table_digest


@dataclass(frozen=True)
class EntryPoint:
    """One entry of the table.

    Attributes:
        number: from 1, by rising MACs.
        vector: kept channels of each width group.
        macs: training MACs of one sample.
        macs_fraction: the same over those of the full network.
        progress: as the table says.
        keep_fractions: kept over all channels of each width group.
    """

    number: int
    vector: DropoutVector
    macs: int
    macs_fraction: float
    progress: float
    keep_fractions: tuple[float, ...]


@dataclass(frozen=True)
class TrialPoint:
    """One trial of the study.

    Attributes:
        trial: what was measured.
        macs_fraction: training MACs over those of the full network.
        is_on_front: no other trial is as cheap and gains more.
        is_uniform: one keep fraction for all groups makes this vector.
    """

    trial: Trial
    macs_fraction: float
    is_on_front: bool
    is_uniform: bool


@dataclass(frozen=True)
class HypervolumeCurve:
    """Hypervolume over the trials: the best gain, averaged over all budgets from none to the full MACs.

    Attributes:
        numbers: of the trials.
        values: after each of them, a fraction of accuracy.
        of_uniform: that of the uniform vectors alone, None if there was none.
        reference: (MACs over the full network's, gain) of the worst corner.
    """

    numbers: tuple[int, ...]
    values: tuple[float, ...]
    of_uniform: float | None
    reference: tuple[float, float]


@dataclass(frozen=True)
class DevicePoint:
    """Where one device operates.

    Attributes:
        device: its id.
        state: what it does.
        now: share of the full network's MACs of its last mini-batch, 0 while paused, None if not known.
        recent: the same over the last minutes, oldest first.
        entry: number of the table's entry it trains with, None if its vector is not in the table.
    """

    device: str
    state: str
    now: float | None
    recent: tuple[float, ...]
    entry: int | None


@dataclass(frozen=True)
class PlotData:
    """Everything that is drawn.

    Attributes:
        model: name of the network. source: how the table came about. digest: of the table.
        groups: name and channels of each width group.
        entries: of the table, by rising MACs.
        trials: of the study, or None without one.
        hypervolume: over the trials, or None without a study.
        devices: that are online, or None if nobody asked for them.
    """

    model: str
    source: str
    digest: str
    groups: tuple[tuple[str, int], ...]
    entries: tuple[EntryPoint, ...]
    trials: tuple[TrialPoint, ...] | None = None
    hypervolume: HypervolumeCurve | None = None
    devices: tuple[DevicePoint, ...] | None = None


REFERENCE = (1.0, 0.0)
"""Of the hypervolume: all MACs of the full network, no accuracy gained."""


def prepare(
    table: ParetoTable,
    *,
    study: StudyTrials | None = None,
    fleet: LiveFleet | None = None,
    group_names: Sequence[str] | None = None,
) -> PlotData:
    """Put together what is drawn.

    Args:
        table: the table.
        study: of its search.
        fleet: that trains with it.
        group_names: of the width groups, where neither study nor fleet says them.

    Raises:
        UserError: study or fleet are of another network.
    """
    full = table.entries[-1]
    if study is not None:
        _check_study(study, full.vector)
    if fleet is not None:
        _check_fleet(fleet, full.vector)
    return PlotData(
        model=table.model,
        source=table.source,
        digest=table_digest(table),
        groups=tuple(
            zip(_group_names(len(full.vector), study, fleet, group_names), full.vector, strict=True)
        ),
        entries=_entries(table),
        trials=None if study is None else _trials(study, full.vector, full.macs),
        hypervolume=None if study is None else _hypervolume(study, full.vector, full.macs),
        devices=None if fleet is None else _devices(fleet, table),
    )


def is_uniform(vector: DropoutVector, full: DropoutVector) -> bool:
    """Whether some keep fraction f makes this vector: kept = max(1, round(f channels)) in every group."""
    lowest = max(
        ((kept - 0.5) / size for kept, size in zip(vector, full, strict=True) if kept > 1), default=0.0
    )
    highest = min(((kept + 0.5) / size for kept, size in zip(vector, full, strict=True)), default=1.0)
    return lowest <= highest


def entry_number(vector: DropoutVector | None, table: ParetoTable) -> int | None:
    """Number, from 1, of the table's entry with this vector."""
    return next((index for index, entry in enumerate(table.entries, 1) if entry.vector == vector), None)


def _entries(table: ParetoTable) -> tuple[EntryPoint, ...]:
    full = table.entries[-1]
    return tuple(
        EntryPoint(
            number=number,
            vector=entry.vector,
            macs=entry.macs,
            macs_fraction=entry.macs / full.macs,
            progress=entry.progress,
            keep_fractions=tuple(kept / size for kept, size in zip(entry.vector, full.vector, strict=True)),
        )
        for number, entry in enumerate(table.entries, 1)
    )


def _trials(study: StudyTrials, full: DropoutVector, full_macs: int) -> tuple[TrialPoint, ...]:
    front: set[int] = set()
    best = -float("inf")
    for trial in sorted(study.trials, key=lambda one: (one.macs, -one.gain, one.number)):
        if trial.gain > best:
            best = trial.gain
            front.add(trial.number)
    return tuple(
        TrialPoint(
            trial=trial,
            macs_fraction=trial.macs / full_macs,
            is_on_front=trial.number in front,
            is_uniform=is_uniform(trial.vector, full),
        )
        for trial in study.trials
    )


def _hypervolume(study: StudyTrials, full: DropoutVector, full_macs: int) -> HypervolumeCurve:
    uniform = running_hypervolume(
        ((trial.macs / full_macs, trial.gain) for trial in study.trials if is_uniform(trial.vector, full)),
        REFERENCE,
    )
    return HypervolumeCurve(
        numbers=tuple(trial.number for trial in study.trials),
        values=tuple(
            running_hypervolume(((trial.macs / full_macs, trial.gain) for trial in study.trials), REFERENCE)
        ),
        of_uniform=uniform[-1] if uniform else None,
        reference=REFERENCE,
    )


def _devices(fleet: LiveFleet, table: ParetoTable) -> tuple[DevicePoint, ...]:
    return tuple(
        DevicePoint(
            device=device.device,
            state=device.state,
            now=_now(device),
            recent=tuple(share for _ago_s, share in device.macs_series),
            entry=entry_number(device.vector, table),
        )
        for device in fleet.devices
        if device.online
    )


def _now(device: LiveDevice) -> float | None:
    return 0.0 if device.state == "paused" else device.macs_fraction


def _group_names(
    num_groups: int, study: StudyTrials | None, fleet: LiveFleet | None, given: Sequence[str] | None
) -> list[str]:
    names = given or (study.groups if study else ()) or ([one.name for one in fleet.groups] if fleet else ())
    if len(names) != num_groups:
        return [f"group {number}" for number in range(1, num_groups + 1)]
    return [name.removesuffix(".weight") for name in names]


def _check_study(study: StudyTrials, full: DropoutVector) -> None:
    for trial in study.trials:
        if len(trial.vector) != len(full) or any(map(int.__gt__, trial.vector, full)):
            raise UserError(
                f"study {study.name!r} searched another network than the table's: trial {trial.number} keeps "
                f"{list(trial.vector)}, the full network has {list(full)}. Choose another one with --name."
            )


def _check_fleet(fleet: LiveFleet, full: DropoutVector) -> None:
    found = tuple(group.num_channels for group in fleet.groups)
    if found != full:
        raise UserError(
            f"the fleet trains another network than the table's: its width groups have {list(found)} "
            f"channels, the table's {list(full)}"
        )
