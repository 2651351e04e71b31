"""The plots of a table as one interactive HTML file, drawn by plotly.js.

Figures are plain data as plotly.js takes them; text in them may hold markup of its own, so names from
outside are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dse.plot_data import DevicePoint, EntryPoint, PlotData, TrialPoint
from dse.plots_layout import MAX_TEXT_CELLS, device_counts, entry_labels, every, front_frame
from dse.plots_page import Section, write_page
from dse.plots_style import BLUE, FAINT, GRID, HEAT, INK, ORANGE, SKY, SOFT, VERMILLION
from dse.plots_text import (
    MAX_DEVICE_ROWS,
    Words,
    device_words,
    front_words,
    hypervolume_words,
    keep_words,
)

_Figure = dict[str, Any]
_Trace = dict[str, Any]
_EDGE = {"color": "white", "width": 1}
_LABEL_GAP = 2.6  # % of the MACs, on a page of 1000 pixels


def write_html(data: PlotData, path: Path) -> Path:
    """Draw what there is data for into one file; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    plots: list[tuple[Words, _Figure]] = [
        (front_words(data), front_figure(data)),
        (keep_words(data), keep_figure(data)),
    ]
    if data.hypervolume is not None:
        plots.append((hypervolume_words(data), hypervolume_figure(data)))
    if data.devices is not None:
        plots.append((device_words(data), device_figure(data)))
    lead = [data.source, f"Table {data.digest[:12]}, {len(data.entries)} entries."]
    sections = [Section(words.title, words.note, figure) for words, figure in plots]
    return write_page(path, f"Dropout vectors of {data.model}", lead, sections)


# ---------------------------------------------------------------- the plots


def front_figure(data: PlotData) -> _Figure:
    """Pareto front: trials, uniform vectors, and the table's entries with their numbers."""
    frame = front_frame(data)
    y = [frame.factor * entry.progress for entry in data.entries]
    traces = [
        *_trial_traces(data.trials or ()),
        _leaders(data.entries, y, frame.knee, frame.rail),
        {
            "name": "table's entries",
            "mode": "lines+markers",
            "x": [100 * entry.macs_fraction for entry in data.entries],
            "y": y,
            "line": {"color": VERMILLION, "width": 1.2},
            "marker": {
                "symbol": "square",
                "size": 9,
                "color": VERMILLION,
                "line": _EDGE,
            },
            "text": [_about_entry(entry) for entry in data.entries],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]
    layout = _layout(front_words(data), 560)
    layout["xaxis"] |= {"range": [0, 103.5], "ticksuffix": " %"}
    layout["yaxis"] |= {"range": [frame.bottom, frame.top + 0.03 * (frame.top - frame.bottom)]}
    layout["annotations"] = _numbers(data.entries, frame.rail)
    return {"data": traces, "layout": layout}


def keep_figure(data: PlotData) -> _Figure:
    """Heat map: keep fraction of each width group in each entry."""
    rows = [
        [100 * entry.keep_fractions[group] for entry in data.entries] for group in range(len(data.groups))
    ]
    kept = [[entry.vector[group] for entry in data.entries] for group in range(len(data.groups))]
    trace = {
        "type": "heatmap",
        "z": rows,
        "x": list(range(len(data.entries))),
        "y": list(range(len(data.groups))),
        "customdata": kept,
        "text": [[_about_entry(entry) for entry in data.entries]] * len(rows),
        "colorscale": HEAT.capitalize(),
        "zmin": 0,
        "zmax": 100,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "title": {"text": "channels kept"},
            "ticksuffix": " %",
            "outlinewidth": 0,
            "thickness": 14,
        },
        "hovertemplate": "%{y}: %{customdata} channels, %{z:.0f} %<br>%{text}<extra></extra>",
    }
    if len(data.entries) <= MAX_TEXT_CELLS and len(data.groups) <= MAX_TEXT_CELLS:
        trace["texttemplate"] = "%{z:.0f}"
    layout = _layout(keep_words(data), 150 + 26 * max(4, min(len(data.groups), 60)))
    layout["xaxis"] |= {"showgrid": False, **_entry_ticks(data.entries)}
    layout["yaxis"] |= {
        "showgrid": False,
        "autorange": "reversed",
        "title": None,
        "tickvals": list(range(len(data.groups))),
        "ticktext": [f"{html.escape(name)} ({size})" for name, size in data.groups],
    }
    return {"data": [trace], "layout": layout}


