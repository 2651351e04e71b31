"""What `edgetide up` shows in the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_S = 5.0
"""How often a line is written where there is no terminal."""

Cell = str | Text
Columns = Mapping[str, Callable[[dict[str, Any]], Cell]]

_STATE_STYLE = {
    "training": "green",
    "reporting": "cyan",
    "fetching": "cyan",
    "paused": "yellow",
    "lost": "red",
    "offline": "red",
    "silent": "red",
}


class Screen:
    """Shows a fleet on stderr for the time of its `with` block."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None
        self._line_s = 0.0

    def __enter__(self) -> Screen:  # noqa: PYI034 - typing.Self is younger than Python 3.10
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Write one line that stays."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def show(self, view: dict[str, Any], curve: list[dict[str, Any]]) -> None:
        """Show the fleet as `coordinator.fleet.to_json` gives it, with the model versions so far."""
        if self._live is not None:
            self._live.update(Group(_head(view, curve), devices_table(view)))
        elif time.monotonic() - self._line_s >= LINE_S:
            self._line_s = time.monotonic()
            self.say(one_line(view))


def one_line(view: dict[str, Any]) -> str:
    """The fleet in one line."""
    run, of_streams = view.get("run") or {}, learns_from_streams(view)
    key = "accuracy" if of_streams else "macs_fraction"
    devices = " ".join(
        f"{device['device']}:{device['state']}" + (f"@{device[key]:.2f}" if device[key] is not None else "")
        for device in view["devices"]
    )
    turn = f"{'window' if of_streams else 'round'} {run.get('round', 0)}/{run.get('num_rounds', 0)}"
    return f"{turn}  accuracy {_percent(_accuracy(view))}  {devices}"


def devices_table(view: dict[str, Any]) -> Table:
    """One row a device."""
    table = Table(expand=True)
    columns = _OF_STREAMS if learns_from_streams(view) else _OF_NETWORKS
    for name in columns:
        table.add_column(name)
    for told in view["devices"]:
        table.add_row(*(cell(told) for cell in columns.values()))
    return table


