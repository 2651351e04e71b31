"""A fleet that is planned for: its candidates, what it can do with each, what was simulated of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from coordinator.planning.candidates import Candidate
from coordinator.planning.evaluate import Evaluation
from coordinator.planning.workload import Workload, World, look_at, workload
from coordinator.strategies.presets import PRESETS
from coordinator.twins.scenario import Scenario
from dse.halving import Trial
from firmware_profiles.errors import UserError
from models.data.dataset import load_data

WANTED_ROUNDS = 60
"""Of all simulations together, as far as the least devices leave room for them."""

MOST_DEVICES, LEAST_DEVICES = 0.5, 3
"""In a round of a simulation: a share of the run's, and a number. With two devices of unlike data a version
is too much one device's."""

VALIDATION_SHARE, MAX_VALIDATION = 0.1, 2000


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How a plan is made.

    Attributes:
        budget_fraction: training MACs of all simulations, as a share of those of the run that is planned.
        devices_per_round: of the simulations; None: as many as the budget allows,
            from 3 to half of the run's.
        min_rounds: of the shortest simulation; None: what MIN_STEPS mini-batches take, at least MIN_ROUNDS.
        num_first: candidates of the first rung at most.
        num_rungs: see `dse.halving`.
        seed: of the first rung; None: the fleet's.
    """

    budget_fraction: float = 0.15
    devices_per_round: int | None = None
    min_rounds: int | None = None
    num_first: int = 12
    num_rungs: int = 3
    seed: int | None = None


@dataclass
class PlannedFleet:
    """A fleet with its candidates, and what was simulated of them."""

    scenario: Scenario
    world: World
    candidates: list[Candidate]
    workloads: list[Workload]
    num_run_devices: int
    num_plan_devices: int
    evaluations: list[tuple[Trial, Evaluation]] = field(default_factory=list)

    def run_macs(self, candidate: int) -> float:
        """Training MACs of its full run: as reckoned, less what its simulations fell short of others."""
        # Which devices a short run draws decides what it trains, alike for all candidates of a rung. So what
        # one falls behind the others of its rung is believed, and of what all fall behind, the mean of rungs.
        ratios: dict[int, dict[int, float]] = {}
        for trial, one in self.evaluations:
            if one.outcome:
                reckoned = self.workloads[trial.candidate].macs_per_round * trial.num_steps
                reckoned *= self.num_plan_devices
                ratios.setdefault(trial.rung, {})[trial.candidate] = one.outcome.macs / reckoned
        shares = [rung[candidate] / max(rung.values()) for rung in ratios.values() if rung.get(candidate)]
        of_all = [max(rung.values()) for rung in ratios.values()]
        share = sum(shares) / len(shares) if shares else 1.0
        share *= min(1.0, sum(of_all) / len(of_all)) if of_all else 1.0
        return share * self.workloads[candidate].macs_per_round * self.scenario.rounds * self.num_run_devices


def on_validation(fleet: Scenario, seed: int) -> Scenario:
    """The fleet measured on training samples set aside; nothing is measured on the test part.

    Args:
        fleet: as written.
        seed: of the plan.

    Raises:
        UserError: the data cannot be used.
    """
    num = fleet.num_validation
    if num == 0:
        train = load_data(fleet.data, seed).train
        num = max(1, min(MAX_VALIDATION, round(VALIDATION_SHARE * len(train))))
    return msgspec.structs.replace(
        fleet, measure_on="validation", num_validation=num, seed=seed, compare=None
    )


def _check_rounds(settings: Scenario, what: str) -> None:
    preset = PRESETS.get(settings.method)
    if settings.asynchrony is not None or (preset and (preset.peers or preset.gossip or preset.asynchrony)):
        raise UserError(
            f"{what}: strategy {settings.strategy} goes without a server's rounds, and plans are for rounds. "
            "Run it as it is, or leave strategy, peers, gossip, topology and asynchrony out"
        )


def look(fleet: Scenario, candidates: Sequence[Candidate], settings: PlanSettings) -> PlannedFleet:
    """Reckon what the fleet can do with each candidate that can train at all.

    Args:
        fleet: as written.
        candidates: to choose from.
        settings: of the plan.

    Raises:
        UserError: something the scenario names cannot be used, or no candidate can train.
    """
    _check_rounds(fleet, f"scenario {fleet.name!r}")
    scenario = on_validation(fleet, fleet.seed if settings.seed is None else settings.seed)
    world = look_at(scenario)
    changed = [one.settings(scenario) for one in candidates]
    for candidate, its_scenario in zip(candidates, changed, strict=True):
        _check_rounds(its_scenario, f"candidate {candidate.name!r}")
    loads = [workload(world, one) for one in changed]
    able = [index for index, one in enumerate(loads) if one.macs_per_round > 0]
    if not able:
        raise UserError(
            f"scenario {fleet.name!r}: no device can train a mini-batch of any candidate. Give the devices "
            "more (round_s, policy, resources), or smaller candidates (--candidates)"
        )
    num_run = fleet.devices_per_round or fleet.num_devices
    num_plan = min(num_run, settings.devices_per_round or _devices_per_round(fleet.rounds, num_run, settings))
    return PlannedFleet(
        scenario, world, [candidates[one] for one in able], [loads[one] for one in able], num_run, num_plan
    )


def _devices_per_round(rounds: int, num_run: int, settings: PlanSettings) -> int:
    """So few that the budget pays for WANTED_ROUNDS rounds: these tell more than as many more devices."""
    affordable = settings.budget_fraction * rounds * num_run / WANTED_ROUNDS
    return max(LEAST_DEVICES, min(math.ceil(MOST_DEVICES * num_run), round(affordable)))
