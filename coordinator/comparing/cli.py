"""`edgetide sim compare`: methods x seeds on one or several scenarios."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firmware_profiles.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from coordinator.comparing.compare import Results
    from coordinator.comparing.tables import Grid


def compare_command(
    scenarios: Annotated[list[Path], typer.Argument(help="Scenario files (YAML).")],
    methods: Annotated[
        Path | None, typer.Option(help="YAML file of methods: each name with the keys it changes.")
    ] = None,
    strategies: Annotated[
        list[str] | None,
        typer.Option("--strategy", help="A strategy as a method, by its own name; repeatable."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Such as 0-4 or 0,2,5-7.", show_default="the scenario's")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Methods to run, as in full,fjord.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Method the others are compared with.", show_default="the first")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="results, beside the scenario")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time.", show_default="cores")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, overrides files and methods.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Run methods x seeds side by side, paired by seed; the same command goes on where it was ended.

    Writes tables (summary.md, .csv, .json, runs.csv) and plots (accuracy.html, .png).
    """
    # Heavy: imported when runs are compared, so that help stays quick.
    from coordinator.comparing.compare import compare  # noqa: PLC0415
    from coordinator.comparing.plan import parse_seeds  # noqa: PLC0415
    from coordinator.comparing.progress import progress_watch  # noqa: PLC0415

    if methods and strategies:
        raise UserError("--methods and --strategy both say what runs: give one of them")
    began_s = time.perf_counter()
    with progress_watch() as watch:
        try:
            results = compare(
                scenarios,
                methods=methods
                or ({name: {"strategy": name} for name in strategies} if strategies else None),
                seeds=None if seeds is None else parse_seeds(seeds),
                only=[name.strip() for name in only.split(",")] if only else (),
                overrides=overrides or (),
                reference=reference,
                out=out,
                num_workers=workers,
                watch=watch,
            )
        except KeyboardInterrupt:
            raise UserError("Interrupted. What is finished is kept; the same command goes on.") from None
    paths = _write(results) if results.scenarios else {}
    if as_json:
        typer.echo(json.dumps(_report(results, paths, round(time.perf_counter() - began_s, 3))))
    else:
        _print(results, paths)
    if results.failures:
        raise UserError(_failed(results))


def _report(results: Results, paths: dict[str, str], wall_s: float) -> dict[str, Any]:
    from coordinator.comparing.report import as_json  # noqa: PLC0415 - as above

    return {**as_json(results), "paths": paths, "wall_s": wall_s}


def _write(results: Results) -> dict[str, str]:
    from coordinator.comparing.plots import draw  # noqa: PLC0415 - as above
    from coordinator.comparing.report import write_reports  # noqa: PLC0415

    pictures: list[Path] = []
    try:
        try:
            pictures = draw(results)
        except UserError as error:  # the numbers are worth more than their picture
            sys.stderr.write(f"{error}\n")
        return {**write_reports(results, pictures), **{path.name: str(path) for path in pictures}}
    except OSError as error:
        raise UserError(
            f"the summary cannot be written to {results.folder}: {error.strerror or error}; finished runs "
            "are kept, the same command goes on"
        ) from error


def _print(results: Results, paths: dict[str, str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415

    from coordinator.comparing.tables import grids, headline, notes  # noqa: PLC0415

    console = Console()
    for name, summary in results.scenarios.items():
        console.rule(Text(name))
        console.print(headline(summary), markup=False, highlight=False)
        for grid in grids(summary):
            console.print(_as_table(grid))
    for note in notes() if results.scenarios else ():
        console.print(note, markup=False, highlight=False, style="dim")
    for path in paths.values():
        console.print(path, markup=False, highlight=False, soft_wrap=True)


def _as_table(grid: Grid) -> Table:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text(grid.title), title_justify="left", box=SIMPLE_HEAD)
    for index, heading in enumerate(grid.headings):
        table.add_column(Text(heading), justify="right" if index else "left", overflow="fold")
    for row in grid.rows:
        # What belongs together stays on one line of a narrow terminal, which breaks at spaces.
        table.add_row(Text(row[0]), *(Text(cell.replace(" ± ", "±").replace(", ", ",")) for cell in row[1:]))
    return table


def _failed(results: Results) -> str:
    num_runs = results.num_stored + results.num_ran + len(results.failures)
    told = [f"  {failure.run}: {failure.reason}" for failure in results.failures[:10]]
    more = [f"  and {len(results.failures) - 10} more"] if len(results.failures) > 10 else []
    return "\n".join([f"{len(results.failures)} of {num_runs} runs failed:", *told, *more])
