"""`edgetide agent profile`: what this board is, has and would give to training now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from device_agent.sensors import Sensors
from firmware_profiles.errors import UserError
from firmware_profiles.grant import grant
from firmware_profiles.policy import Policy, load_policy, policy_digest
from firmware_profiles.profile import FirmwareProfile, detect_profile
from firmware_profiles.resources import Budget, Pause, Snapshot, Task

# No job runs here: the share and the memory of a grant do not depend on the task.
_NO_TASK = Task(time_left_s=0.0, num_batches_left=1)
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Report:
    """One look at the board: what it is, what it has, what its owner allows, what that grants."""

    profile: FirmwareProfile
    snapshot: Snapshot
    policy: Policy
    granted: Budget | Pause


def look(profile: FirmwareProfile, snapshot: Snapshot, policy: Policy) -> Report:
    """Weigh one snapshot."""
    return Report(profile, snapshot, policy, grant(profile, snapshot, policy, _NO_TASK))


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data; `budget` or `pause` is null, never both."""
    granted = report.granted
    budget = None
    if isinstance(granted, Budget):
        budget = {"cpu_share_fraction": granted.cpu_share_fraction, "memory_bytes": granted.memory_bytes}
    return {
        "profile": report.profile.name,
        "board": report.profile.board,
        "policy": msgspec.to_builtins(report.policy),
        "policy_digest": policy_digest(report.policy),
        "snapshot": asdict(report.snapshot),
        "budget": budget,
        "pause": granted.reason if isinstance(granted, Pause) else None,
    }


def as_table(report: Report) -> Table:
    """The report for people."""
    table = Table(title=f"{report.profile.board} [dim]({report.profile.name})[/dim]", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, attribute, show in _ROWS:
        value = getattr(report.snapshot, attribute)
        table.add_row(label, "[dim]not known[/dim]" if value is None else show(value))
    table.add_section()
    granted = report.granted
    if isinstance(granted, Pause):
        table.add_row("training", f"[yellow]pauses[/yellow]: {granted.reason}")
    else:
        cores = granted.cpu_share_fraction * report.snapshot.num_cores
        table.add_row(
            "training may take", f"{_percent(granted.cpu_share_fraction)} of the CPU = {cores:.2f} cores"
        )
        table.add_row("", f"{_mebibytes(granted.memory_bytes)} of memory")
    return table


def profile(
    *,
    once: Annotated[bool, typer.Option("--once", help="Look once and exit; so it does in a pipe.")] = False,
    as_json_line: Annotated[bool, typer.Option("--json", help="Look once, print one JSON object.")] = False,
    root: Annotated[Path, typer.Option(help="Where proc and sys are; a captured tree works too.")] = Path(
        "/"
    ),
    policy: Annotated[
        Path | None, typer.Option(help="Policy file (YAML); without it the default policy.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Show what this board is, what it has now, and what training may take of it."""
    if not root.is_dir():
        raise UserError(f"--root {root} is not a folder; give the folder that holds proc and sys")
    in_force = Policy() if policy is None else load_policy(policy)
    board, sensors = detect_profile(root), Sensors(root, interval_s=0.0)

    def take() -> Report:
        return look(board, sensors.read(), in_force)

    if once or as_json_line or not Console().is_terminal:  # a pipe would see nothing of the live table
        take()
        time.sleep(min(interval, 1.0))  # others' use of the CPU is known between two readings
        report = take()
        if as_json_line:
            typer.echo(msgspec.json.encode(as_json(report)).decode())
        else:
            Console().print(as_table(report))
        return
    with contextlib.suppress(KeyboardInterrupt):
        _watch(take, interval, Live(console=Console(), auto_refresh=False))


def _watch(take: Callable[[], Report], interval_s: float, live: Live) -> None:
    with live:
        while True:
            shown: RenderableType = as_table(take())
            live.update(shown, refresh=True)
            time.sleep(interval_s)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:,.0f} MiB"


def _time(hour_of_day: float) -> str:
    minutes = int(hour_of_day * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _yes_or_no(value: bool) -> str:  # noqa: FBT001 - it shows a value
    return "yes" if value else "no"


_ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("cores", "num_cores", str),
    ("CPU used by others", "cpu_others_fraction", _percent),
    ("agents on this machine", "cohort_size", str),
    ("memory available", "memory_available_bytes", _mebibytes),
    ("memory of this process", "memory_own_bytes", _mebibytes),
    ("battery", "battery_fraction", _percent),
    ("external power", "charging", _yes_or_no),
    ("temperature", "temperature_celsius", lambda value: f"{value:.1f} °C"),
    ("throttled", "throttled", _yes_or_no),
    ("clock", "clock_hz", lambda value: f"{value / 1e6:,.0f} MHz"),
    ("local time", "hour_of_day", _time),
)
