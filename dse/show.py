"""A table of dropout vectors on the terminal, and as one JSON object."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dse.hypervolume import hypervolume
from dse.plot_data import REFERENCE, PlotData, prepare
from dse.trial import StudyTrials
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from firmware_profiles.profile import FirmwareProfile, core_seconds
from firmware_profiles.resources import Budget, Pause
from models.table import ParetoTable, TableEntry, select

MANY_GROUPS = 6
"""Above it a width group is one bar instead of a number."""

_WIDE = 130
_USUAL_ENGINE = "onnx"
_BARS = "▁▂▃▄▅▆▇█"
_CIVIDIS = ("#00224e", "#434e6c", "#7d7c78", "#bcae6c", "#fee838")
_BAR_COLOURS = ("#4a7bd0", "#6f8fb8", "#9a9a86", "#c9b560", "#fee838")  # as above, visible on black


class Board(NamedTuple):
    """The budget a table is looked at with.

    Attributes:
        profile: the board.
        engine: whose speed counts where the table has no seconds.
        cpu_share_fraction: of all cores, 0 < f <= 1.
        seconds_per_batch: a mini-batch may take, None if that is not asked.
    """

    profile: FirmwareProfile
    engine: str
    cpu_share_fraction: float
    seconds_per_batch: float | None


class OnBoard(NamedTuple):
    """One entry on a board.

    Attributes:
        seconds: of one mini-batch with the share of the CPU.
        fits_time: within the seconds asked for; None if nobody asked.
        fits_memory: within what the board has for training.
    """

    seconds: float
    fits_time: bool | None
    fits_memory: bool


def make_board(
    profile: FirmwareProfile, engine: str | None, cpu_share_fraction: float, seconds_per_batch: float | None
) -> Board:
    """The budget of a board.

    Raises:
        UserError: nobody measured or estimated this engine on it.
    """
    known = [str(name) for name in profile.speeds]
    if engine is not None and engine not in known:
        raise UserError(f"profile {profile.name} has no speed of engine {engine!r}; {nearest(engine, known)}")
    if not known:
        raise UserError(f"profile {profile.name} knows no speed; `edgetide agent bench` measures it")
    usual = _USUAL_ENGINE if _USUAL_ENGINE in known else known[0]
    return Board(profile, engine or usual, cpu_share_fraction, seconds_per_batch)


def on_board(table: ParetoTable, entry: TableEntry, board: Board) -> OnBoard:
    """What an entry takes on a board."""
    profile = board.profile
    seconds = _core_seconds(table, entry, board) / (profile.num_cores * board.cpu_share_fraction)
    limit = board.seconds_per_batch
    return OnBoard(
        seconds=seconds,
        fits_time=None if limit is None else seconds <= limit,
        fits_memory=entry.memory_bytes <= _memory_bytes(profile),
    )


def chosen(table: ParetoTable, board: Board) -> TableEntry | Pause | None:
    """What a device with this budget would train with, or why it would not; None if nobody asked."""
    if board.seconds_per_batch is None:
        return None
    budget = Budget(
        cpu_share_fraction=board.cpu_share_fraction,
        memory_bytes=_memory_bytes(board.profile),
        time_left_s=board.seconds_per_batch,
        num_batches_left=1,
    )
    return select(table, budget, board.profile.num_cores, lambda entry: _core_seconds(table, entry, board))


def to_json(
    table: ParetoTable, study: StudyTrials | None = None, board: Board | None = None
) -> dict[str, Any]:
    """The table's own keys and what follows from them, JSON-ready."""
    data = prepare(table, study=study)
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(table))
    shown |= {"digest": data.digest, "hypervolume": _of_table(data), "hypervolume_reference": list(REFERENCE)}
    for entry, keys, point in zip(table.entries, shown["entries"], data.entries, strict=True):
        keys["macs_fraction"] = point.macs_fraction
        keys["keep_fractions"] = list(point.keep_fractions)
        if board is not None:
            keys.update(on_board(table, entry, board)._asdict())
    if data.hypervolume is not None and study is not None:
        shown["study"] = {
            "name": study.name,
            "num_trials": len(study.trials),
            "num_hopeless": study.num_hopeless,
            "hypervolume": data.hypervolume.values[-1] if study.trials else 0.0,
            "hypervolume_of_uniform": data.hypervolume.of_uniform,
        }
    if board is not None:
        choice = chosen(table, board)
        vector = list(choice.vector) if isinstance(choice, TableEntry) else None
        shown["board"] = {
            "profile": board.profile.name,
            "engine": board.engine,
            "cpu_share_fraction": board.cpu_share_fraction,
            "seconds_per_batch": board.seconds_per_batch,
            "chosen": vector,
            "pause": choice.reason if isinstance(choice, Pause) else None,
        }
    return shown


def print_table(
    table: ParetoTable,
    study: StudyTrials | None = None,
    board: Board | None = None,
    console: Console | None = None,
) -> None:
    """Print a table for people, with what a study and a budget say about it."""
    console = console or Console()
    data = prepare(table, study=study)
    choice = None if board is None else chosen(table, board)
    console.print(_grid(table, data, board, choice, console))
    for line in _lines(table, data, study, board, choice):
        console.print(line, markup=False, highlight=False, style="dim")


