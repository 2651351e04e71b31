"""The plots of a table as PNG files, drawn by Matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dse.plot_data import DevicePoint, EntryPoint, PlotData
from dse.plots_layout import MAX_TEXT_CELLS, device_counts, entry_labels, every, front_frame
from dse.plots_style import (
    BLUE,
    FAINT,
    GRID,
    GROUND,
    HEAT,
    HEAT_TURNS_BRIGHT,
    INK,
    ORANGE,
    SKY,
    SOFT,
    VERMILLION,
)
from dse.plots_text import (
    MAX_DEVICE_ROWS,
    Words,
    device_words,
    front_words,
    hypervolume_words,
    keep_words,
)
from firmware_profiles.errors import UserError

DPI = 150
_WIDTH = 10.0
_NOTE_CHARACTERS = 130
_LABEL_INCHES = 0.23


def write_pngs(data: PlotData, folder: Path, name: str) -> list[Path]:
    """Draw what there is data for, one file a plot.

    Args:
        data: what to draw.
        folder: where the files go; it exists.
        name: what the files' names begin with.

    Raises:
        UserError: a file cannot be written.
    """
    made = {
        f"{name}-front.png": front_figure(data),
        f"{name}-keep.png": keep_figure(data),
        f"{name}-hypervolume.png": None if data.hypervolume is None else hypervolume_figure(data),
        f"{name}-devices.png": None if data.devices is None else device_figure(data),
    }
    return [save(figure, folder / file) for file, figure in made.items() if figure is not None]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole or not at all; returns the path.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, format="png", dpi=DPI)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Give another --out.") from error
    return path


def new_figure(words: Words, height: float = 6.2) -> tuple[Figure, Axes]:
    """A figure with title, note, axis names and a light grid; `height` in inches."""
    figure = Figure(figsize=(_WIDTH, height), facecolor=GROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.62 / height + 0.03, 0.885, 1 - 1.83 / height))
    figure.text(0.085, 1 - 0.3 / height, words.title, fontsize=15, fontweight="bold", color=INK, va="center")
    note = "\n".join(textwrap.wrap(words.note, _NOTE_CHARACTERS))
    figure.text(0.085, 1 - 0.52 / height, note, fontsize=9, color=SOFT, va="top", linespacing=1.35)
    axes.set_xlabel(words.x, color=SOFT, fontsize=10)
    axes.set_ylabel(words.y, color=SOFT, fontsize=10)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    return figure, axes


# ---------------------------------------------------------------- the plots


def front_figure(data: PlotData) -> Figure:
    """Pareto front: trials, uniform vectors, and the table's entries with their numbers."""
    figure, axes = new_figure(front_words(data))
    frame = front_frame(data)
    _draw_trials(axes, data)
    x = [100 * entry.macs_fraction for entry in data.entries]
    y = [frame.factor * entry.progress for entry in data.entries]
    axes.plot(x, y, color=VERMILLION, linewidth=1.2, alpha=0.5, zorder=4)
    axes.scatter(
        x, y, s=42, marker="s", color=VERMILLION, edgecolor="white", zorder=6, label="table's entries"
    )
    axes.set_xlim(0, 103)
    axes.set_ylim(frame.bottom, frame.top)
    _label_entries(axes, data.entries, y, frame.knee, frame.rail)
    axes.legend(
        loc="lower right", fontsize=9, frameon=True, facecolor="white", edgecolor=GRID, labelcolor=INK
    )
    return figure


