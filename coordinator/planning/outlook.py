"""Sums up a plan: expected curves, how far candidates are apart, whose classes suffer, what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from coordinator.planning.candidates import optimizer_of
from coordinator.planning.plan_file import Compared, Cost, Plan, Point, Weak
from coordinator.planning.planned_fleet import PlannedFleet, PlanSettings
from dse.halving import Forecast, Halving, Outcome
from dse.scaling_law import NOISE_SD, RUNG_SD, ScalingLaw

NUM_POINTS = 10
"""Of an expected curve."""

UNFINISHED = 0.1
"""ln error of a run at share x lies so much times (1 - x) above that of a run whose schedule ends there."""

Z_95 = 1.96

WEAK_BY = 0.15
"""Classes this far below the others are named."""


def sum_up(
    known: PlannedFleet, law: ScalingLaw, halving: Halving, digest: str, settings: PlanSettings
) -> Plan:
    """Put together the plan of what was simulated.

    Args:
        known: the fleet.
        law: that forecasts.
        halving: with all that was told.
        digest: of the fleet's file.
        settings: of the plan.
    """
    outcomes = [one for one in halving.outcomes if one.score is not None]
    ranking = halving.ranking()
    likely = dict(zip(ranking, halving.forecast().among(ranking).probability_best(), strict=True))
    final, best = law(outcomes), ranking[0]
    curves = _curves(law, outcomes, known)
    run_macs = known.run_macs(best)
    return Plan(
        fleet=known.scenario.name,
        fleet_digest=digest,
        recommended=known.candidates[best].name,
        changes=dict(known.candidates[best].changes),
        rounds=known.scenario.rounds,
        num_candidates=len(known.candidates),
        seeds=tuple(sorted({trial.seed for trial, _ in known.evaluations})),
        num_validation=known.scenario.num_validation,
        compared=tuple(
            _compared(known, one, best, final, curves[one], float(likely[one])) for one in ranking
        ),
        weak_classes=_weak(known, best),
        cost=Cost(
            macs=halving.spent,
            run_macs=run_macs,
            budget_fraction=settings.budget_fraction,
            fraction=round(halving.spent / run_macs, 4),
            simulations=len(known.evaluations),
            core_seconds=round(sum(done.outcome.wall_s for _, done in known.evaluations if done.outcome), 1),
        ),
    )


def _compared(
    known: PlannedFleet, one: int, best: int, final: Forecast, curve: tuple[Point, ...], likely: float
) -> Compared:
    mean, sd = final.difference(best, one)
    # d accuracy = error x d(-ln error)
    points = 100.0 * math.exp(-float(final.mean[best]))
    mine = [
        (trial.num_steps, done.outcome.macs)
        for trial, done in known.evaluations
        if trial.candidate == one and done.outcome
    ]
    return Compared(
        name=known.candidates[one].name,
        changes=dict(known.candidates[one].changes),
        curve=curve,
        probability_best=round(likely, 4),
        behind=round(points * mean, 2),
        behind_low=round(points * (mean - Z_95 * sd), 2),
        behind_high=round(points * (mean + Z_95 * sd), 2),
        rounds_simulated=tuple(num for num, _ in mine),
        macs=float(sum(macs for _, macs in mine)),
        idle_devices=known.workloads[one].idle,
    )


def _curves(law: ScalingLaw, outcomes: Sequence[Outcome], known: PlannedFleet) -> list[tuple[Point, ...]]:
    """Expected accuracy over the rounds of each candidate's full run."""
    is_constant = optimizer_of(known.scenario).schedule == "constant"
    columns: list[list[Point]] = []
    rounds = known.scenario.rounds
    for number in sorted({max(1, round(rounds * part / NUM_POINTS)) for part in range(1, NUM_POINTS + 1)}):
        share = number / rounds
        forecast = law.at(outcomes, share)
        late = 0.0 if is_constant else UNFINISHED * (1.0 - share)
        sd = np.sqrt(np.diag(forecast.covariance) + NOISE_SD**2 + RUNG_SD**2 + (late / 2) ** 2)
        log_error = -forecast.mean + late
        columns.append(
            [_point(number, float(mean), float(spread)) for mean, spread in zip(log_error, sd, strict=True)]
        )
    return [tuple(points) for points in zip(*columns, strict=True)]


def _point(number: int, log_error: float, sd: float) -> Point:
    def accuracy(value: float) -> float:
        return round(min(1.0, max(0.0, 1.0 - math.exp(value))), 4)

    return Point(
        round=number,
        accuracy=accuracy(log_error),
        low=accuracy(log_error + Z_95 * sd),
        high=accuracy(log_error - Z_95 * sd),
    )


def _weak(known: PlannedFleet, best: int) -> tuple[Weak, ...]:
    """Classes that only some groups hold and that its longest simulation left far behind the others."""
    mine = [
        (trial.num_steps, trial.rung, done) for trial, done in known.evaluations if trial.candidate == best
    ]
    longest = max(mine, key=lambda one: one[:2])[2].outcome if mine else None
    by_class = longest.class_accuracy if longest else ()
    holders: dict[tuple[int, ...], list[str]] = {}
    for group in known.scenario.devices:
        if group.labels:
            holders.setdefault(tuple(sorted(group.labels)), []).append(group.id or Path(group.profile).stem)
    names, weak = known.world.class_names, []
    for labels, groups in holders.items():
        own = _mean(one for label, one in enumerate(by_class) if label in labels)
        others = _mean(one for label, one in enumerate(by_class) if label not in labels)
        if own is not None and others is not None and own < others - WEAK_BY:
            weak.append(
                Weak(
                    groups=tuple(dict.fromkeys(groups)),
                    labels=labels,
                    names=None if names is None else tuple(names[label] for label in labels),
                    accuracy=round(own, 4),
                    others=round(others, 4),
                )
            )
    return tuple(weak)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
