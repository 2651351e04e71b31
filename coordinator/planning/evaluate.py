"""Short simulations of a fleet with its candidates: side by side, each kept, none made twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordinator.comparing.digest import digest_of
from coordinator.comparing.plan import PlannedRun
from coordinator.comparing.runs import Now, Start, run_all, start_process
from coordinator.comparing.store import open_folder, read_stored
from coordinator.comparing.summary import RunOutcome
from coordinator.planning.candidates import Candidate, optimizer_of
from coordinator.twins.scenario import Scenario
from dse.halving import Trial

MEASURED_AFTER_A_ROUND = 100
"""Samples; only the last version counts, and it is measured on all."""

Evaluate = Callable[[Sequence[PlannedRun]], "list[Evaluation]"]
"""Simulates runs and says what came of each, in their order."""


@dataclass(frozen=True)
class Evaluation:
    """What came of a simulation.

    Attributes:
        run: what was simulated. outcome: None if it failed, for the reason.
        reason: why it failed, or None.
    """

    run: PlannedRun
    outcome: RunOutcome | None
    reason: str | None = None


def short_run(
    fleet: Scenario, candidate: Candidate, trial: Trial, *, devices_per_round: int, full_rounds: int
) -> PlannedRun:
    """The simulation of a trial: the candidate's scenario with fewer rounds, its schedule with them.

    A schedule that is cut off ranks candidates by how they stand large steps; one that has run its course
    ranks them nearly as the full run does. So warm-up, cosine and steps all shrink with the rounds.

    Args:
        fleet: measured on validation.
        candidate: what it changes.
        trial: rounds and seed.
        devices_per_round: of the simulation.
        full_rounds: of the run that is planned.
    """
    settings = candidate.settings(fleet)
    share = trial.num_steps / full_rounds
    optimizer = optimizer_of(settings)

    def scaled(count: int | None) -> int | None:
        return None if count is None else max(1, round(count * share))

    shorter = msgspec.structs.replace(
        optimizer,
        warmup=min(round(optimizer.warmup * share), trial.num_steps - 1),
        total=scaled(optimizer.total),
        every=scaled(optimizer.every),
    )
    subnets = dict(settings.subnets)
    if subnets.get("ceilings"):
        stages = {max(1, math.ceil(first * share)): part for first, part in subnets["ceilings"]}
        subnets["ceilings"] = [list(stage) for stage in stages.items()]
    settings = msgspec.structs.replace(
        settings,
        rounds=trial.num_steps,
        seed=trial.seed,
        devices_per_round=devices_per_round,
        measure_samples=MEASURED_AFTER_A_ROUND,
        optimizer=shorter,
        subnets=subnets,
        compare=None,
    )
    return PlannedRun(
        scenario=fleet.name, method=candidate.name, settings=settings, digest=digest_of(settings)
    )


def make_evaluate(
    folder: Path, *, num_workers: int, watch: Callable[[Now], None], start: Start = start_process
) -> Evaluate:
    """An `Evaluate` that keeps each result in a file and reads it from there the next time.

    Args:
        folder: of the results.
        num_workers: processes at once.
        watch: told how far the runs are.
        start: starts one.

    Raises:
        UserError: the folder cannot be written.
    """
    open_folder(folder)

    def evaluate(runs: Sequence[PlannedRun]) -> list[Evaluation]:
        waiting = [
            (run, folder / run.file_name)
            for run in runs
            if read_stored(folder / run.file_name, run).outcome is None
        ]
        failures = run_all(waiting, start, num_workers=num_workers, watch=watch)
        reasons = {failure.run.digest: failure.reason for failure in failures}
        done = []
        for run in runs:
            found = read_stored(folder / run.file_name, run)
            reason = reasons.get(run.digest) or found.complaint
            done.append(Evaluation(run, found.outcome, None if found.outcome else reason or "no result"))
        return done

    return evaluate
