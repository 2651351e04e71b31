"""`edgetide dse`: search for Pareto-optimal dropout vectors, and show what was found."""

from __future__ import annotations

import typer

from dse.run_cli import run_command
from dse.show_cli import plot_command, show_command

app = typer.Typer(
    rich_markup_mode=None,
    name="dse",
    help="Search for the dropout vectors worth choosing, offline, on a strong machine.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def _dse() -> None:
    """Keep `run`, `show` and `plot` subcommands."""


app.command("run")(run_command)


app.command("show")(show_command)
app.command("plot")(plot_command)


if __name__ == "__main__":
    app()