def hypervolume_figure(data: PlotData) -> _Figure:
    """Hypervolume after each trial."""
    curve = data.hypervolume
    assert curve is not None
    values = [100 * value for value in curve.values]
    traces: list[_Trace] = [
        {
            "name": "all trials",
            "mode": "lines",
            "x": list(curve.numbers),
            "y": values,
            "line": {"shape": "hv", "color": BLUE, "width": 2.5},
            "fill": "tozeroy",
            "fillcolor": "rgba(0,114,178,0.08)",
            "hovertemplate": "after trial %{x}: %{y:.3f} points<extra></extra>",
        }
    ]
    if curve.of_uniform is not None and curve.numbers:
        uniform = 100 * curve.of_uniform
        traces.append(
            {
                "name": f"uniform vectors alone: {uniform:.3g}",
                "mode": "lines",
                "x": [curve.numbers[0], curve.numbers[-1]],
                "y": [uniform, uniform],
                "line": {"color": ORANGE, "width": 2, "dash": "dash"},
                "hovertemplate": "uniform vectors alone: %{y:.3f} points<extra></extra>",
            }
        )
    layout = _layout(hypervolume_words(data), 460)
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def device_figure(data: PlotData) -> _Figure:
    """Where the live devices operate: a row each, or counted where there are many."""
    assert data.devices is not None
    if len(data.devices) > MAX_DEVICE_ROWS:
        return _device_counts(data, data.devices)
    bars, dots = _recent_traces(data.devices)
    known = [(row, point) for row, point in enumerate(data.devices) if point.now is not None]
    now = {
        "name": "now (hollow: paused)",
        "mode": "markers",
        "x": [100 * (point.now or 0.0) for _row, point in known],
        "y": [row for row, _point in known],
        "marker": {
            "size": 13,
            "color": ["white" if point.state == "paused" else BLUE for _row, point in known],
            "line": {"color": BLUE, "width": 2},
        },
        "text": [_about_device(point) for _row, point in known],
        "hovertemplate": "%{text}<extra></extra>",
    }
    count = len(data.devices)
    places = [float(count)] * len(data.entries)
    lines = _leaders(data.entries, places, -0.75, -1.05) | {"line": {"color": FAINT, "width": 1}}
    layout = _layout(device_words(data), 190 + 34 * max(1, count))
    layout["xaxis"] |= {"range": [-2, 103.5], "ticksuffix": " %", "showgrid": False}
    layout["yaxis"] |= {
        "range": [count - 0.4, -1.6],
        "showgrid": False,
        "zeroline": False,
        "tickvals": list(range(count)),
        "ticktext": [f"{html.escape(point.device)} ({html.escape(point.state)})" for point in data.devices],
    }
    layout["annotations"] = _numbers(data.entries, -1.05)
    return {"data": [lines, bars, dots, now], "layout": layout}


# ---------------------------------------------------------------- parts of them


