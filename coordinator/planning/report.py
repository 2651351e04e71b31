"""A plan in words, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.planning.plan_file import Compared, Plan, Point

NUM_SHOWN = 12
TIE_POINTS = 0.5
"""Nobody notices less."""


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-ready values, with its recommendation in words."""
    return {"recommendation": recommendation(plan), **msgspec.to_builtins(plan)}


def recommendation(plan: Plan) -> str:
    """What to run and what to expect, in plain sentences."""
    best, *others = plan.compared
    said = [f"Run {best.name}: expected accuracy {_band(best.final)} after {plan.rounds} rounds."]
    if not others and plan.cost.simulations:
        said.append(
            "The budget paid for no other candidate: what was chosen rests on what earlier fleets did."
            if plan.num_candidates > 1
            else "There was nothing to choose between."
        )
    if others:
        said.append(f"{_compare(others[0])}.")
    if not plan.cost.simulations:
        said.append("The budget paid for no simulation: this rests on the law of earlier runs alone.")
    if plan.cost.fraction > plan.cost.budget_fraction:
        said.append(
            f"The plan cost {plan.cost.fraction:.0%} of this run's training, more than the "
            f"{plan.cost.budget_fraction:.0%} asked for: the run is cheaper than was thought."
        )
    if best.idle_devices:
        said.append(f"{len(best.idle_devices)} devices can never train with it: {_some(best.idle_devices)}.")
    for weak in plan.weak_classes:
        classes = weak.names or tuple(map(str, weak.labels))
        said.append(
            f"The classes of {_some(weak.groups)} suffer ({_some(classes)}): {weak.accuracy:.0%} in the "
            f"longest simulation, the others {weak.others:.0%}."
        )
    return " ".join(said)


def print_plan(plan: Plan, path: Path) -> None:
    """Show a plan on a terminal."""
    grid = Table(title=f"{plan.fleet}: expected on held-out training samples", title_justify="left")
    grid.add_column("candidate", overflow="fold")
    for heading in ("half-way", f"after {plan.rounds} rounds", "behind, points", "best with", "simulated"):
        grid.add_column(heading, justify="right")
    for one in plan.compared[:NUM_SHOWN]:
        grid.add_row(
            Text(one.name),
            _band(one.at(0.5)),
            _band(one.final),
            f"{one.behind:.1f} ({one.behind_low:.1f} to {one.behind_high:.1f})",
            f"{one.probability_best:.0%}",
            f"{', '.join(map(str, one.rounds_simulated))} rounds" if one.rounds_simulated else "",
        )
    console = Console()
    console.print(grid)
    cost = plan.cost
    console.print(
        f"{plan.num_candidates} candidates, {cost.simulations} simulations in {cost.core_seconds:.0f} s of a "
        f"core: {cost.macs / 1e9:.0f} GMACs of training, {cost.fraction:.1%} of the run's "
        f"{cost.run_macs / 1e9:.0f}",
        style="dim",
        highlight=False,
    )
    console.print(Text(recommendation(plan)))
    console.print(Text(f"edgetide sim run … --plan {path}"), style="dim")


def _compare(runner_up: Compared) -> str:
    text = f"Runner-up is {runner_up.name}: {_band(runner_up.final)}"
    if runner_up.behind_low <= 0.0:
        text += ", which may be as good" if runner_up.behind < TIE_POINTS else ", which may yet be better"
    return text


def _band(point: Point) -> str:
    return f"{point.accuracy:.3f} ({point.low:.3f} to {point.high:.3f})"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
