"""Methods compared on simulated fleets: scenarios x methods x seeds, resumable, in parallel processes.

::

    methods = {"distreal": {}, "full": {"strategy": "full"}}
    results = compare([Path("iid.yaml")], methods=methods, seeds=range(5))
    results.scenarios["iid"].methods["distreal"].last.mean
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.comparing.plan import Methods, PlannedRun, PlannedScenario, plan_comparison, slug
from coordinator.comparing.runs import Failure, Now, Start, run_all, start_process
from coordinator.comparing.store import open_folder, read_stored
from coordinator.comparing.summary import RunOutcome, Runs, ScenarioSummary, summarise
from firmware_profiles.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a comparison came to.

    Attributes:
        plan: the scenarios with their runs.
        outcomes: scenario -> method -> seed -> outcome of each finished run.
        scenarios: summaries by name; without those of which no run finished.
        num_stored: runs that were there already. num_ran: runs carried out now.
        failures: runs without a result. complaints: files that were not trusted.
        folder: for reports.
    """

    plan: tuple[PlannedScenario, ...]
    outcomes: Mapping[str, Runs]
    scenarios: Mapping[str, ScenarioSummary]
    num_stored: int
    num_ran: int
    failures: tuple[Failure, ...]
    complaints: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known before the first run: told once to who watches.

    Attributes:
        wall_s: runs that are there already -> seconds each of them took.
        todo: runs to be carried out.
        num_workers: at a time.
        complaints: files that were not trusted.
    """

    wall_s: Mapping[PlannedRun, float]
    todo: tuple[PlannedRun, ...]
    num_workers: int
    complaints: tuple[str, ...]


@dataclass(frozen=True)
class Watch:
    """Who is told how a comparison goes on."""

    prepared: Callable[[Prepared], None] = field(default=lambda _: None)
    now: Callable[[Now], None] = field(default=lambda _: None)


def compare(
    paths: Sequence[Path],
    *,
    methods: Path | Methods | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    reference: str | None = None,
    out: Path | None = None,
    num_workers: int | None = None,
    watch: Watch | None = None,
    start: Start = start_process,
    only_stored: bool = False,
) -> Results:
    """Carry out the runs that are not there yet, and sum up all of them.

    Args:
        paths: scenario files.
        methods: replace those of the scenarios: a YAML file, or the methods themselves.
        seeds: replace those of the scenarios.
        only: methods to run; all by default.
        overrides: `key=value`, put over file and method.
        reference: method that others are compared with; the first by default.
        out: folder of the results; `results` beside the first scenario by default.
        num_workers: processes at a time; the cores we may use by default.
        watch: told how it goes on.
        start: how a run is started.
        only_stored: carry out none, and sum up those that are there.

    Raises:
        UserError: the scenarios or methods do not fit, or the folder cannot be written to.
    """
    watch = watch or Watch()
    if not paths:
        raise UserError("a comparison needs at least one scenario")
    plan = plan_comparison(
        paths, methods=methods, seeds=seeds, only=only, overrides=overrides, reference=reference
    )
    first = plan[0]
    root = out or first.path.parent / "results"
    report_folder = root / slug(first.name) if out is None and len(plan) == 1 else root
    open_folder(report_folder)
    places = _places(plan, root)
    found = {run: read_stored(path, run) for run, path in places.items()}
    outcomes = {run: one.outcome for run, one in found.items() if one.outcome is not None}
    todo = [] if only_stored else [run for run in places if run not in outcomes]
    prepared = Prepared(
        wall_s={run: outcome.wall_s for run, outcome in outcomes.items()},
        todo=tuple(todo),
        num_workers=num_workers or available_cores(),
        complaints=tuple(one.complaint for one in found.values() if one.complaint is not None),
    )
    watch.prepared(prepared)
    failures = run_all(
        [(run, places[run]) for run in todo], start, num_workers=prepared.num_workers, watch=watch.now
    )
    failed = {failure.run for failure in failures}
    for run in todo:
        if run in failed:
            continue
        outcome, complaint = read_stored(places[run], run)
        if outcome is None:
            failures.append(Failure(run, complaint or f"{places[run]}: was not written"))
        else:
            outcomes[run] = outcome
    by_scenario = {scenario.name: _by_method(scenario, outcomes) for scenario in plan}
    return Results(
        plan=plan,
        outcomes=by_scenario,
        scenarios={
            scenario.name: summarise(
                by_scenario[scenario.name],
                reference=scenario.reference,
                targets=scenario.targets,
                own_labels=scenario.own_labels,
            )
            for scenario in plan
            if any(by_scenario[scenario.name].values())
        },
        num_stored=len(outcomes) if only_stored else len(places) - len(todo),
        num_ran=len(todo) - len(failures),
        failures=tuple(failures),
        complaints=prepared.complaints,
        folder=report_folder,
    )


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _places(plan: Sequence[PlannedScenario], root: Path) -> dict[PlannedRun, Path]:
    """Each run, those of the scenarios in turn, with the file of its result."""
    places: dict[PlannedRun, Path] = {}
    for scenario in plan:
        folder = root / slug(scenario.name) / "runs"
        open_folder(folder)
        places.update({run: folder / run.file_name for run in scenario.runs})
    return places


def _by_method(scenario: PlannedScenario, outcomes: Mapping[PlannedRun, RunOutcome]) -> Runs:
    found: dict[str, dict[int, RunOutcome]] = {method: {} for method in scenario.methods}
    for run in scenario.runs:
        if run in outcomes:
            found[run.method][run.seed] = outcomes[run]
    return found
