"""What `edgetide dse plan` chooses for a cell of the DISTREAL study: a method that runs beside the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.distreal_cells import Cell
from coordinator.comparing.plan import slug
from coordinator.planning.plan_cli import plan_command
from coordinator.planning.plan_file import Plan, fleet_digest, load_plan
from coordinator.planning.planned_fleet import PlanSettings
from coordinator.twins.scenario import load_scenario

PLANNED = "planned"
"""The method's name."""


def planned(cell: Cell, folder: Path, num_workers: int | None) -> dict[str, Any]:
    """Keys of the scenario as the plan changes them; a plan that is there is not made again.

    Args:
        cell: to plan.
        folder: of scenarios, plans and their simulations.
        num_workers: processes at a time; None: the cores.
    """
    plan = plan_of(cell, folder, num_workers)
    print(
        f"{cell.name}: planned {plan.recommended}, at {plan.cost.fraction:.1%} of the run's training",
        file=sys.stderr,
    )
    return plan.changes


def is_planned(cell: Cell, folder: Path) -> bool:
    """Whether the cell's plan is there."""
    return _files(cell, folder)[1].exists()


def plan_of(cell: Cell, folder: Path, num_workers: int | None) -> Plan:
    """The plan of a cell's scenario, made by `edgetide dse plan`'s own function unless it is there already.

    Args:
        cell: whose fleet is planned for.
        folder: of scenarios and plans. A plan of another scenario under the cell's name is made anew.
        num_workers: processes at a time; None: the cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fleet, out = _files(cell, folder)
    scenario = msgspec.to_builtins(load_scenario(cell.path, list(cell.overrides)))
    fleet.write_text(yaml.safe_dump(scenario, sort_keys=False))
    if not out.exists() or load_plan(out).fleet_digest != fleet_digest(fleet):
        plan_command(fleet, PlanSettings(), out=out, num_workers=num_workers, as_json=True)
    return load_plan(out)


def _files(cell: Cell, folder: Path) -> tuple[Path, Path]:
    """The scenario's and the plan's."""
    name = slug(cell.name)
    return folder / f"{name}.yaml", folder / f"{name}.plan.yaml"
