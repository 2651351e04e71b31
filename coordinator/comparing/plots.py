"""Accuracy over virtual time: a line a method, a band over seeds, a panel a scenario."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.comparing.compare import Results
from coordinator.comparing.curves import smoothed
from coordinator.comparing.spread import spread
from coordinator.comparing.store import write_whole
from coordinator.comparing.summary import RunOutcome
from dse.plots_layout import spread as spread_labels
from dse.plots_style import GRID, GROUND, INK, SERIES, SOFT
from firmware_profiles.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (INK, *(colour for colour in SERIES if colour != INK))
"""Distinct to colour-blind eyes, the reference's first."""

DASHES = ("solid", "dash", "dot", "dashdot")
_MATPLOTLIB_DASHES = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.5)),
    "dashdot": (0, (5, 1.5, 1, 1.5)),
}

TITLE = "Accuracy over virtual time"
NOTE = "Lines are means over seeds of the newest three versions, bands are ± their standard deviation."

MAX_POINTS = 300
"""Of a line."""

_LABEL_POINTS = 7.5

_UNITS = ((3 * 3600, 3600.0, "h"), (600, 60.0, "min"), (0, 1.0, "s"))
_MAX_COLUMNS = 3
_EARLY = 0.2
"""Share of the time whose accuracies may lie below the picture: all methods begin at chance."""


@dataclass(frozen=True)
class Line:
    """A method: mean and mean ± standard deviation over seeds, in percent, at times in the panel's unit."""

    method: str
    times: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A scenario.

    Attributes:
        title: its name. unit: of time. horizon: right end, in that unit.
        bottom, top: of the axis of accuracy, in percent.
    """

    title: str
    unit: str
    horizon: float
    bottom: float
    top: float
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Style:
    """How a method is drawn, in every panel alike."""

    colour: str
    dash: str


def draw(results: Results) -> list[Path]:
    """Write accuracy.html (interactive, works offline) and accuracy.png into the folder of the results.

    Raises:
        UserError: plotly or matplotlib is not installed.
        OSError: the disk refused.
    """
    shown = panels(results)
    styles = method_styles(shown)
    paths = [results.folder / "accuracy.html", results.folder / "accuracy.png"]
    try:
        write_html(paths[0], shown, styles)
        write_png(paths[1], shown, styles)
    except ImportError as error:
        raise UserError(f"plots need {error.name}: install edgetide[dse]") from error
    return paths


def panels(results: Results) -> list[Panel]:
    """What is drawn, as plain numbers; the smoothed reading, as in the tables."""
    made = []
    for name, summary in results.scenarios.items():
        seconds, unit = next((each, unit) for least, each, unit in _UNITS if summary.horizon_s >= least)
        runs = results.outcomes[name]
        order = sorted(summary.methods, key=lambda method: method != summary.reference)
        lines = tuple(_line(method, list(runs[method].values()), seconds) for method in order)
        horizon = summary.horizon_s / seconds
        late = [
            low
            for line in lines
            for time, low in zip(line.times, line.low, strict=True)
            if time >= _EARLY * horizon
        ]
        highest = max(high for line in lines for high in line.high)
        bottom = max(0.0, 5 * math.floor(min(late, default=0.0) / 5))
        made.append(
            Panel(
                title=name,
                unit=unit,
                horizon=horizon or 1.0,
                bottom=bottom,
                top=min(100.0, highest + 0.04 * (highest - bottom) + 0.5),
                lines=lines,
            )
        )
    return made


def method_styles(shown: Sequence[Panel]) -> dict[str, Style]:
    """A colour and a dash for each method of any panel; the reference is the first."""
    methods = dict.fromkeys(line.method for panel in shown for line in panel.lines)
    looks = [Style(colour, dash) for dash, colour in product(DASHES, COLOURS)]
    return {method: looks[index % len(looks)] for index, method in enumerate(methods)}


def _line(method: str, runs: Sequence[RunOutcome], seconds: float) -> Line:
    times_s = sorted({time_s for run in runs for time_s, _ in run.accuracy_curve})
    if len(times_s) > MAX_POINTS:
        times_s = [times_s[-1] * index / (MAX_POINTS - 1) for index in range(MAX_POINTS)]
    spreads = [spread([100 * smoothed(run.accuracy_curve, time_s) for run in runs]) for time_s in times_s]
    return Line(
        method,
        tuple(time_s / seconds for time_s in times_s),
        tuple(one.mean for one in spreads),
        tuple(one.mean - (one.sd or 0.0) for one in spreads),
        tuple(one.mean + (one.sd or 0.0) for one in spreads),
    )


# ---------------------------------------------------------------- interactive


def write_html(path: Path, shown: Sequence[Panel], styles: dict[str, Style]) -> None:
    """Draw with plotly; the page holds all it needs.

    Raises:
        ImportError: plotly is not installed.
        OSError: the disk refused.
    """
    import plotly.graph_objects as go  # noqa: PLC0415 - optional, and heavy
    from plotly.subplots import make_subplots  # noqa: PLC0415

    rows, columns = _layout(len(shown))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[html.escape(panel.title) for panel in shown],
        horizontal_spacing=0.07,
        vertical_spacing=min(0.12, 0.3 / rows),
    )
    told: set[str] = set()
    for index, panel in enumerate(shown):
        place: dict[str, Any] = {"row": index // columns + 1, "col": index % columns + 1}
        for line in panel.lines:
            style = styles[line.method]
            group: dict[str, Any] = {"legendgroup": line.method, "name": html.escape(line.method)}
            band = go.Scatter(
                x=[*line.times, *reversed(line.times)],
                y=[*line.high, *reversed(line.low)],
                fill="toself",
                fillcolor=_translucent(style.colour, 0.13),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **group,
            )
            curve = go.Scatter(
                x=line.times,
                y=line.mean,
                mode="lines",
                line={"color": style.colour, "dash": style.dash, "width": 2},
                customdata=[high - mean for high, mean in zip(line.high, line.mean, strict=True)],
                hovertemplate=f"%{{y:.1f}} ± %{{customdata:.1f}} % at %{{x:.4g}} {panel.unit}",
                showlegend=line.method not in told,
                **group,
            )
            figure.add_trace(band, **place)
            figure.add_trace(curve, **place)
            told.add(line.method)
        figure.update_xaxes(title_text=f"virtual time, {panel.unit}", range=[0, panel.horizon], **place)
        figure.update_yaxes(title_text="accuracy, %", range=[panel.bottom, panel.top], **place)
    figure.update_layout(
        template="plotly_white",
        title={"text": f"{TITLE}<br><sup>{NOTE}</sup>"},
        height=120 + 420 * rows,
        hovermode="closest",
        legend={"groupclick": "togglegroup"},
    )
    write_whole(path, figure.to_html(include_plotlyjs=True).encode())


def _translucent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _layout(num_panels: int) -> tuple[int, int]:
    """Rows and columns."""
    columns = num_panels if num_panels <= _MAX_COLUMNS else 2 if num_panels == 4 else _MAX_COLUMNS
    return math.ceil(num_panels / columns), columns


# ---------------------------------------------------------------- picture


def write_png(path: Path, shown: Sequence[Panel], styles: dict[str, Style]) -> None:
    """Draw with Matplotlib; each line bears its name.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the disk refused.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and heavy

    rows, columns = _layout(len(shown))
    most = max(len(panel.lines) for panel in shown)
    height = max(3.4, 1.0 + most * 1.3 * _LABEL_POINTS / 72)
    figure = Figure(
        figsize=(max(7.0, 5.6 * columns), height * rows + 0.7), layout="constrained", facecolor=GROUND
    )
    figure.suptitle(f"{TITLE}\n", x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.01, 1 - 0.42 / (height * rows + 0.7), NOTE, fontsize=8.5, color=SOFT, va="center")
    places = [place for row in figure.subplots(rows, columns, squeeze=False) for place in row]
    for place in places[len(shown) :]:
        place.set_axis_off()
    for place, panel in zip(places, shown, strict=False):
        _draw_panel(place, panel, styles)
        _label_lines(place, panel, styles, _LABEL_POINTS * 1.25 / (72 * (height - 0.8)))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())


