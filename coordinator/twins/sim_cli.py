"""`edgetide sim`: run a scenario, or several side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from coordinator.twins.result import SimResult, to_json
from coordinator.twins.scenario import Scenario, load_scenario
from coordinator.twins.simulator import Moment, simulate

LINE_S = 5.0
"""How often a line is written where there is no terminal."""

COMPARED_FRACTIONS = (0.25, 0.5, 1.0)
"""Shares of the longest run's virtual time at which runs are compared."""


def run_scenario_command(scenario: Path, overrides: list[str], seed: int | None, *, as_json: bool) -> None:
    """Run a scenario and print what came of it.

    Args:
        scenario: YAML file.
        overrides: `key=value`, applied in order.
        seed: replaces the scenario's.
        as_json: print one JSON object as the last line of stdout, instead of tables.

    Raises:
        UserError: the scenario or an override cannot be used.
    """
    began_s = time.perf_counter()
    result = _run(load_scenario(scenario, overrides), seed)
    wall_s = round(time.perf_counter() - began_s, 3)
    if as_json:
        typer.echo(json.dumps({**to_json(result), "wall_s": wall_s}))
    else:
        _print_result(result, wall_s)


def compare_scenarios_command(
    paths: list[Path],
    seed: int | None,
    *,
    as_json: bool,
    overrides: Sequence[str] = (),
    strategies: Sequence[str] = (),
) -> None:
    """Run several scenarios, or each under several strategies, and print them side by side.

    Args:
        paths: YAML files.
        seed: replaces the seed of all.
        as_json: print one JSON object as the last line of stdout, instead of a table.
        overrides: `key=value`, applied to all.
        strategies: instead of the scenarios' own.

    Raises:
        UserError: a scenario or an override cannot be used.
    """
    began_s = time.perf_counter()
    scenarios = [load_scenario(path, list(overrides)) for path in paths]
    variants = [
        msgspec.structs.replace(scenario, strategy=strategy)
        for scenario in scenarios
        for strategy in strategies or (scenario.strategy,)
    ]
    rows = compare_rows([_run(variant, seed) for variant in variants])
    wall_s = round(time.perf_counter() - began_s, 3)
    if as_json:
        typer.echo(json.dumps({"rows": rows, "wall_s": wall_s}))
    else:
        _print_comparison(rows)


def compare_rows(results: Sequence[SimResult]) -> list[dict[str, Any]]:
    """One row a run, JSON-ready; `accuracy_at` has [virtual second, accuracy] at the same times for all."""
    longest_s = max(result.virtual_s for result in results)
    rows = []
    for result in results:
        times_s = [round(fraction * longest_s, 3) for fraction in COMPARED_FRACTIONS]
        told = to_json(result)
        del told["devices"]
        rows.append({**told, "accuracy_at": [[time_s, result.accuracy_at(time_s)] for time_s in times_s]})
    return rows


def _run(scenario: Scenario, seed: int | None) -> SimResult:
    with _screen(f"{scenario.name} · {scenario.strategy}") as show:
        return simulate(scenario, seed, show)


@contextmanager
def _screen(title: str) -> Iterator[Callable[[Moment], None]]:
    """Show progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        shown_s = time.monotonic()

        def line(moment: Moment) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= LINE_S:
                shown_s = time.monotonic()
                console.print(f"{title}  {_told(moment)}", markup=False, highlight=False, soft_wrap=True)

        yield line
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[told]}")
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, told="", total=None)
        yield lambda moment: bar.update(
            task, total=moment.num_rounds, completed=moment.round - 1, told=_told(moment)
        )


def _told(moment: Moment) -> str:
    states = ", ".join(f"{count} {state}" for state, count in moment.states.items())
    return (
        f"round {moment.round}/{moment.num_rounds}  t = {moment.virtual_s:.0f} s  "
        f"accuracy {_percent(moment.accuracy)}  {moment.steps} steps  {states}"
    )


def _print_result(result: SimResult, wall_s: float) -> None:
    console = Console()
    table = Table(title=f"{result.scenario} · {result.strategy} · seed {result.seed}", show_header=False)
    rows = {
        "accuracy on held-out data": _percent(result.accuracy),
        "virtual time": f"{result.virtual_s:.0f} s in {wall_s:.1f} s",
        "rounds": str(result.rounds),
        "engine": result.engine,
        "updates applied / expired / refused": f"{result.client_updates} / {result.updates_expired} / "
        f"{result.updates_refused}",
        "training MACs": f"{result.macs / 1e9:.1f} G",
        "sent": f"{result.bytes_sent / 1e6:.1f} MB in {result.messages_sent} messages",
        "weights": result.weights_digest[:16],
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)
    curve = Table(title="Accuracy")
    for name in ("virtual s", "accuracy"):
        curve.add_column(name, justify="right")
    for time_s, accuracy in result.accuracy_curve:
        curve.add_row(f"{time_s:.1f}", _percent(accuracy))
    console.print(curve)
    shares = Table(title="Share of each vector (kept channels by width group)")
    for name in ("vector", "mini-batches"):
        shares.add_column(name)
    for vector, share in list(result.vector_shares.items())[:12]:
        shares.add_row(vector if len(vector) <= 60 else f"{vector[:57]}…", _percent(share))
    console.print(shares)
    devices = Table(title="Devices")
    devices.add_column("device", no_wrap=True)
    for name in ("updates", "batches", "GMACs", "sent MB", "paused s", "first pause"):
        devices.add_column(name)
    for device in result.devices[:32]:
        devices.add_row(
            device.id,
            str(device.updates),
            str(device.steps),
            f"{device.macs / 1e9:.1f}",
            f"{device.bytes_sent / 1e6:.2f}",
            f"{device.paused_s:.0f}",
            Text(f"{device.pauses[0][0]:.0f} s: {device.pauses[0][1]}" if device.pauses else ""),
        )
    console.print(devices)


def _print_comparison(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Accuracy after equal virtual time")
    for name in ("scenario", "strategy"):
        table.add_column(name)
    for time_s, _ in rows[0]["accuracy_at"]:
        table.add_column(f"{time_s:.0f} s", justify="right")
    for name in ("virtual s", "GMACs", "sent MB", "updates"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(row["scenario"]),
            row["strategy"],
            *[_percent(accuracy) for _, accuracy in row["accuracy_at"]],
            f"{row['virtual_s']:.0f}",
            f"{row['macs'] / 1e9:.1f}",
            f"{row['bytes_sent'] / 1e6:.1f}",
            str(row["client_updates"]),
        )
    Console().print(table)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