def keep_figure(data: PlotData) -> Figure:
    """Heat map: keep fraction of each width group in each entry."""
    height = 2.2 + 0.36 * min(len(data.groups), 40)
    figure, axes = new_figure(keep_words(data), max(4.0, height))
    rows = [[entry.keep_fractions[group] for entry in data.entries] for group in range(len(data.groups))]
    width = min(0.3, 0.04 + 0.0088 * max(len(_group_label(group)) for group in data.groups))
    box = axes.get_position()
    axes.set_position((width, box.y0, 0.89 - width, box.height))
    axes.grid(visible=False)
    image = axes.imshow(rows, aspect="auto", cmap=HEAT, vmin=0.0, vmax=1.0)
    beside = figure.add_axes((0.905, box.y0, 0.018, box.height))
    bar = figure.colorbar(image, cax=beside, format=lambda value, _: f"{100 * value:.0f} %")
    bar.set_label("channels kept", color=SOFT, fontsize=10)
    bar.ax.tick_params(colors=SOFT, labelsize=9, length=0)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    _entry_ticks(axes, data.entries)
    axes.set_yticks(range(len(data.groups)), [_group_label(group) for group in data.groups])
    if len(data.entries) <= MAX_TEXT_CELLS and len(data.groups) <= MAX_TEXT_CELLS:
        for row, values in enumerate(rows):
            for column, value in enumerate(values):
                colour = INK if value > HEAT_TURNS_BRIGHT else "white"
                axes.text(
                    column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour
                )
    return figure


def hypervolume_figure(data: PlotData) -> Figure:
    """Hypervolume after each trial."""
    curve = data.hypervolume
    assert curve is not None
    figure, axes = new_figure(hypervolume_words(data))
    values = [100 * value for value in curve.values]
    axes.step(curve.numbers, values, where="post", color=BLUE, linewidth=2, label="all trials")
    axes.fill_between(curve.numbers, values, step="post", color=BLUE, alpha=0.08, linewidth=0)
    if curve.of_uniform is not None:
        uniform = 100 * curve.of_uniform
        label = f"uniform vectors alone: {uniform:.3g}"
        axes.axhline(uniform, color=ORANGE, linewidth=1.6, linestyle=(0, (5, 3)), label=label)
    axes.set_ylim(0, 1.12 * max([*values, 100 * (curve.of_uniform or 0), 1e-3]))
    axes.margins(x=0.02)
    if values:
        axes.annotate(
            f"{values[-1]:.3g}",
            (curve.numbers[-1], values[-1]),
            (0, 7),
            textcoords="offset points",
            ha="right",
            fontweight="bold",
            color=BLUE,
        )
    axes.legend(loc="lower right", fontsize=9, facecolor="white", edgecolor=GRID, labelcolor=INK)
    return figure


def device_figure(data: PlotData) -> Figure:
    """Where the live devices operate: a row each, or counted where there are many."""
    assert data.devices is not None
    if len(data.devices) > MAX_DEVICE_ROWS:
        return _device_counts(data, data.devices)
    figure, axes = new_figure(device_words(data), 2.4 + 0.34 * max(1, len(data.devices)))
    names = [f"{point.device}  ({point.state})" for point in data.devices]
    left = min(0.35, 0.03 + 0.0085 * max([10, *map(len, names)]))
    box = axes.get_position()
    axes.set_position((left, box.y0, 0.97 - left, box.height))
    axes.grid(visible=False)
    for entry in data.entries:
        x = 100 * entry.macs_fraction
        axes.plot([x, x], [len(names), -0.75], color=FAINT, linewidth=0.8, alpha=0.6, zorder=1)
    for row, point in enumerate(data.devices):
        _draw_device(axes, row, point)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6 - 0.8)
    axes.set_xlim(-2, 103)
    numbers = [-1.0] * len(data.entries)
    _label_entries(axes, data.entries, numbers, -0.75, -1.05, with_lines=False)
    return figure


# ---------------------------------------------------------------- parts of them


