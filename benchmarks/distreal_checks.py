"""What the study must show, computed from the results of its cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.distreal_cells import TUNED_BUDGET, Cell
from benchmarks.distreal_plans import PLANNED
from benchmarks.report import Check
from coordinator.comparing.curves import seconds_to, smoothed_curve
from coordinator.comparing.summary import BEST_TARGET, Runs, ScenarioSummary, TimeTo

OURS = "distreal"
"""As it comes, whatever the fleet."""

FIXED = "distreal-fixed"
SMALL = "small"
PUBLISHED = ("heterofl", "fjord", "fjord-kd", "fedrolex", "feddrop", "fiarse")
SAME_FLOOR = "uniform-floor"
BASELINES = ("full", "drop", *PUBLISHED, "uniform", SAME_FLOOR, "distreal-paper")


@dataclass(frozen=True)
class Measured:
    """A cell with what came of its runs."""

    cell: Cell
    runs: Runs
    summary: ScenarioSummary

    def final(self, method: str) -> float:
        """Accuracy in percent at the horizon, smoothed, mean over seeds; NaN without a run."""
        found = self.summary.methods.get(method)
        return math.nan if found is None else 100 * found.accuracy[-1].smoothed.mean

    def best(self, methods: Iterable[str]) -> str | None:
        """The one with the best final accuracy of those that ran."""
        ran = [method for method in methods if method in self.summary.methods]
        return max(ran, key=self.final, default=None)

    @property
    def default(self) -> str:
        """What edgetide would run: what was planned for the fleet, if it was."""
        return PLANNED if PLANNED in self.summary.methods else OURS

    def beginning(self, prefix: str) -> list[str]:
        """Methods that ran whose name begins so."""
        return [method for method in self.summary.methods if method.startswith(prefix)]


def checks_of(measured: Sequence[Measured]) -> list[Check]:
    """All checks for which the methods ran."""
    found: list[Check] = []
    for one in measured:
        if one.cell.kind not in ("matrix", "iid") or one.default not in one.summary.methods:
            continue
        found += envelope(one)
        if one.cell.family != "memory":
            found += live_choice(one)
        found += capacity(one)
        found += unique_classes(one)
        found += times_to_best(one)
    return found + unconstrained(measured)


def envelope(one: Measured) -> list[Check]:
    """No single method is better at half and at the whole of the virtual time."""
    return [
        Check(
            f"{one.cell.name}: methods better at {float(share):.0%} of the time",
            sum(method in BASELINES or method.startswith(SMALL) for method in methods),
            "==",
            0,
            "every other method, paired 95 % interval and 0.5 points",
        )
        for share, methods in one.summary.better_than_reference.items()
        if float(share) >= 0.5 and one.summary.reference == one.default
    ]


def live_choice(one: Measured) -> list[Check]:
    """Choosing per mini-batch against the best vector that never changes."""
    fixed = one.best(one.beginning(FIXED))
    if fixed is None or OURS not in one.summary.methods:
        return []
    return [
        Check(
            f"{one.cell.name}: time to the same accuracy, live / fixed",
            time_ratio(one, OURS, fixed),
            "<=",
            0.85,
            fixed,
        ),
        Check(
            f"{one.cell.name}: points lost by choosing live",
            one.final(fixed) - one.final(OURS),
            "<=",
            0.3,
            fixed,
        ),
    ]


def time_ratio(one: Measured, method: str, peer: str) -> float:
    """Median over seeds of the seconds of both to the best accuracy that both reach."""
    ratios = []
    for seed, run in one.runs[method].items():
        other = one.runs[peer].get(seed)
        if other is None:
            continue
        curves = [smoothed_curve(each.accuracy_curve) for each in (run, other)]
        goal = min(max(accuracy for _, accuracy in curve) for curve in curves)
        mine, theirs = (seconds_to(curve, goal) for curve in curves)
        if mine is not None and theirs:
            ratios.append(mine / theirs)
    return statistics.median(ratios) if ratios else math.nan


def capacity(one: Measured) -> list[Check]:
    """Where capacity binds: against the best narrow network."""
    scarce = one.cell.budget is not None and one.cell.budget <= TUNED_BUDGET
    binds = one.cell.family == "memory" or (
        one.cell.family == "time" and one.cell.dataset == "cifar" and scarce
    )
    small = one.best(one.beginning(SMALL))
    if not binds or small is None:
        return []
    gained = one.final(one.default) - one.final(small)
    return [Check(f"{one.cell.name}: points above the best small network", gained, ">=", 1.0, small)]


def unique_classes(one: Measured) -> list[Check]:
    """Classes that only some devices hold are not sacrificed."""
    found = []
    ours, dropped = (one.summary.methods.get(method) for method in (one.default, "drop"))
    for index, own in enumerate(ours.own_classes if ours else ()):
        if own.others is not None:
            behind = 100 * (own.others.mean - own.own.mean)
            found.append(
                Check(f"{one.cell.name}: points behind other classes", behind, "<=", 5.0, "the other classes")
            )
        if dropped is not None and len(dropped.own_classes) > index:
            above = 100 * (own.own.mean - dropped.own_classes[index].own.mean)
            found.append(Check(f"{one.cell.name}: points above dropping them", above, ">=", 20.0, "drop"))
    return found


def times_to_best(one: Measured) -> list[Check]:
    """Time to 95 % of the best final accuracy."""
    times = {
        method: _seconds(time, one.summary.horizon_s)
        for method, summary in one.summary.methods.items()
        for time in summary.times
        if time.target == BEST_TARGET
    }
    found = []
    ran = [method for method in PUBLISHED if method in times]
    for peers, target in ((ran, 0.8), ([SAME_FLOOR], 0.9)):
        quickest = min((method for method in peers if method in times), key=times.__getitem__, default=None)
        if quickest is not None:
            found.append(
                Check(
                    f"{one.cell.name}: time to 95 % of the best, ours / {quickest}",
                    times[one.default] / times[quickest] if times[quickest] else math.nan,
                    "<=",
                    target,
                    quickest,
                )
            )
    return found


def unconstrained(measured: Sequence[Measured]) -> list[Check]:
    """Final accuracy at a fifth of a pass against as much training as anybody wants."""
    found = []
    for free in (one for one in measured if one.cell.kind == "unconstrained"):
        for one in measured:
            if (
                one.cell.kind == "matrix"
                and (one.cell.family, one.cell.dataset) == (free.cell.family, free.cell.dataset)
                and one.cell.budget == TUNED_BUDGET
            ):
                lost = free.final("full") - one.final(one.default)
                name = f"{one.cell.name}: points below unconstrained training"
                found.append(Check(name, lost, "<=", 1.5, "full network, no limits"))
    return found


def ordering(one: Measured) -> list[str]:
    """Methods by final accuracy, the best first."""
    return sorted(one.summary.methods, key=one.final, reverse=True)


def _seconds(time: TimeTo, horizon_s: float) -> float:
    """Mean over seeds; who never got there took the whole time, at least."""
    seconds = [horizon_s if value is None else value for value in time.by_seed.values()]
    return statistics.fmean(seconds)
