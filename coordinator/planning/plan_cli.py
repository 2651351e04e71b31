"""`edgetide dse plan`: choose what a fleet should run, before the roll-out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from coordinator.comparing.compare import available_cores
from coordinator.comparing.runs import Now, Start, start_process
from coordinator.comparing.store import open_folder, write_whole
from coordinator.planning.candidates import default_candidates, read_candidates
from coordinator.planning.evaluate import make_evaluate
from coordinator.planning.plan import make_plan
from coordinator.planning.plan_file import dump_plan, fleet_digest
from coordinator.planning.planned_fleet import PlanSettings
from coordinator.planning.plots import write_html, write_png
from coordinator.planning.report import as_json as plan_as_json
from coordinator.planning.report import print_plan
from coordinator.twins.scenario import load_scenario
from firmware_profiles.errors import UserError


def plan_command(
    fleet: Path,
    settings: PlanSettings,
    *,
    out: Path | None = None,
    candidates: Path | None = None,
    methods: str = "default",
    num_workers: int | None = None,
    html: Path | None = None,
    png: Path | None = None,
    as_json: bool = False,
    start: Start = start_process,
) -> None:
    """Plan a fleet, write the plan file and say what it recommends.

    Args:
        fleet: scenario file.
        settings: how to plan.
        out: plan file; beside the scenario by default. The simulations' results stay in a folder beside it.
        candidates: a file of candidates, in place of the usual ones.
        methods: `default`, or `all` for the published methods of sub-networks too.
        num_workers: processes; the cores we may use by default.
        html: plot to write.
        png: as well.
        as_json: print one JSON object as the last line of stdout, instead of tables.
        start: how a simulation is started.

    Raises:
        UserError: a file or an option cannot be used, or the budget is too small.
    """
    if methods not in {"default", "all"}:
        raise UserError(f"--methods {methods}: choose default or all; --candidates takes a list of your own")
    scenario = load_scenario(fleet)
    chosen = (
        read_candidates(candidates, scenario)
        if candidates
        else default_candidates(scenario, all_methods=methods == "all")
    )
    out = out or fleet.with_suffix(".plan.yaml")
    open_folder(out.resolve().parent)
    evaluate = make_evaluate(
        out.resolve().parent / f"{out.name.removesuffix('.yaml')}-runs",
        num_workers=num_workers or available_cores(),
        watch=_watch,
        start=start,
    )
    plan = make_plan(scenario, fleet_digest(fleet), chosen, settings, evaluate, _say)
    write_whole(out, dump_plan(plan).encode())
    for path, write in ((html, write_html), (png, write_png)):
        if path is not None:
            write(plan, path)
    if as_json:
        typer.echo(json.dumps({"plan": str(out), **plan_as_json(plan)}))
    else:
        print_plan(plan, out)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _watch(now: Now) -> None:
    if now.finished is not None:
        ended = f"failed: {now.reason.splitlines()[0]}" if now.reason else f"{now.wall_s:.0f} s"
        _say(f"  {now.finished.method}: {ended}")