def _draw_trials(axes: Axes, data: PlotData) -> None:
    if data.trials is None:
        return
    kinds: list[tuple[str, Callable[[Any], bool], dict[str, Any]]] = [
        (
            "trials",
            lambda one: not one.is_on_front and not one.is_uniform,
            {"color": FAINT, "alpha": 0.45, "s": 20},
        ),
        (
            "uniform vectors",
            lambda one: one.is_uniform,
            {
                "facecolor": "white",
                "edgecolor": ORANGE,
                "marker": "D",
                "s": 40,
                "linewidth": 1.6,
                "zorder": 3,
            },
        ),
        (
            "trials' front",
            lambda one: one.is_on_front,
            {"color": BLUE, "s": 30, "edgecolor": "white", "linewidth": 0.6, "zorder": 5},
        ),
    ]
    for label, belongs, style in kinds:
        found = [point for point in data.trials if belongs(point)]
        if found:
            x = [100 * point.macs_fraction for point in found]
            axes.scatter(x, [100 * point.trial.gain for point in found], label=label, **style)
    front = sorted((100 * one.macs_fraction, 100 * one.trial.gain) for one in data.trials if one.is_on_front)
    axes.step(
        [x for x, _ in front] + [100.0],
        [y for _, y in front] + [front[-1][1]],
        where="post",
        color=BLUE,
        linewidth=1.4,
        zorder=2,
    )


def _label_entries(
    axes: Axes,
    entries: tuple[EntryPoint, ...],
    places: list[float],
    knee: float,
    rail: float,
    *,
    with_lines: bool = True,
) -> None:
    """Write the entries' numbers on a rail, each with a line to its place."""
    low, high = axes.get_xlim()
    gap = _LABEL_INCHES / (_WIDTH * axes.get_position().width) * (high - low)
    for label in entry_labels(entries, gap):
        begin = places[label.row] if with_lines else knee
        axes.plot(
            [label.place, label.place, label.label_place],
            [begin, knee, rail],
            color=VERMILLION,
            linewidth=0.6,
            alpha=0.35,
            zorder=1,
        )
        axes.text(
            label.label_place,
            rail,
            label.text,
            ha="center",
            va="bottom",
            fontsize=8.5,
            fontweight="bold",
            color=VERMILLION,
        )


def _entry_ticks(axes: Axes, entries: tuple[EntryPoint, ...]) -> None:
    step = every(len(entries), MAX_TEXT_CELLS)
    shown = range(0, len(entries), step)
    labels = [f"{entries[index].number}\n{100 * entries[index].macs_fraction:.0f} %" for index in shown]
    axes.set_xticks(list(shown), labels, fontsize=8)


def _draw_device(axes: Axes, row: int, point: DevicePoint) -> None:
    trained = [100 * share for share in point.recent if share > 0]
    if trained:
        axes.plot(
            [min(trained), max(trained)],
            [row, row],
            color=SKY,
            alpha=0.55,
            linewidth=7,
            solid_capstyle="round",
        )
        axes.scatter(trained, [row] * len(trained), s=10, color=BLUE, alpha=0.35, linewidth=0, zorder=3)
    if point.now is not None:
        paused = point.state == "paused"
        axes.scatter(
            [100 * point.now],
            [row],
            s=70,
            facecolor="white" if paused else BLUE,
            edgecolor=BLUE,
            linewidth=1.6,
            zorder=5,
        )


def _device_counts(data: PlotData, devices: tuple[DevicePoint, ...]) -> Figure:
    figure, axes = new_figure(device_words(data))
    counts, others = device_counts(data.entries, devices)
    axes.bar(range(len(counts)), counts, color=BLUE, width=0.72)
    beyond = range(len(counts) + 1, len(counts) + 1 + len(others))
    axes.bar(list(beyond), list(others.values()), color=FAINT, width=0.72)
    _entry_ticks(axes, data.entries)
    ticks, labels = list(axes.get_xticks()), [label.get_text() for label in axes.get_xticklabels()]
    axes.set_xticks([*ticks, *beyond], [*labels, *(why.replace(" ", "\n") for why in others)])
    for place, count in [*enumerate(counts), *zip(beyond, others.values(), strict=True)]:
        if count:
            axes.text(place, count, str(count), ha="center", va="bottom", fontsize=9, color=INK)
    axes.grid(visible=False, axis="x")
    return figure


def _group_label(group: tuple[str, int]) -> str:
    return f"{group[0]} ({group[1]})"
