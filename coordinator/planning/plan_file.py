"""The plan file: what a fleet should run, what it was compared with, and what to expect.

::

    format: edgetide-plan/1
    fleet: two boards                 # name of the scenario
    fleet_digest: "9f0c..."           # SHA-256 of its file
    recommended: small 0.45           # one of `compared`
    changes: {strategy: small, base_width: 0.45, learning_rate: 0.1}
    ...
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from coordinator.settings import LearningConfig, read_optimizer
from firmware_profiles.errors import UserError
from firmware_profiles.strict import load_strict
from models.optim.settings import OptimizerSettings

FORMAT = "edgetide-plan/1"

_LEARNED = ("strategy", "base_width", "levels", "subnets", "averages", "table", "passes", "batch_size")
_LEARNED += ("optimizer", "learning_rate")

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Amount = Annotated[float, Meta(ge=0.0, le=1e18)]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
Count = Annotated[int, Meta(ge=0, le=10**9)]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Expected accuracy after a round.

    Attributes:
        round: of the full run. accuracy: expected, 0..1. low, high: 95 % of what may come lies between.
    """

    round: Count
    accuracy: Share
    low: Share
    high: Share


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of a candidate.

    Attributes:
        name: of the candidate. changes: keys of a scenario.
        curve: expected accuracy over the rounds; the last point is the full run's end.
        probability_best: of all candidates.
        behind: points (of 100) that its final accuracy is below the recommended one's; behind_low,
            behind_high: 95 % of what may come lies between.
        rounds_simulated: in each simulation of it. macs: training MACs of these.
        idle_devices: that can never train with it.
    """

    name: Text
    changes: dict[str, Any]
    curve: Annotated[tuple[Point, ...], Meta(min_length=1, max_length=1000)]
    probability_best: Share
    behind: float
    behind_low: float
    behind_high: float
    rounds_simulated: tuple[Count, ...]
    macs: Amount
    idle_devices: tuple[str, ...] = ()

    @property
    def final(self) -> Point:
        """At the end of the full run."""
        return self.curve[-1]

    def at(self, share: float) -> Point:
        """The point nearest to a share of the full run."""
        wanted = share * self.curve[-1].round
        return min(self.curve, key=lambda point: abs(point.round - wanted))


class Weak(msgspec.Struct, frozen=True, kw_only=True):
    """Classes that only some groups hold, and that the recommended candidate learned much worse than others.

    Attributes:
        groups: that hold them. labels: numbers of the classes. names: of them, or None.
        accuracy: of these classes in the candidate's longest simulation. others: of all other classes.
    """

    groups: tuple[str, ...]
    labels: tuple[Count, ...]
    names: tuple[str, ...] | None
    accuracy: Share
    others: Share


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan cost.

    Attributes:
        macs: training MACs of all simulations. run_macs: of one full run of the recommended candidate.
        budget_fraction: share that was allowed. fraction: macs / run_macs.
        simulations: how many. core_seconds: that they computed.
    """

    macs: Amount
    run_macs: Amount
    budget_fraction: Amount
    fraction: Amount
    simulations: Count
    core_seconds: Amount


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet should run.

    Attributes:
        fleet: name of the scenario. fleet_digest: SHA-256 of its file, in hex.
        recommended: name of one of `compared`. changes: keys of the scenario that it changes.
        rounds: of the planned run. num_candidates: that were thought of.
        seeds: of the simulations. num_validation: training samples that were set aside to measure on.
        compared: candidates that were simulated, best first; all where the budget paid for no simulation.
        weak_classes: of the recommended candidate. cost: of the plan.
    """

    fleet: Text
    fleet_digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    recommended: Text
    changes: dict[str, Any]
    rounds: Count
    num_candidates: Count
    seeds: tuple[Count, ...]
    num_validation: Count
    compared: Annotated[tuple[Compared, ...], Meta(min_length=1, max_length=2000)]
    weak_classes: tuple[Weak, ...] = ()
    cost: Cost


class _Dumper(yaml.SafeDumper):
    """Writes every value out, where YAML would refer to an equal one before it."""

    def ignore_aliases(self, data: Any) -> bool:
        """For all values."""
        del data
        return True


class _PlanFile(Plan, frozen=True, kw_only=True):
    format: Literal["edgetide-plan/1"]


def fleet_digest(path: Path) -> str:
    """SHA-256 of a scenario's file, in hex.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def dump_plan(plan: Plan) -> str:
    """A plan as the content of its file; `load_plan` reads the same plan back."""
    body = yaml.dump(
        msgspec.to_builtins(plan), Dumper=_Dumper, sort_keys=False, width=100, default_flow_style=None
    )
    return f"# What a fleet should run; see docs/planning.md.\nformat: {FORMAT}\n{body}"


def load_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        UserError: it cannot be read or does not fit the format; names file, line and key.
    """
    file = load_strict(path, _PlanFile)
    return Plan(**{name: getattr(file, name) for name in Plan.__struct_fields__})


def plan_learning(config: LearningConfig, plan_path: Path) -> LearningConfig:
    """A real fleet's run with what the plan recommends.

    Args:
        config: as the command line has it.
        plan_path: the plan file.

    Raises:
        UserError: the file cannot be read, or changes something that only a simulation has.
    """
    changes = dict(load_plan(plan_path).changes)
    if changes.pop("paper", False):
        changes["strategy"] = "distreal-paper"
    for key in changes:
        if key not in _LEARNED:
            raise UserError(
                f"{plan_path}: changes {key}, which a real fleet does not take from a plan; it takes "
                f"{', '.join(_LEARNED)}"
            )
    if changes.get("table") is not None:
        changes["table"] = Path(changes["table"])
    if "levels" in changes and changes["levels"] is not None:
        changes["levels"] = tuple(changes["levels"])
    if "optimizer" in changes:
        named = changes["optimizer"]
        changes["optimizer"] = (
            read_optimizer(named) if isinstance(named, str) else msgspec.convert(named, OptimizerSettings)
        )
    return replace(config, **changes)


def plan_overrides(scenario_path: Path, plan_path: Path) -> list[str]:
    """What the plan recommends, as `key=value` for `coordinator.twins.scenario.load_scenario`.

    Raises:
        UserError: a file cannot be read, or the plan was made for another scenario.
    """
    plan = load_plan(plan_path)
    if fleet_digest(scenario_path) != plan.fleet_digest:
        raise UserError(
            f"{plan_path}: was made for {plan.fleet!r} as it was then, and {scenario_path} is another file "
            f"or has been changed: plan anew with `edgetide dse plan {scenario_path}`"
        )
    return [f"{key}={json.dumps(value)}" for key, value in plan.changes.items()]
