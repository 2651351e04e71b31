"""`edgetide agent bench`: times this board, fits a cost model, and rewrites a table's seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from device_agent.bench import Calibration
    from firmware_profiles.resources import Snapshot
    from models.bundle import Bundle

# What needs numpy or an engine is imported inside: `edgetide --help` must stay light.
# ruff: noqa: PLC0415

OTHERS_FRACTION = 0.1
"""Above this share of the CPU in others' hands the figures are doubtful."""

_SLOWER_CLOCK = 0.95
_PEAK_UNIT_BYTES = 1024  # of ru_maxrss on Linux


def bench(
    model: Annotated[
        str, typer.Option(help="A network of the zoo, an ONNX file, or a bundle of the agent's.")
    ] = "cnn-28",
    data: Annotated[
        str | None, typer.Option(help="A name or a path.", show_default="random numbers of the right shape")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, torch, onnx, ort-training or numpy.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine, as the agent's.")] = 1,
    table: Annotated[
        Path | None, typer.Option(help="Table file whose vectors are timed.", show_default="the model's own")
    ] = None,
    vectors: Annotated[
        int, typer.Option(min=2, max=200, help="Vectors to fit to; as many others validate.")
    ] = 8,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Passes over all of them.")] = 9,
    profile_out: Annotated[
        Path | None, typer.Option(help="Write a firmware profile with the measured speed (YAML).")
    ] = None,
    table_out: Annotated[
        Path | None, typer.Option(help="Write the table with the seconds of every entry (YAML).")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, as the last line.")] = False,
) -> None:
    """Time the training step on this board, fit a cost model, and say how well it predicts.

    Leave the board alone while it runs; cool it as it will be cooled at work.
    """
    import json

    from device_agent import bench_files as files
    from device_agent.bench import calibrate
    from device_agent.bench_subject import load_samples, load_subject, make_mini_batch
    from device_agent.sensors import Sensors
    from firmware_profiles.profile import detect_profile
    from models.engines.choose import make_engine

    files.refuse_existing(profile_out, "--profile-out", force=force)
    files.refuse_existing(table_out, "--table-out", force=force)
    name = None if profile_out is None else files.profile_name(profile_out)
    samples = load_samples(data)
    bundle = load_subject(model, table, samples)
    inputs, targets = make_mini_batch(bundle, samples)
    made = make_engine(engine, bundle.graph, bundle.settings.loss, threads, bundle.artifacts)
    sensors = Sensors(interval_s=0.0, window_s=1e9)  # others' use of the CPU is that of the whole time
    before, memory_before = sensors.read(), _peak_bytes()
    found = calibrate(
        bundle,
        made,
        inputs=inputs,
        targets=targets,
        num_vectors=vectors,
        num_repeats=repeats,
        num_threads=threads,
        on_progress=_progress,
    )
    after = sensors.read()
    basis = _basis(bundle, made.name, threads, found, files.describe_state(before, after))
    if profile_out is not None and name is not None:
        board = files.measured_profile(
            detect_profile(),
            made.name,  # type: ignore[arg-type] (an engine's name is one of EngineName)
            found,
            name=name,
            num_cores=before.num_cores,
            basis=basis,
        )
        files.write_profile(profile_out, board, force=force)
    rewritten = files.measured_table(found.table, basis)
    if table_out is not None:
        files.write_table(table_out, rewritten, force=force)
    report = {
        **_as_dict(bundle, made.name, threads, found, before, after),
        "memory_before_bytes": memory_before,
        "memory_peak_bytes": _peak_bytes(),
        "profile_out": None if profile_out is None else str(profile_out),
        "table_out": None if table_out is None else str(table_out),
        "source": rewritten.source,
    }
    for warning in report["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _show(report, found)


def doubts(before: Snapshot, after: Snapshot, found: Calibration) -> list[str]:
    """What may have spoilt the figures, each with what to do; empty where nothing is known of."""
    made = []
    others = after.cpu_others_fraction
    if others is not None and others > OTHERS_FRACTION:
        made.append(f"other processes used {others:.0%} of the CPU meanwhile; stop them and repeat")
    if before.throttled or after.throttled:
        made.append("the board throttled itself; better cooling or power makes other figures")
    if before.clock_hz and after.clock_hz and after.clock_hz < _SLOWER_CLOCK * before.clock_hz:
        made.append(
            f"the clock fell from {before.clock_hz / 1e6:.0f} to {after.clock_hz / 1e6:.0f} MHz; "
            "repeat when it is steady"
        )
    timings = (*found.fitted, *found.validated)
    disturbed = sum(timing.num_disturbed for timing in timings)
    if disturbed > sum(timing.num_steps for timing in timings):
        made.append(f"{disturbed} steps lost their core to others and were left out; stop them and repeat")
    if not found.validated:
        made.append(
            f"the table has {len(found.table.entries)} entries, too few to set some aside: the errors are of "
            "each measured vector as predicted from the others"
        )
    return made


def _basis(bundle: Bundle, engine: str, threads: int, found: Calibration, state: str) -> str:
    from datetime import datetime, timezone

    day = datetime.now(timezone.utc).date().isoformat()
    num_timed = len(found.fitted) + len(found.validated)
    return (
        f"measured {day} by edgetide agent bench: {bundle.graph.name}, {engine} {_version(engine)}, "
        f"{threads} thread{'' if threads == 1 else 's'}, mini-batches of {bundle.table.batch_size}, "
        f"{num_timed} vectors; error of predictions median {found.median_error:.1%}, "
        f"worst {found.worst_error:.1%}" + (f"; {state}" if state else "")
    )


def _as_dict(
    bundle: Bundle, engine: str, threads: int, found: Calibration, before: Snapshot, after: Snapshot
) -> dict[str, Any]:
    from dataclasses import asdict

    sensed = ("temperature_celsius", "throttled", "clock_hz", "cpu_others_fraction")
    return {
        "model": bundle.graph.name,
        "batch_size": bundle.table.batch_size,
        "engine": engine,
        "engine_version": _version(engine),
        "threads": threads,
        "coefficients": asdict(found.coefficients),
        "exact_coefficients": asdict(found.exact_coefficients),
        "median_error": found.median_error,
        "worst_error": found.worst_error,
        "fitted": [asdict(timing) for timing in found.fitted],
        "validated": [asdict(timing) for timing in found.validated],
        "errors": list(found.errors),
        "core_seconds": [entry.core_seconds for entry in found.table.entries],
        "before": {key: getattr(before, key) for key in sensed},
        "after": {key: getattr(after, key) for key in sensed},
        "warnings": doubts(before, after, found),
    }


def _show(report: dict[str, Any], found: Calibration) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(
        title=f"{report['model']} on {report['engine']} {report['engine_version']}, "
        f"{report['threads']} thread(s), mini-batches of {report['batch_size']}",
        title_justify="left",
    )
    for heading in ("kept channels", "core ms", "steps", "used to", "error"):
        grid.add_column(heading, justify="left" if heading == "kept channels" else "right")
    errors = dict(zip((t.vector for t in found.validated or found.fitted), found.errors, strict=True))
    for use, timings in (("fit", found.fitted), ("validate", found.validated)):
        for timing in timings:
            error = errors.get(timing.vector)
            grid.add_row(
                " ".join(map(str, timing.vector)),
                f"{1000 * timing.core_seconds:.2f}",
                str(timing.num_steps),
                use,
                "" if error is None else f"{error:.1%}",
            )
    console = Console()
    console.print(grid)
    made = found.coefficients
    filled = "" if made.channel_block == 1 else f", channels filled up to {made.channel_block}"
    console.print(
        f"core seconds = {made.core_seconds_per_step:.3g} + {made.core_seconds_per_mac:.3g} x MACs{filled} + "
        f"{made.core_seconds_per_activation_byte:.3g} x activation bytes",
        highlight=False,
    )
    console.print(
        f"error of predictions: median {found.median_error:.1%}, worst {found.worst_error:.1%}; "
        f"peak memory {report['memory_peak_bytes'] / 1e6:.0f} MB"
        if report["memory_peak_bytes"]
        else f"error of predictions: median {found.median_error:.1%}, worst {found.worst_error:.1%}",
        highlight=False,
    )
    for key in ("profile_out", "table_out"):
        if report[key]:
            console.print(f"written: {report[key]}", markup=False, highlight=False)


def _progress(done: int, total: int) -> None:
    typer.echo(f"\rpass {done}/{total}", err=True, nl=done == total)


def _peak_bytes() -> int | None:
    """Most memory this process ever had resident; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT_BYTES


def _version(engine: str) -> str:
    from importlib.metadata import packages_distributions, version

    module = engine if engine in ("torch", "numpy") else "onnxruntime"
    packages = packages_distributions().get(module, ())  # the training build brings the same module
    return version(packages[0]) if packages else "of unknown version"
