"""`edgetide dse run`: its options, its progress bar and its report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from firmware_profiles.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dse.run import Outcome
    from dse.settings import SearchSettings
    from dse.site import Run


def run_command(
    out: Annotated[Path, typer.Option(help="The table file to write (YAML).")],
    model: Annotated[str, typer.Option(help="A network of the zoo or an ONNX file.")] = "cnn-28",
    data: Annotated[
        str, typer.Option(help="A name or a path; its test part is never used.")
    ] = "fashion-mnist-small",
    trials: Annotated[int, typer.Option(min=1, help="Trials the study shall have in the end.")] = 200,
    objectives: Annotated[
        str, typer.Option(help="cost,progress or memory,progress or cost,memory,progress.")
    ] = "cost,progress",
    cost: Annotated[Literal["macs", "seconds", "joules"], typer.Option(help="What training costs.")] = "macs",
    profile: Annotated[
        str | None, typer.Option(help="Board that seconds and joules are those of: a name or file.")
    ] = None,
    profile_engine: Annotated[str, typer.Option(help="Engine on that board.")] = "onnx",
    stages: Annotated[
        str, typer.Option(help="Mini-batches of a device before, one number for each stage.")
    ] = "60,240",
    steps: Annotated[int, typer.Option(min=1, help="Mini-batches each device of the round trains.")] = 15,
    devices: Annotated[int, typer.Option(min=1, help="Devices of the round, averaged.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Warm starts of each stage, averaged.")] = 2,
    held_out: Annotated[int, typer.Option(min=1, help="Training samples set aside to measure with.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a mini-batch.")] = 32,
    draw: Annotated[
        Literal["random", "random-per-order", "ordered", "rolling", "importance"],
        typer.Option(help="Which channels a vector keeps."),
    ] = "random",
    learning_rate: Annotated[
        float, typer.Option(min=1e-6, max=1e3, help="Of the training, as on devices.")
    ] = 0.05,
    momentum: Annotated[
        float, typer.Option(min=0.0, max=0.999, help="Of the training, as on devices.")
    ] = 0.9,
    clip_norm: Annotated[float, typer.Option(min=1e-6, max=1e9, help="Largest norm of the gradients.")] = 5.0,
    sampler: Annotated[
        Literal["nsga2", "tpe", "random"],
        typer.Option(help="Bayesian, genetic, or by chance for comparison."),
    ] = "tpe",
    until_stalled: Annotated[
        int | None, typer.Option(min=1, help="End once so many trials bring 1% of hypervolume or less.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes on this machine.")] = 1,
    study: Annotated[
        str | None,
        typer.Option(
            help="URL of the study's database; any number of commands may share it.",
            show_default="beside --out",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The study in it; an existing one goes on.", show_default="by model, data, seed"),
    ] = None,
    warm_starts: Annotated[
        Path | None, typer.Option(help="Folder of the warm starts.", show_default="beside the study")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, torch, onnx, ort-training or numpy.")] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Decides samples, batches and vectors.")
    ] = 0,
    *,
    early_stop: Annotated[
        bool, typer.Option("--early-stop/--measure-all", help="Give up vectors that are clearly behind.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Search the Pareto front of what training costs and the accuracy that short rounds of a fleet gain.

    Ctrl-C leaves a study that the same command goes on with.
    """
    # Heavy: imported when a search is run, so that help and `show` stay quick.
    from dse.costs import make_price  # noqa: PLC0415
    from dse.site import Run  # noqa: PLC0415

    options: dict[str, Any] = {
        "model": model,
        "data": data,
        "trials": trials,
        "objectives": objectives,
        "cost": cost,
        **({} if profile is None else {"profile": profile, "profile-engine": profile_engine}),
        "stages": stages,
        "steps": steps,
        "devices": devices,
        "repeats": repeats,
        "held-out": held_out,
        "batch-size": batch_size,
        "draw": draw,
        "learning-rate": f"{learning_rate:g}",
        "momentum": f"{momentum:g}",
        "clip-norm": f"{clip_norm:g}",
        "sampler": sampler,
        "seed": seed,
        "out": out.name,
    }
    settings = _settings(options)
    if study is None:
        _make_folder(out.parent)
    plan_of_run = Run(
        model=model,
        data=data,
        url=study or f"sqlite:///{out.with_suffix('.db')}",
        name=name or f"{Path(model).stem} on {data}, seed {seed}",
        num_trials=trials,
        engine=engine,
        settings=settings,
        command=" ".join(
            ["edgetide dse run", *(f"--{key} {shlex.quote(str(value))}" for key, value in options.items())]
        ),
        price=make_price(cost, profile, profile_engine),
        sampler=sampler,
        stops_hopeless=early_stop,
        until_stalled=until_stalled,
        num_workers=workers,
        warm_folder=None if warm_starts is None else str(warm_starts),
    )
    outcome = _run(plan_of_run)
    _report(plan_of_run, outcome, out, as_json=as_json)


