"""The words on the plots of a table: titles, axes and what a reader has to know to read them."""

from __future__ import annotations

from typing import NamedTuple

from dse.plot_data import PlotData
from dse.plots_layout import front_frame

MAX_DEVICE_ROWS = 40
"""More devices than these are counted by entry instead of drawn one by one."""


class Words(NamedTuple):
    """Of one plot: what it shows, how it is read, and its axes."""

    title: str
    note: str
    x: str
    y: str


MACS_AXIS = "training MACs of one sample, % of the full network"


def front_words(data: PlotData) -> Words:
    """Of the Pareto front."""
    full = f"100\u00a0% are {data.entries[-1].macs / 1e6:.3g}\u00a0MMAC"
    if data.trials is None:
        return Words(
            f"{data.model}: the table's entries",
            f"Numbers are those of the table. {full}.",
            MACS_AXIS,
            "progress (expected convergence, higher is better)",
        )
    bottom = front_frame(data).bottom
    hidden = sum(100 * point.trial.gain < bottom for point in data.trials)
    below = f" {hidden} trials that harmed the network lie below." if hidden else ""
    return Words(
        f"{data.model}: cost and gain of {len(data.trials)} trials",
        "Numbers are the table's entries, which were measured anew from other warm starts, so they need not "
        f"lie on the trials' front. {full}.{below}",
        MACS_AXIS,
        "held-out accuracy gained, percentage points",
    )


def keep_words(data: PlotData) -> Words:
    """Of the heat map."""
    return Words(
        f"{data.model}: channels that each entry keeps",
        "Columns are the table's entries by rising cost. Rows are the width groups in the order of the "
        "network with their channels at full width. Cells say how many % of these an entry keeps.",
        "entry, and its training MACs in % of the full network",
        "",
    )


def hypervolume_words(data: PlotData) -> Words:
    """Of the hypervolume."""
    assert data.hypervolume is not None
    cost, gain = data.hypervolume.reference
    return Words(
        f"{data.model}: hypervolume over {len(data.hypervolume.numbers)} trials",
        f"Reference point: {100 * cost:.0f} % of the full network's MACs, {100 * gain:.0f} points. This "
        "is the best gain found within a budget, averaged over all budgets from none to the full network's.",
        "trial",
        "hypervolume, percentage points",
    )


def device_words(data: PlotData) -> Words:
    """Of the live devices."""
    assert data.devices is not None
    count = len(data.devices)
    are = "live device operates" if count == 1 else "live devices operate"
    title = f"{data.model}: where {count} {are}"
    if count > MAX_DEVICE_ROWS:
        return Words(
            title,
            "Online devices by the table's entry of their last mini-batch.",
            "entry, and its training MACs in % of the full network",
            "devices",
        )
    return Words(
        title,
        "Thin lines are the table's entries. A bar spans what the device trained with over the last minutes, "
        "the large dot is now; a hollow one is paused.",
        MACS_AXIS,
        "",
    )
