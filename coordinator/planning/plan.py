"""Makes the plan: reckons what the fleet can do, simulates a few candidates, forecasts their full runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coordinator.planning.candidates import Candidate
from coordinator.planning.evaluate import Evaluate, short_run
from coordinator.planning.outlook import sum_up
from coordinator.planning.plan_file import Plan
from coordinator.planning.planned_fleet import PlannedFleet, PlanSettings, look
from coordinator.twins.scenario import Scenario
from dse.halving import Forecast, Halving, HalvingSettings, Outcome, pick_batch
from dse.scaling_law import ScalingLaw
from firmware_profiles.errors import UserError

HALF_WEIGHT = 0.3
"""Of the accuracy after half the run in what candidates are ranked by; the rest is that at its end."""

NUM_PLAUSIBLE = 5
MARGIN = 1.3
"""A short run may be so much dearer than reckoned, if fast devices are drawn."""

LIKELY = 0.25
"""A candidate this likely to be the best may well be what is recommended."""

SAFETY = 0.85
"""Of the budget: what the planned run trains is an estimate."""

MIN_ROUNDS, MIN_STEPS = 4, 30
"""Of the shortest simulation: rounds, and mini-batches that a class sees, one device after another."""

FEW_DEVICES = 0.7
"""ln error of simulations with d devices a round lies so much times (1/d - 1/D) above that with D."""

EFFECTS: Mapping[str, float] = {
    "uniform": 0.02,
    "feddrop": 0.15,
    "fedrolex": 0.2,
    "fiarse": 0.2,
    "fjord": 0.2,
    "heterofl": 0.4,
}
"""Method -> what its ln error lies above the law, as far as the first look at them told."""


def make_plan(
    fleet: Scenario,
    digest: str,
    candidates: Sequence[Candidate],
    settings: PlanSettings,
    evaluate: Evaluate,
    say: Callable[[str], None] = lambda _text: None,
) -> Plan:
    """Choose what a fleet should run.

    Args:
        fleet: its scenario.
        digest: of its file.
        candidates: to choose from.
        settings: how.
        evaluate: makes the simulations.
        say: told what is done, for people.

    Raises:
        UserError: something named cannot be used, no candidate can train, or nothing fits the budget.
    """
    known = look(fleet, candidates, settings)
    law = ScalingLaw(
        [one.traits for one in known.workloads],
        fleet.rounds,
        {one.traits.family: EFFECTS.get(one.traits.family.partition(" ")[0], 0.0) for one in known.workloads},
        handicap=FEW_DEVICES * (1 / known.num_plan_devices - 1 / known.num_run_devices),
    )
    halving = _halving(known, law, settings)
    while trials := halving.ask():
        first = trials[0]
        say(
            f"rung {first.rung + 1}: {len(trials)} candidates, {first.num_steps} of {fleet.rounds} rounds, "
            f"seed {first.seed}"
        )
        runs = [
            short_run(
                known.scenario,
                known.candidates[trial.candidate],
                trial,
                devices_per_round=known.num_plan_devices,
                full_rounds=fleet.rounds,
            )
            for trial in trials
        ]
        for trial, done in zip(trials, evaluate(runs), strict=True):
            if done.outcome is None:
                say(f"{known.candidates[trial.candidate].name} cannot run: {done.reason}")
            known.evaluations.append((trial, done))
            halving.tell(
                Outcome(
                    trial,
                    done.outcome.accuracy if done.outcome else None,
                    float(done.outcome.macs) if done.outcome else 0.0,
                )
            )
        halving.rebudget(SAFETY * settings.budget_fraction * _cheapest_likely(known, halving))
    if not known.evaluations:
        say(_too_little(known, settings))
    elif not any(done.outcome for _, done in known.evaluations):
        raise UserError(f"no simulation came to an end: {known.evaluations[0][1].reason}")
    return sum_up(known, law, halving, digest, settings)


def _halving(known: PlannedFleet, law: ScalingLaw, settings: PlanSettings) -> Halving:
    full_rounds = known.scenario.rounds
    plausible = pick_batch(_ranked_by(law, []), NUM_PLAUSIBLE, 1.0)
    budget = SAFETY * settings.budget_fraction * min(known.run_macs(one) for one in plausible)
    return Halving(
        [one.macs_per_round * full_rounds * known.num_plan_devices for one in known.workloads],
        budget,
        lambda outcomes: _ranked_by(law, outcomes),
        HalvingSettings(
            num_rungs=settings.num_rungs,
            num_first=settings.num_first,
            num_steps=full_rounds,
            min_steps=min(settings.min_rounds or _min_rounds(known, plausible, budget), full_rounds),
            margin=MARGIN,
            seed=known.scenario.seed,
        ),
    )


def _min_rounds(known: PlannedFleet, plausible: Sequence[int], budget: float) -> int:
    """Rounds after which a simulation tells something, if the budget pays for two of them."""
    steps = [float((one.traits.class_weights @ one.traits.steps).sum()) for one in known.workloads]
    per_round = float(np.median([steps[one] for one in plausible])) / known.scenario.rounds
    dearest = max(known.workloads[one].macs_per_round for one in plausible) * known.num_plan_devices
    affordable = math.floor(budget / dearest / MARGIN / 2)
    return max(MIN_ROUNDS, min(math.ceil(MIN_STEPS / per_round), affordable))


def _cheapest_likely(known: PlannedFleet, halving: Halving) -> float:
    """MACs of the cheapest full run among those that may well be recommended in the end."""
    ranking = halving.ranking()
    if not ranking:
        return 0.0
    likely = halving.forecast().among(ranking).probability_best()
    return min(
        known.run_macs(one)
        for place, (one, chance) in enumerate(zip(ranking, likely, strict=True))
        if place == 0 or chance >= LIKELY
    )


def _ranked_by(law: ScalingLaw, outcomes: Sequence[Outcome]) -> Forecast:
    return law.mean_at(outcomes, {1.0: 1.0 - HALF_WEIGHT, 0.5: HALF_WEIGHT})


def _too_little(known: PlannedFleet, settings: PlanSettings) -> str:
    num_rounds = settings.min_rounds or MIN_ROUNDS
    return (
        f"{settings.budget_fraction:.0%} of the run's training is too little for a simulation of "
        f"{num_rounds} rounds by {known.num_plan_devices} devices: this plan rests on the law of earlier "
        "runs alone. Give more by --budget-fraction, or less by --min-rounds or --devices"
    )
