"""`edgetide dse`: search for Pareto-optimal dropout vectors, and show what was found."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firmware_profiles.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from models.table import ParetoTable

app = typer.Typer(
    rich_markup_mode=None,
    name="dse",
    help="Search for the dropout vectors worth choosing, offline, on a strong machine.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def _dse() -> None:
    """Keep `run` and `show` subcommands."""


@app.command("run")
def run_command(
    out: Annotated[Path, typer.Option(help="The table file to write (YAML).")],
    model: Annotated[str, typer.Option(help="A network of the zoo or an ONNX file.")] = "cnn-28",
    data: Annotated[
        str, typer.Option(help="A name or a path; its test part is never used.")
    ] = "fashion-mnist-small",
    trials: Annotated[int, typer.Option(min=1, help="Trials the study shall have in the end.")] = 200,
    warm_steps: Annotated[int, typer.Option(min=1, help="Mini-batches of full training before.")] = 60,
    steps: Annotated[int, typer.Option(min=1, help="Mini-batches each device of the round trains.")] = 40,
    devices: Annotated[int, typer.Option(min=1, help="Devices of the round, averaged.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Warm starts the gain is averaged over.")] = 2,
    held_out: Annotated[int, typer.Option(min=1, help="Training samples set aside to measure with.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a mini-batch.")] = 32,
    learning_rate: Annotated[
        float, typer.Option(min=1e-6, max=1e3, help="Of the training, as on devices.")
    ] = 0.05,
    momentum: Annotated[
        float, typer.Option(min=0.0, max=0.999, help="Of the training, as on devices.")
    ] = 0.9,
    clip_norm: Annotated[float, typer.Option(min=1e-6, max=1e9, help="Largest norm of the gradients.")] = 5.0,
    study: Annotated[
        str | None, typer.Option(help="URL of the study's database.", show_default="beside --out")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The study in it; an existing one goes on.", show_default="by model, data, seed"),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, torch, onnx, ort-training or numpy.")] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Decides samples, batches and vectors.")
    ] = 0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Search the Pareto front of training MACs and the accuracy that one short round of a fleet gains.

    Ctrl-C leaves a study that the same command goes on with.
    """
    # Heavy: imported when a search is run, so that help and `show` stay quick.
    from dse.objectives import SearchSettings  # noqa: PLC0415
    from dse.run import Run, run, write_table  # noqa: PLC0415
    from models.data.dataset import load_data  # noqa: PLC0415
    from models.optim.optimizer import OptimizerSettings  # noqa: PLC0415
    from models.zoo import load_model  # noqa: PLC0415
    from models.zoo.initial import initial_weights  # noqa: PLC0415

    split = load_data(data, seed)
    graph, stored = load_model(model, split.train.shape, split.train.num_classes)
    weights = stored or initial_weights(graph, seed)
    shown = {
        "model": model,
        "data": data,
        "trials": trials,
        "warm-steps": warm_steps,
        "steps": steps,
        "devices": devices,
        "repeats": repeats,
        "held-out": held_out,
        "batch-size": batch_size,
        "learning-rate": f"{learning_rate:g}",
        "momentum": f"{momentum:g}",
        "clip-norm": f"{clip_norm:g}",
        "seed": seed,
        "out": out.name,
    }
    options = [f"--{key} {shlex.quote(str(value))}" for key, value in shown.items()]
    plan_of_run = Run(
        model=model,
        data=data,
        url=study or f"sqlite:///{out.with_suffix('.db')}",
        name=name or f"{graph.name} on {data}, seed {seed}",
        num_trials=trials,
        engine=engine,
        settings=SearchSettings(
            warm_steps=warm_steps,
            num_steps=steps,
            num_devices=devices,
            num_repeats=repeats,
            num_held_out=held_out,
            batch_size=batch_size,
            optimizer=OptimizerSettings(learning_rate=learning_rate, momentum=momentum, clip_norm=clip_norm),
            seed=seed,
        ),
        command=" ".join(["edgetide dse run", *options]),
    )
    with _progress() as progress:
        try:
            outcome = run(plan_of_run, graph, weights, split, _phases(progress))
        except KeyboardInterrupt:
            raise UserError(
                f"Interrupted. The study '{plan_of_run.name}' in {plan_of_run.url} keeps what was measured; "
                "the same command goes on."
            ) from None
    write_table(out, outcome.table)
    if as_json:
        report = {
            "out": str(out),
            "study": plan_of_run.url,
            "name": plan_of_run.name,
            "trials": outcome.num_trials,
            "dropped": outcome.num_dropped,
            "wall_s": round(outcome.wall_s, 3),
            "table": _as_dict(outcome.table),
        }
        typer.echo(json.dumps(report))
        return
    _print_table(outcome.table)
    typer.echo(f"{outcome.num_trials} trials, {outcome.wall_s:.0f} s: {out}")


@app.command()
def show(
    table: Annotated[Path, typer.Argument(help="A table file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a table of dropout vectors."""
    from models.table import load_table  # noqa: PLC0415 - numpy is not needed for help

    loaded = load_table(table)
    if as_json:
        typer.echo(json.dumps(_as_dict(loaded)))
    else:
        _print_table(loaded)


def _as_dict(table: ParetoTable) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - as above

    return msgspec.to_builtins(table)


def _print_table(table: ParetoTable) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    grid = Table(title=f"{table.model}, batches of {table.batch_size}", title_justify="left")
    for heading in ("kept channels", "MMAC / sample", "of full", "progress", "memory MB", "core ms"):
        grid.add_column(heading, justify="left" if heading == "kept channels" else "right", overflow="fold")
    full_macs = table.entries[-1].macs
    for entry in table.entries:
        grid.add_row(
            " ".join(map(str, entry.vector)),
            f"{entry.macs / 1e6:.2f}",
            f"{entry.macs / full_macs:.0%}",
            f"{entry.progress:.4f}",
            f"{entry.memory_bytes / 1e6:.1f}",
            "" if entry.core_seconds is None else f"{1000 * entry.core_seconds:.2f}",
        )
    console = Console()
    console.print(grid)
    console.print(table.source, markup=False, highlight=False, style="dim")


def _progress() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _phases(progress: Progress) -> Callable[[str, int, int], None]:
    """Show each phase of a run as a bar of its own."""
    bars: dict[str, Any] = {}

    def on_phase(phase: str, num_done: int, num_total: int) -> None:
        if phase not in bars:
            for bar in bars.values():
                progress.update(bar, completed=progress.tasks[bar].total)
            bars[phase] = progress.add_task(phase, total=num_total, completed=num_done)
        progress.update(bars[phase], completed=num_done)

    return on_phase


if __name__ == "__main__":
    app()