def learns_from_streams(view: dict[str, Any]) -> bool:
    """Whether the fleet does; before the first report its devices tell so themselves."""
    return view["streams"] is not None or (
        not view["groups"] and any(device["accuracy"] is not None for device in view["devices"])
    )


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Write the final report for people, on stderr."""
    console = console or Console(stderr=True)
    if "streams" in report:
        print_streams(report, console)
        return
    table = Table(title="Report", show_header=False)
    batches = sum(device["batches"] for device in report["devices"])
    rows = {
        "accuracy on held-out data": _percent(report["accuracy"]),
        "rounds": str(report["rounds"]),
        "time": f"{report['wall_s']:.0f} s",
        "updates applied / expired / refused": f"{report['updates_applied']} / {report['updates_expired']} / "
        f"{report['updates_refused']}",
        "mini-batches": str(batches),
        "training MACs": f"{report['macs'] / 1e9:.1f} G",
        "bytes over the wire": f"{report['bytes_sent'] / 1e6:.1f} MB",
        "broker": report["broker"],
        "engine": report["engine"],
    }
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    console.print(table)
    shares = Table(title="Share of each vector (kept channels by width group)")
    for name in ("vector", "mini-batches"):
        shares.add_column(name)
    for vector, share in list(report["vector_shares"].items())[:12]:
        shares.add_row(_short(vector), _percent(share))
    console.print(shares)
    devices = Table(title="Devices")
    for name in ("device", "engine", "updates", "mini-batches", "training GMACs", "vectors used"):
        devices.add_column(name)
    for device in report["devices"]:
        devices.add_row(
            Text(device["id"]),
            Text(device.get("engine") or "-"),
            str(device["updates"]),
            str(device["batches"]),
            f"{device['macs'] / 1e9:.1f}",
            str(len(device["vectors"])),
        )
    console.print(devices)


def print_streams(report: dict[str, Any], console: Console) -> None:
    """Write the final report of a run that learned from streams."""
    streams = report["streams"]
    table = Table(title="Report", show_header=False)
    rows = {
        "accuracy of predictions before their labels": _percent(report["accuracy"]),
        "F1, mean of the classes": _percent(report["f1"]),
        "samples predicted and learned": str(streams["samples"]),
        "bytes a sample and device, sent / received": f"{streams['sent_bytes_per_sample']} / "
        f"{streams['received_bytes_per_sample']}",
        "time": f"{report['wall_s']:.0f} s",
        "broker": report["broker"],
    }
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    console.print(table)
    devices = Table(title="Devices")
    for name in ("device", "samples", "accuracy", "F1", "told", "heard", "repeats", "missed", "drifts"):
        devices.add_column(name)
    for one in streams["devices"]:
        devices.add_row(
            Text(one["device"]),
            str(one["labelled"]),
            _percent(one["accuracy"]),
            _percent(one["f1"]),
            *(str(one[name]) for name in ("told", "heard", "repeats", "missed")),
            str(len(one["drifts"])),
        )
    console.print(devices)


def _head(view: dict[str, Any], curve: list[dict[str, Any]]) -> Group:
    run, turn = view.get("run") or {}, "window" if learns_from_streams(view) else "round"
    done, planned = max(0, len(curve) - 1), run.get("num_rounds", 0) or 1
    title = Text.assemble(
        ("edgetide ", "bold"),
        f"{run.get('strategy', '')} · {run.get('state', 'starting')} · ",
        f"{turn} {run.get('round', 0)}/{planned} · accuracy ",
        (_percent(_accuracy(view)), "bold"),
    )
    return Group(title, ProgressBar(total=planned, completed=min(done, planned)))


def _accuracy(view: dict[str, Any]) -> float | None:
    """Of all predictions so far, where devices learn from streams; else of the model."""
    streams = view["streams"]
    return (view.get("run") or {}).get("accuracy") if streams is None else streams["accuracy"]


def _state(told: dict[str, Any]) -> Text:
    state = Text(told["state"], style=_STATE_STYLE.get(told["state"], ""))
    if told["reason"]:
        state.append(f" {told['reason']}", style="dim")
    return state


def _vector(told: dict[str, Any]) -> str:
    vector = told["vector"]
    return "-" if vector is None else "·".join(map(str, vector[:8])) + ("…" if len(vector) > 8 else "")


def _memory(told: dict[str, Any]) -> str:
    own = told["memory_own_bytes"]
    return "-" if own is None else f"{own / 2**20:.0f} MiB"


def _warmth(told: dict[str, Any]) -> str:
    warm = told["temperature_celsius"]
    return "-" if warm is None else f"{warm:.0f}"


def _steps(told: dict[str, Any]) -> str:
    return f"{told['steps_done'] or 0}/{told['steps_planned'] or 0}"


def _samples(told: dict[str, Any]) -> str:
    """Nobody may know how many will come."""
    done, planned = told["steps_done"] or 0, told["steps_planned"] or 0
    return f"{done}/{planned}" if planned else str(done)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _short(vector: str) -> str:
    return vector if len(vector) <= 60 else vector[:57] + "…"


_WHO: Columns = {
    "device": lambda told: Text(told["device"]),
    "engine": lambda told: Text((told["hello"] or {}).get("engine", "-")),
    "state": _state,
}
_BOARD: Columns = {
    "CPU share": lambda told: _percent(told["cpu_share_fraction"]),
    "others": lambda told: _percent(told["cpu_others_fraction"]),
    "memory": _memory,
    "°C": _warmth,
}
_OF_NETWORKS: Columns = {
    **_WHO,
    "vector": _vector,
    "MACs": lambda told: _percent(told["macs_fraction"]),
    **_BOARD,
    "batches": _steps,
}
_OF_STREAMS: Columns = {
    **{name: cell for name, cell in _WHO.items() if name != "engine"},
    "accuracy lately": lambda told: _percent(told["accuracy"]),
    **_BOARD,
    "samples": _samples,
}
