"""Plots of a plan: the expected curves of what was compared, with their bands."""

from __future__ import annotations

from pathlib import Path

from coordinator.planning.plan_file import Compared, Plan
from dse.plots_style import SERIES
from firmware_profiles.errors import UserError

NUM_DRAWN = 6

_EXTRA = "plots need packages that are not installed: install edgetide[dse]"


def drawn(plan: Plan) -> list[tuple[Compared, str]]:
    """The best candidates of different curves, with their colours."""
    return list(zip(plan.compared[:NUM_DRAWN], SERIES, strict=False))


def write_html(plan: Plan, path: Path) -> None:
    """Write an interactive page that needs no network.

    Raises:
        UserError: plotly is not installed, or the file cannot be written.
    """
    try:
        from plotly import graph_objects  # noqa: PLC0415 - an extra
    except ImportError:
        raise UserError(_EXTRA) from None
    figure = graph_objects.Figure()
    for one, colour in drawn(plan):
        rounds = [point.round for point in one.curve]
        band = [point.high for point in one.curve] + [point.low for point in reversed(one.curve)]
        shared = {"legendgroup": one.name, "line": {"color": colour}}
        figure.add_scatter(
            **{**shared, "line": {"width": 0}},
            x=rounds + rounds[::-1],
            y=band,
            fill="toself",
            fillcolor=colour,
            opacity=0.12,
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(**shared, x=rounds, y=[point.accuracy for point in one.curve], name=one.name)
    figure.update_layout(
        title=_title(plan), xaxis_title="round", yaxis_title="expected accuracy", template="plotly_white"
    )
    try:
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_png(plan: Plan, path: Path) -> None:
    """Write a picture.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise UserError(_EXTRA) from None
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    for one, colour in drawn(plan):
        rounds = [point.round for point in one.curve]
        axes.plot(rounds, [point.accuracy for point in one.curve], color=colour, label=one.name)
        low, high = [point.low for point in one.curve], [point.high for point in one.curve]
        axes.fill_between(rounds, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="round", ylabel="expected accuracy", title=_title(plan))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    try:
        canvas.print_png(str(path))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _title(plan: Plan) -> str:
    return f"{plan.fleet}: what {plan.rounds} rounds are expected to come to (bands: 95 %)"
