"""`edgetide dse show` and `edgetide dse plot`: look at a table, its search and its fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firmware_profiles.errors import UserError

if TYPE_CHECKING:
    from dse.trial import StudyTrials
    from models.table import ParetoTable

TableFile = Annotated[Path, typer.Argument(help="A table file.")]
StudyUrl = Annotated[str | None, typer.Option(help="URL of the search's database (see `dse run --study`).")]
StudyName = Annotated[str | None, typer.Option(help="The study in it, if there are several.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def show_command(
    table: TableFile,
    study: StudyUrl = None,
    name: StudyName = None,
    profile: Annotated[
        str | None, typer.Option(help="A board, by name or file: what does each entry take there?")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Whose speed counts on the board.", show_default="onnx")
    ] = None,
    cpu_share: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of all its cores.")] = 1.0,
    seconds_per_batch: Annotated[
        float | None, typer.Option(min=1e-6, help="A mini-batch may take so long: which entries fit?")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show a table: what each entry keeps, costs and brings, and which ones a board's budget takes."""
    # Heavy: imported when something is shown, so that help stays quick.
    from dse.show import make_board, print_table, to_json  # noqa: PLC0415
    from firmware_profiles.profile import load_profile  # noqa: PLC0415
    from models.table import load_table  # noqa: PLC0415

    if profile is None and (seconds_per_batch is not None or engine is not None):
        raise UserError("Say on which board: --profile with a name or a file.")
    loaded = load_table(table)
    trials = _trials(study, name)
    board = None
    if profile is not None:
        board = make_board(load_profile(profile), engine, cpu_share, seconds_per_batch)
    if as_json:
        typer.echo(json.dumps(to_json(loaded, trials, board)))
    else:
        print_table(loaded, trials, board)


def plot_command(
    table: TableFile,
    study: StudyUrl = None,
    name: StudyName = None,
    devices: Annotated[
        str | None,
        typer.Option(help="The fleet: http://host:port of its page, or a file of its /api/v1/fleet."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    png: Annotated[bool, typer.Option("--png", help="Only PNG files.")] = False,  # noqa: FBT002 - a flag
    html: Annotated[bool, typer.Option("--html", help="Only the interactive HTML file.")] = False,  # noqa: FBT002
    *,
    as_json: Json = False,
) -> None:
    """Plot a table: its Pareto front, what each layer keeps, the search's hypervolume, the live devices.

    By default both an HTML file that works without a network and PNG files are written.
    """
    from dse.live import read_fleet  # noqa: PLC0415 - as above
    from dse.plot_data import prepare  # noqa: PLC0415
    from models.table import load_table  # noqa: PLC0415

    loaded = load_table(table)
    data = prepare(
        loaded,
        study=_trials(study, name),
        fleet=None if devices is None else read_fleet(devices),
        group_names=_group_names(loaded),
    )
    try:
        from dse.plots_html import write_html  # noqa: PLC0415
        from dse.plots_png import write_pngs  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"Plots are drawn with plotly and matplotlib: install edgetide[dse] ({error})."
        ) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder: {error.strerror}. Give another --out.") from error
    files: list[Path] = []
    if html or not png:
        files.append(write_html(data, out / f"{table.stem}.html"))
    if png or not html:
        files += write_pngs(data, out, table.stem)
    if as_json:
        typer.echo(json.dumps({"files": [str(file) for file in files]}))
    else:
        for file in files:
            typer.echo(str(file))


def _trials(url: str | None, name: str | None) -> StudyTrials | None:
    if url is None:
        if name is not None:
            raise UserError(f"Say in which database study {name!r} is: --study with its URL.")
        return None
    try:
        from dse.trials import read_trials  # noqa: PLC0415 - imports optuna
    except ImportError as error:
        raise UserError(f"Studies are read with optuna: install edgetide[dse] ({error}).") from error
    return read_trials(url, name)


def _group_names(table: ParetoTable) -> list[str] | None:
    """Names of the width groups, if the network is one that comes with edgetide."""
    from models.widths import plan_widths  # noqa: PLC0415 - as above
    from models.zoo import ZOO, load_model  # noqa: PLC0415

    if table.model not in ZOO:
        return None
    try:
        graph, _weights = load_model(table.model)
    except UserError:  # without the package onnx there are no names
        return None
    groups = plan_widths(graph).groups
    # For other input shapes, and narrower, its groups still have the same names.
    return [group.name for group in groups] if len(groups) == len(table.entries[-1].vector) else None