def _draw_panel(axes: Axes, panel: Panel, styles: dict[str, Style]) -> None:
    for depth, line in enumerate(reversed(panel.lines)):  # the reference on top
        style = styles[line.method]
        axes.fill_between(
            line.times, line.low, line.high, color=style.colour, alpha=0.12, linewidth=0, zorder=2
        )
        axes.plot(
            line.times,
            line.mean,
            color=style.colour,
            linestyle=_MATPLOTLIB_DASHES[style.dash],
            linewidth=2.2 if depth == len(panel.lines) - 1 else 1.6,
            zorder=3 + depth / len(panel.lines),
        )
    axes.set_title(panel.title, fontsize=10, color=INK, loc="left", parse_math=False)
    axes.set_xlim(0, panel.horizon)
    axes.set_ylim(panel.bottom, panel.top)
    axes.set_xlabel(f"virtual time, {panel.unit}", fontsize=9, color=SOFT)
    axes.set_ylabel("accuracy, %", fontsize=9, color=SOFT)
    axes.tick_params(labelsize=8, colors=SOFT, length=0)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _label_lines(axes: Axes, panel: Panel, styles: dict[str, Style], gap_fraction: float) -> None:
    """Write each method and its last value at the end of its line, apart from each other."""
    span = panel.top - panel.bottom
    ends = sorted(panel.lines, key=lambda line: line.mean[-1])
    places = spread_labels(
        [line.mean[-1] for line in ends],
        gap_fraction * span,
        panel.bottom,
        panel.top - gap_fraction * span / 2,
    )
    for line, place in zip(ends, places, strict=True):
        style = styles[line.method]
        axes.annotate(
            f"{line.method} {line.mean[-1]:.1f}",
            xy=(line.times[-1], max(line.mean[-1], panel.bottom)),
            xytext=(panel.horizon * 1.045, place),
            color=style.colour,
            fontsize=_LABEL_POINTS,
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style.colour,
                "linewidth": 0.8,
                "linestyle": _MATPLOTLIB_DASHES[style.dash],
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
