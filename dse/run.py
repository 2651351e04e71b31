"""One run of the search, from a model and data to a table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from dse.anew import (
    Unit,
    candidates,
    contenders,
    fresh_repeats,
    measure_units,
    measured_anew,
    noise_of_parts,
    open_units,
)
from dse.costs import describe
from dse.front import Measurement, table_entries
from dse.search import search
from dse.site import Run, Site, make_site
from dse.study import finished, quiet
from dse.worker import Task
from dse.workers import Worker, give, started_workers
from firmware_profiles.errors import UserError
from models.data.dataset import DataSplit
from models.graph import ModelGraph
from models.graph import digest as graph_digest
from models.subnet import Array
from models.table import ParetoTable, dump_table

SOURCE_LIMIT = 1000

OnPhase = Callable[[str, int, int], None]
"""Told what goes on: name of the phase, what is done of it, and the total."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found.

    Attributes:
        table: the Pareto table.
        num_trials: finished trials of the study, those of earlier runs and other workers included.
        num_stopped: of them, given up before they were measured to the end.
        num_parts: measurements that the others took, one for each stage and repeat.
        num_parts_saved: measurements that those given up did not take.
        num_dropped: vectors measured a second time that are not in the table.
        wall_s: duration of this run.
        phases_s: duration of each of its phases.
        notes: what a reader of the table should know.
    """

    table: ParetoTable
    num_trials: int
    num_stopped: int
    num_parts: int
    num_parts_saved: int
    num_dropped: int
    wall_s: float
    phases_s: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def run(
    plan_of_run: Run,
    graph: ModelGraph,
    initial: Mapping[str, Array],
    data: DataSplit,
    on_phase: OnPhase = lambda _phase, _done, _total: None,
) -> Outcome:
    """Search, measure the front anew, and make the table.

    Args:
        plan_of_run: what to do.
        graph: the network.
        initial: its initial weights, float32.
        data: to search with; its test part is not used.
        on_phase: told what goes on.

    Raises:
        UserError: data, study or settings cannot be used.
        KeyboardInterrupt: interrupted; the same command goes on.
    """
    clock = _Clock(on_phase)
    site = make_site(plan_of_run, graph, initial, data)
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        study = site.open_study()
        workers = stack.enter_context(started_workers(plan_of_run)) if plan_of_run.num_workers > 1 else []
        _warm_up("warm starts", site, workers, range(plan_of_run.settings.num_repeats), clock.on_phase)
        _search(site, study, workers, clock.on_phase)
        vectors = candidates(site, study)
        _warm_up("fresh warm starts", site, workers, fresh_repeats(site), clock.on_phase)
        left = _measure_anew(site, study, workers, vectors, clock.on_phase)
        *fresh, full = measured_anew(site, study, left, fresh_repeats(site))
        trials = finished(study)
    table = _to_table(site, fresh, full)
    saved = [int(trial.user_attrs.get("parts_saved", 0)) for trial in trials]
    num_again = sum("again" in trial.user_attrs for trial in trials)
    num_all = (len(trials) - num_again) * len(plan_of_run.settings.stages) * plan_of_run.settings.num_repeats
    return Outcome(
        table=table,
        num_trials=len(trials),
        num_stopped=sum(trial.state == TrialState.PRUNED for trial in trials),
        num_parts=num_all - sum(saved),
        num_parts_saved=sum(saved),
        num_dropped=len(vectors) - len(table.entries),
        wall_s=clock.total_s(),
        phases_s=clock.end(),
        notes=describe(plan_of_run.price),
    )


def _warm_up(phase: str, site: Site, workers: Sequence[Worker], repeats: range, on_phase: OnPhase) -> None:
    """Fill the folder of warm starts, each worker its share; what is in it already costs nothing."""
    total = len(repeats)
    on_phase(phase, 0, total)
    if workers:
        shares = [tuple(repeats[index :: len(workers)]) for index in range(len(workers))]
        give(workers, [Task(kind="warm", repeats=share) for share in shares if share], lambda: None)
    else:
        site.warm_starts(repeats, lambda num_done: on_phase(phase, num_done, total))
    on_phase(phase, total, total)


def _search(site: Site, study: optuna.Study, workers: Sequence[Worker], on_phase: OnPhase) -> None:
    total = site.run.num_trials
    if workers:
        give(
            workers,
            [Task(kind="search")] * len(workers),
            lambda: on_phase("search", len(finished(study)), total),
        )
    else:
        question = site.question(site.warm_starts(range(site.run.settings.num_repeats)))
        search(study, question, site.run.options, lambda num_done: on_phase("search", num_done, total))


def _measure_anew(
    site: Site,
    study: optuna.Study,
    workers: Sequence[Worker],
    vectors: Sequence[tuple[int, ...]],
    on_phase: OnPhase,
) -> list[tuple[int, ...]]:
    """Measure from one fresh warm start after the other; returns what was in the race to the end."""
    phase, repeats = "measure the front anew", fresh_repeats(site)
    total = len(vectors) * len(repeats)
    left, noise = list(vectors), noise_of_parts(site, study)
    for repeat in repeats:
        left = contenders(site, study, left, repeat, noise)
        num_settled = total - len(left) * (repeats.stop - repeat - 1)
        _share_out(
            site,
            study,
            workers,
            [Unit(repeat, vector) for vector in left],
            lambda num_open, num_settled=num_settled: on_phase(phase, num_settled - num_open, total),
        )
    on_phase(phase, total, total)
    return left


def _share_out(
    site: Site,
    study: optuna.Study,
    workers: Sequence[Worker],
    units: Sequence[Unit],
    on_open: Callable[[int], None],
) -> None:
    """Measure what is not measured yet, each worker its share; told how many units are open."""
    left = open_units(site, study, units)
    if workers and left:
        shares = [tuple(left[index :: len(workers)]) for index in range(len(workers))]
        give(
            workers,
            [Task(kind="anew", units=share) for share in shares if share],
            lambda: on_open(len(open_units(site, study, units))),
        )
        left = open_units(site, study, units)  # what a lost worker left
    num_left = len(left)
    measure_units(site, study, left, lambda num_done: on_open(num_left - num_done))


def _to_table(site: Site, fresh: Sequence[Measurement], full: Measurement) -> ParetoTable:
    objectives, pricing = site.run.settings.objectives, site.pricing
    return ParetoTable(
        model=site.graph.name,
        graph_digest=graph_digest(site.graph),
        batch_size=site.run.settings.batch_size,
        entries=table_entries(fresh, full, objectives, lambda one: pricing(one.vector).core_seconds),
        source=site.run.command[:SOURCE_LIMIT],
    )


def write_table(path: Path, table: ParetoTable) -> None:
    """Write a table file whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"# Made by: {table.source}\n{dump_table(table)}", "utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}. Give another --out.") from error


class _Clock:
    """Passes phases on and times them."""

    def __init__(self, on_phase: OnPhase) -> None:
        self._on_phase = on_phase
        self._started_s = self._since_s = time.monotonic()
        self._phase: str | None = None
        self._durations: dict[str, float] = {}

    def on_phase(self, phase: str, num_done: int, total: int) -> None:
        if phase != self._phase:
            self.end()
            self._phase = phase
        self._on_phase(phase, num_done, total)

    def end(self) -> dict[str, float]:
        now_s = time.monotonic()
        if self._phase is not None:
            self._durations[self._phase] = self._durations.get(self._phase, 0.0) + now_s - self._since_s
        self._since_s = now_s
        return {phase: round(seconds, 3) for phase, seconds in self._durations.items()}

    def total_s(self) -> float:
        return time.monotonic() - self._started_s
