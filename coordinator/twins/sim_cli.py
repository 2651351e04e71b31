"""`edgetide sim run`: one scenario on the virtual clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        "accuracy on held-out data": f"{_percent(result.accuracy)} ({result.measured_on})",
        "core-seconds used of those granted": _percent(result.budget_used_fraction),
        "virtual time": f"{result.virtual_s:.0f} s in {wall_s:.1f} s",
        "rounds": f"{result.rounds} of {result.round_s:.3g} s",
        "engine": result.engine,
        "updates applied / expired / refused": f"{result.client_updates} / {result.updates_expired} / "
        f"{result.updates_refused}",
        "training MACs": f"{result.macs / 1e9:.1f} G",
        "sent": f"{result.bytes_sent / 1e6:.1f} MB in {result.messages_sent} messages",
        **_exchange_rows(result),
        **_stream_rows(result),
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


def _stream_rows(result: SimResult) -> dict[str, str]:
    """Of a strategy that learns from streams."""
    seen = result.streams
    if seen is None:
        return {}
    return {
        "F1, mean of the classes": _percent(seen["f1"]),
        "samples predicted and learned": str(seen["samples"]),
        "bytes a sample and device, sent / received": f"{seen['sent_bytes_per_sample']} / "
        f"{seen['received_bytes_per_sample']}",
    }


def _exchange_rows(result: SimResult) -> dict[str, str]:
    """Of a strategy without a server."""
    seen = result.peers
    if seen is None:
        return {}
    mean, least = result.node_accuracy_curve[-1][1:] if result.node_accuracy_curve else (None, None)
    windows = seen["consensus_distance"]
    distance = windows[-1]["distance"] if windows else None
    begun, completed, taken_back, one_sided = (sum(link[at] for link in seen["links"]) for at in range(2, 6))
    return {
        "accuracy of devices' own models": f"mean {_percent(mean)}, least {_percent(least)}",
        "consensus distance": "-" if distance is None else f"{distance:.4g}",
        "exchanges begun / completed": f"{begun} / {completed}",
        "exchanges taken back / one-sided": f"{taken_back} / {one_sided}",
        "barriers of a device": f"{min(seen['barriers'])} to {max(seen['barriers'])}",
    }


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