def _trial_traces(trials: Sequence[TrialPoint]) -> list[_Trace]:
    if not trials:
        return []
    front = sorted((100 * one.macs_fraction, 100 * one.trial.gain) for one in trials if one.is_on_front)
    kinds: list[tuple[str, Callable[[TrialPoint], bool], dict[str, Any]]] = [
        (
            "trials",
            lambda one: not (one.is_on_front or one.is_uniform),
            {"size": 7, "color": FAINT, "opacity": 0.5},
        ),
        (
            "uniform vectors",
            lambda one: one.is_uniform,
            {"size": 10, "symbol": "diamond", "color": "white", "line": {"color": ORANGE, "width": 2}},
        ),
        (
            "trials' front",
            lambda one: one.is_on_front,
            {"size": 8, "color": BLUE, "line": _EDGE},
        ),
    ]
    line: _Trace = {
        "mode": "lines",
        "x": [x for x, _ in front] + [100.0],
        "y": [y for _, y in front] + [front[-1][1]],
        "line": {"shape": "hv", "color": BLUE, "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [line, *(_points(name, [one for one in trials if of(one)], style) for name, of, style in kinds)]


def _points(name: str, points: list[TrialPoint], marker: dict[str, Any]) -> _Trace:
    return {
        "name": name,
        "mode": "markers",
        "x": [100 * point.macs_fraction for point in points],
        "y": [100 * point.trial.gain for point in points],
        "marker": marker,
        "text": [f"trial {point.trial.number}<br>keeps {_kept(point.trial.vector)}" for point in points],
        "hovertemplate": "%{text}<br>%{x:.1f} of the MACs, %{y:.2f} points<extra></extra>",
    }


def _leaders(entries: Sequence[EntryPoint], places: Sequence[float], knee: float, rail: float) -> _Trace:
    x: list[float | None] = []
    y: list[float | None] = []
    for label in entry_labels(entries, _LABEL_GAP):
        x += [label.place, label.place, label.label_place, None]
        y += [places[label.row], knee, rail, None]
    return {
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": "rgba(213,94,0,0.3)", "width": 0.8},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _numbers(entries: Sequence[EntryPoint], rail: float) -> list[dict[str, Any]]:
    return [
        {
            "x": label.label_place,
            "y": rail,
            "text": f"<b>{label.text}</b>",
            "showarrow": False,
            "yanchor": "bottom",
            "font": {"color": VERMILLION, "size": 12},
        }
        for label in entry_labels(entries, _LABEL_GAP)
    ]


def _recent_traces(devices: Sequence[DevicePoint]) -> tuple[_Trace, _Trace]:
    bars: _Trace = {"x": [], "y": [], "mode": "lines", "line": {"color": SKY, "width": 9}, "opacity": 0.5}
    dots: _Trace = {"x": [], "y": [], "mode": "markers", "marker": {"color": BLUE, "size": 4, "opacity": 0.4}}
    for row, point in enumerate(devices):
        trained = [100 * share for share in point.recent if share > 0]
        if trained:
            bars["x"] += [min(trained), max(trained), None]
            bars["y"] += [row, row, None]
            dots["x"] += trained
            dots["y"] += [row] * len(trained)
    return (
        bars | {"name": "last minutes", "hoverinfo": "skip"},
        dots | {"hoverinfo": "skip", "showlegend": False},
    )


def _device_counts(data: PlotData, devices: tuple[DevicePoint, ...]) -> _Figure:
    counts, others = device_counts(data.entries, devices)
    beyond = [len(counts) + 1 + index for index in range(len(others))]
    values = [*counts, *others.values()]
    trace = {
        "type": "bar",
        "x": [*range(len(counts)), *beyond],
        "y": values,
        "text": [str(value) if value else "" for value in values],
        "textposition": "outside",
        "marker": {"color": [BLUE] * len(counts) + [FAINT] * len(others)},
        "hovertemplate": "%{y} devices<extra></extra>",
    }
    layout = _layout(device_words(data), 460)
    ticks = _entry_ticks(data.entries)
    layout["xaxis"] |= {
        "showgrid": False,
        "zeroline": False,
        "tickvals": [*ticks["tickvals"], *beyond],
        "ticktext": [*ticks["ticktext"], *(why.replace(" ", "<br>") for why in others)],
    }
    return {"data": [trace], "layout": layout}


def _entry_ticks(entries: Sequence[EntryPoint]) -> dict[str, Any]:
    shown = range(0, len(entries), every(len(entries), MAX_TEXT_CELLS))
    return {
        "tickvals": list(shown),
        "ticktext": [
            f"{entries[index].number}<br>{100 * entries[index].macs_fraction:.0f} %" for index in shown
        ],
        "tickangle": 0,
    }


def _layout(words: Words, height: int) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    return {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": 'system-ui, "Segoe UI", Roboto, sans-serif', "size": 13, "color": SOFT},
        "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        "xaxis": axis | {"title": {"text": words.x}},
        "yaxis": axis | {"title": {"text": words.y}},
    }


def _about_entry(entry: EntryPoint) -> str:
    return (
        f"entry {entry.number}: {100 * entry.macs_fraction:.1f} % of the MACs, progress {entry.progress:.4g}"
        f"<br>keeps {_kept(entry.vector)}"
    )


def _about_device(point: DevicePoint) -> str:
    entry = "" if point.entry is None else f", entry {point.entry}"
    share = "" if point.now is None else f"<br>{100 * point.now:.1f} % of the MACs{entry}"
    return f"{html.escape(point.device)}: {html.escape(point.state)}{share}"


def _kept(vector: Sequence[int]) -> str:
    """The vector in lines short enough for a hover label."""
    lines = [" ".join(map(str, vector[start : start + 16])) for start in range(0, len(vector), 16)]
    return "<br>".join(lines[:8]) + (" …" if len(lines) > 8 else "")