def _grid(
    table: ParetoTable,
    data: PlotData,
    board: Board | None,
    choice: TableEntry | Pause | None,
    console: Console,
) -> Table:
    title = f"{table.model}, batches of {table.batch_size}"
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    many = len(data.groups) > MANY_GROUPS
    with_kept = not many or console.width >= _WIDE
    with_seconds = any(entry.core_seconds is not None for entry in table.entries)
    headings = ["", *(["kept"] if with_kept else []), "keep %", "MMAC", "of full", "progress", "MB"]
    headings += [*(["core ms"] if with_seconds else []), *(["board ms", "fits"] if board else [])]
    for heading in headings:
        left = heading in ("kept", "fits") or (heading == "keep %" and many)
        grid.add_column(
            heading,
            justify="left" if left else "right",
            no_wrap=True,
        )
    for entry, point in zip(table.entries, data.entries, strict=True):
        cells: list[str | Text] = [str(point.number)]
        if with_kept:
            cells.append(" ".join(map(str, entry.vector)))
        cells += [
            _heat(point.keep_fractions, console, many=many),
            f"{entry.macs / 1e6:.2f}",
            f"{point.macs_fraction:.0%}",
            f"{entry.progress:.4f}",
            f"{entry.memory_bytes / 1e6:.1f}",
        ]
        if with_seconds:
            cells.append("" if entry.core_seconds is None else f"{1000 * entry.core_seconds:.2f}")
        if board is not None:
            found = on_board(table, entry, board)
            cells += [f"{1000 * found.seconds:.1f}", _fits(found, is_chosen=entry is choice)]
        grid.add_row(*cells, style="bold" if entry is choice else None)
    return grid


def _lines(
    table: ParetoTable,
    data: PlotData,
    study: StudyTrials | None,
    board: Board | None,
    choice: TableEntry | Pause | None,
) -> list[str]:
    cost, gain = REFERENCE
    lines = [
        table.source,
        f"digest {data.digest}",
        f"hypervolume {_of_table(data):.5f} (reference: {cost:.0%} of the full MACs, progress {gain:g})",
    ]
    if study is not None and data.hypervolume is not None and study.trials:
        uniform = data.hypervolume.of_uniform
        lines.append(
            f"study {study.name!r}: {len(study.trials)} trials"
            + (f" and {study.num_hopeless} given up" if study.num_hopeless else "")
            + f", hypervolume {data.hypervolume.values[-1]:.5f}"
            + ("" if uniform is None else f", of its uniform vectors alone {uniform:.5f}")
        )
    if board is not None:
        lines.append(_about_board(table, board))
    if isinstance(choice, Pause):
        lines.append(f"nothing fits: {choice.reason}")
    return lines


def _about_board(table: ParetoTable, board: Board) -> str:
    speed = next(speed for name, speed in board.profile.speeds.items() if str(name) == board.engine)
    if all(entry.core_seconds is not None for entry in table.entries):
        source = "seconds are the table's"
    else:
        basis = "measured" if speed.measured else "estimated, not measured"
        source = f"seconds by engine {board.engine}, {basis}"
        if speed.core_seconds_per_activation_byte:
            source += ", without what grows with activations (`edgetide agent bench` fills the table)"
    return (
        f"{board.profile.name}: {board.profile.num_cores} cores, {board.cpu_share_fraction:.0%} of them, "
        f"{_memory_bytes(board.profile) / 1e6:.0f} MB for training; {source}"
    )


def _fits(found: OnBoard, *, is_chosen: bool) -> str:
    if not found.fits_memory:
        return "no: memory"
    if found.fits_time is None:
        return "yes"
    return "chosen" if is_chosen else "yes" if found.fits_time else "no: time"


def _heat(fractions: tuple[float, ...], console: Console, *, many: bool) -> Text:
    """Keep fractions as numbers on colour, or as one coloured bar each where there are many."""
    text = Text()
    for index, fraction in enumerate(fractions):
        step = round(fraction * (len(_CIVIDIS) - 1))
        if many:
            bars = _BARS if console.encoding.startswith("utf") else "0123456789"
            text.append(bars[min(len(bars) - 1, int(fraction * len(bars)))], Style(color=_BAR_COLOURS[step]))
        else:
            ink = "black" if fraction > 0.55 else "white"
            text.append(" " if index else "")
            text.append(f"{100 * fraction:3.0f}", Style(color=ink, bgcolor=_CIVIDIS[step]))
    return text


def _of_table(data: PlotData) -> float:
    return hypervolume(((entry.macs_fraction, entry.progress) for entry in data.entries), REFERENCE)


def _core_seconds(table: ParetoTable, entry: TableEntry, board: Board) -> float:
    if entry.core_seconds is not None:
        return entry.core_seconds
    seconds = core_seconds(board.profile, board.engine, entry.macs * table.batch_size)
    assert seconds is not None
    return seconds


def _memory_bytes(profile: FirmwareProfile) -> int:
    return max(0, profile.memory_total_bytes - profile.memory_reserve_bytes)