def _run(plan_of_run: Run) -> Outcome:
    """Load network and data, and search with a progress bar."""
    from dse.run import run  # noqa: PLC0415 - as above
    from models.data.dataset import load_data  # noqa: PLC0415
    from models.zoo import load_model  # noqa: PLC0415
    from models.zoo.initial import initial_weights  # noqa: PLC0415

    seed = plan_of_run.settings.seed
    split = load_data(plan_of_run.data, seed)
    graph, stored = load_model(plan_of_run.model, split.train.shape, split.train.num_classes)
    weights = stored or initial_weights(graph, seed)
    with _progress() as progress:
        try:
            return run(plan_of_run, graph, weights, split, _phases(progress))
        except KeyboardInterrupt:
            raise UserError(
                f"Interrupted. The study '{plan_of_run.name}' keeps what was measured; "
                "the same command goes on."
            ) from None


def _report(plan_of_run: Run, outcome: Outcome, out: Path, *, as_json: bool) -> None:
    import msgspec  # noqa: PLC0415 - as above

    from dse.run import write_table  # noqa: PLC0415
    from dse.show import print_table  # noqa: PLC0415
    from dse.study import shown  # noqa: PLC0415

    write_table(out, outcome.table)
    if as_json:
        report = {
            "out": str(out),
            "study": shown(plan_of_run.url),
            "name": plan_of_run.name,
            "trials": outcome.num_trials,
            "stopped": outcome.num_stopped,
            "measurements": outcome.num_parts,
            "measurements_saved": outcome.num_parts_saved,
            "dropped": outcome.num_dropped,
            "wall_s": round(outcome.wall_s, 3),
            "phases_s": outcome.phases_s,
            "notes": outcome.notes,
            "table": msgspec.to_builtins(outcome.table),
        }
        typer.echo(json.dumps(report))
        return
    print_table(outcome.table)
    for note in outcome.notes:
        typer.echo(note)
    share = outcome.num_parts_saved / max(1, outcome.num_parts + outcome.num_parts_saved)
    typer.echo(
        f"{outcome.num_trials} trials, {outcome.num_stopped} of them stopped early, which saved {share:.0%} "
        f"of the measuring; {outcome.wall_s:.0f} s: {out}"
    )


def _settings(options: dict[str, Any]) -> SearchSettings:
    from dse.settings import SearchSettings  # noqa: PLC0415 - as above
    from models.optim.settings import OptimizerSettings  # noqa: PLC0415

    try:
        stages = tuple(int(part) for part in options["stages"].split(","))
    except ValueError:
        raise UserError(
            f"--stages {options['stages']}: give whole numbers with commas, such as 60,240"
        ) from None
    optimizer = OptimizerSettings(
        learning_rate=float(options["learning-rate"]),
        momentum=float(options["momentum"]),
        clip_norm=float(options["clip-norm"]),
    )
    try:
        return SearchSettings(
            objectives=tuple(options["objectives"].split(",")),
            stages=stages,
            num_steps=options["steps"],
            num_devices=options["devices"],
            num_repeats=options["repeats"],
            num_held_out=options["held-out"],
            batch_size=options["batch-size"],
            draw=options["draw"],
            optimizer=optimizer,
            seed=options["seed"],
        )
    except ValueError as error:
        raise UserError(f"{error}. See edgetide dse run --help.") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}. Give another --out.") from error


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
    """Show each phase of a run as a bar of its own; trials of all workers count."""
    bars: dict[str, Any] = {}
    current = ""

    def on_phase(phase: str, num_done: int, num_total: int) -> None:
        nonlocal current
        if phase != current and current:
            progress.update(bars[current], completed=progress.tasks[bars[current]].total)
        current = phase
        if phase not in bars:
            bars[phase] = progress.add_task(phase, total=num_total, completed=num_done)
        progress.update(bars[phase], completed=num_done, total=num_total)

    return on_phase
