"""What the runs of one scenario come to: accuracy over time, cost, and paired differences.

Every method is read at the same moments, shares of the *horizon*: the virtual time of the reference's
longest run. A method that took longer, for instance because its rounds wait in vain, is read as far as it was
then. Curves are read as `coordinator.comparing.curves` says; tables and times to a target are
of the smoothed reading, the other one stands beside it in the JSON file.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from coordinator.comparing.classes import OwnClasses, WorstClass, own_classes, worst_class
from coordinator.comparing.curves import Curve, newest, seconds_to, smoothed, smoothed_curve
from coordinator.comparing.spread import Spread, interval, spread, spread_of_known

SHARES = (0.25, 0.5, 1.0)
"""Of the horizon, at which accuracy is told."""

BEST_SHARE = 0.95
"""Of the best final accuracy of a seed: the target every comparison has."""

BEST_TARGET = "95 % of the best"

MARGIN_POINTS = 0.5
"""What a method has to be better by, in percentage points, to be called better."""

Accuracy = Annotated[float, Meta(ge=0.0, le=1.0)]


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of one finished run; see `coordinator.twins.result.SimResult`.

    Attributes:
        accuracy_curve: at least one point.
        class_accuracy: of the last version by class; empty where it was not measured.
        budget_used_fraction: share of the seconds the devices were granted that were trained in.
        node_accuracy_curve: without a server (time, mean, least) of the devices' own models; else empty.
        wall_s: seconds the run took.
    """

    accuracy: Accuracy
    accuracy_curve: Annotated[tuple[tuple[float, Accuracy], ...], Meta(min_length=1)]
    virtual_s: Annotated[float, Meta(ge=0.0)]
    macs: Annotated[int, Meta(ge=0)]
    bytes_sent: Annotated[int, Meta(ge=0)]
    engine: str
    class_accuracy: tuple[float | None, ...] = ()
    budget_used_fraction: float | None = None
    node_accuracy_curve: tuple[tuple[float, Accuracy, Accuracy], ...] = ()
    wall_s: float = 0.0


Runs = Mapping[str, Mapping[int, RunOutcome]]
"""Method -> seed -> what came of it; runs that failed are not there."""

Read = Callable[[Curve, float], float]
"""A curve's accuracy at a virtual second: `newest` or `smoothed`."""


class AtShare(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy (0..1) at a share of the horizon, read in both ways."""

    share: float
    smoothed: Spread
    newest: Spread


class TimeTo(msgspec.Struct, frozen=True, kw_only=True):
    """Virtual seconds to a target.

    Attributes:
        target: what is to be reached, in words.
        seconds: over the seeds that reached it; None where none did.
        num_reached, num_runs: seeds.
        ratio: seconds over those of the reference, over the seeds in which both reached it.
        by_seed: seconds, None where it was not reached.
        newest_by_seed: the same, read by the newest version alone.
    """

    target: str
    seconds: Spread | None
    num_reached: int
    num_runs: int
    ratio: Spread | None
    by_seed: dict[str, float | None]
    newest_by_seed: dict[str, float | None]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A method less the reference in percentage points, over seeds that both have.

    Attributes:
        share: of the horizon.
        mean: of the paired differences; None without a pair. low, high: of its 95 % t-interval; None of
            fewer than two pairs.
        num_pairs: seeds.
        better: whether the interval lies above 0 and the mean above MARGIN_POINTS; None where one pair
            cannot tell. worse: the same the other way round.
    """

    share: float
    mean: float | None
    low: float | None
    high: float | None
    num_pairs: int
    better: bool | None
    worse: bool | None


class MethodSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One method over its seeds.

    Attributes:
        seeds: those that finished.
        accuracy: at each of SHARES. last: of the last version (0..1).
        times: to each target.
        differences, newest_differences: from the reference at each of SHARES, in both readings; empty for
            the reference itself.
        macs, bytes_sent, budget_used_fraction: of the whole fleet and run.
    """

    seeds: tuple[int, ...]
    accuracy: tuple[AtShare, ...]
    last: Spread
    times: tuple[TimeTo, ...]
    differences: tuple[Difference, ...]
    newest_differences: tuple[Difference, ...]
    macs: Spread
    bytes_sent: Spread
    budget_used_fraction: Spread | None
    worst_class: WorstClass | None
    own_classes: tuple[OwnClasses, ...]


class ScenarioSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All methods of one scenario.

    Attributes:
        reference: the method that others are compared with.
        horizon_s: virtual seconds that SHARES refer to.
        methods: by name, in the order they were given; without those of which no run finished.
        better_than_reference: share of the horizon -> methods that are better there.
    """

    reference: str
    horizon_s: float
    methods: dict[str, MethodSummary]
    better_than_reference: dict[str, tuple[str, ...]]


def summarise(
    runs: Runs,
    *,
    reference: str,
    targets: Sequence[float] = (),
    own_labels: Mapping[str, Sequence[int]] | None = None,
) -> ScenarioSummary:
    """Sum up the finished runs of one scenario.

    Args:
        runs: of which at least one finished.
        reference: method the others are compared with; it may have no finished run.
        targets: accuracies 0..1, besides BEST_SHARE of the best of each seed.
        own_labels: group -> classes that only its devices hold.
    """
    finished = {method: dict(sorted(by_seed.items())) for method, by_seed in runs.items() if by_seed}
    of_reference = {reference: finished[reference]} if reference in finished else finished
    horizon_s = max(run.virtual_s for by_seed in of_reference.values() for run in by_seed.values())
    goals = _goals(finished, horizon_s, targets)
    methods = {
        method: _summarise_method(
            by_seed,
            {} if method == reference else finished.get(reference, {}),
            horizon_s=horizon_s,
            goals=goals,
            own_labels=own_labels or {},
        )
        for method, by_seed in finished.items()
    }
    better = {
        f"{share:g}": tuple(
            name
            for name, method in methods.items()
            if any(difference.better for difference in method.differences if difference.share == share)
        )
        for share in SHARES
    }
    return ScenarioSummary(
        reference=reference, horizon_s=horizon_s, methods=methods, better_than_reference=better
    )


def _summarise_method(
    runs: Mapping[int, RunOutcome],
    reference: Mapping[int, RunOutcome],
    *,
    horizon_s: float,
    goals: Mapping[str, Mapping[int, float]],
    own_labels: Mapping[str, Sequence[int]],
) -> MethodSummary:
    outcomes = list(runs.values())
    classes = [run.class_accuracy for run in outcomes]

    def differences(read: Read) -> tuple[Difference, ...]:
        return tuple(_difference(runs, reference, read, share, horizon_s) for share in SHARES if reference)

    return MethodSummary(
        seeds=tuple(runs),
        accuracy=tuple(_at_share(outcomes, share, horizon_s) for share in SHARES),
        last=spread([run.accuracy for run in outcomes]),
        times=tuple(_time_to(name, goal, runs, reference, horizon_s) for name, goal in goals.items()),
        differences=differences(smoothed),
        newest_differences=differences(newest),
        macs=spread([run.macs for run in outcomes]),
        bytes_sent=spread([run.bytes_sent for run in outcomes]),
        budget_used_fraction=spread_of_known(run.budget_used_fraction for run in outcomes),
        worst_class=worst_class(classes),
        own_classes=own_classes(classes, own_labels),
    )


def _goals(runs: Runs, horizon_s: float, targets: Sequence[float]) -> dict[str, dict[int, float]]:
    """Target in words -> seed -> accuracy to be reached."""
    best: dict[int, float] = {}
    for by_seed in runs.values():
        for seed, run in by_seed.items():
            best[seed] = max(best.get(seed, 0.0), smoothed(run.accuracy_curve, horizon_s))
    goals = {f"{100 * target:g} %": dict.fromkeys(best, target) for target in targets}
    return {**goals, BEST_TARGET: {seed: BEST_SHARE * accuracy for seed, accuracy in best.items()}}


def _at_share(runs: Collection[RunOutcome], share: float, horizon_s: float) -> AtShare:
    return AtShare(
        share=share,
        smoothed=spread([smoothed(run.accuracy_curve, share * horizon_s) for run in runs]),
        newest=spread([newest(run.accuracy_curve, share * horizon_s) for run in runs]),
    )


def _time_to(
    name: str,
    goal: Mapping[int, float],
    runs: Mapping[int, RunOutcome],
    reference: Mapping[int, RunOutcome],
    horizon_s: float,
) -> TimeTo:
    def within(time_s: float | None) -> float | None:
        return None if time_s is None or time_s > horizon_s else time_s

    def times(of: Mapping[int, RunOutcome]) -> dict[int, float | None]:
        curves = {seed: smoothed_curve(run.accuracy_curve) for seed, run in of.items()}
        return {seed: within(seconds_to(curve, goal[seed])) for seed, curve in curves.items()}

    mine, theirs = times(runs), times(reference)
    # What is reached untrained, at 0 s, has no ratio.
    ratios = [
        time_s / their_s
        for seed, time_s in mine.items()
        if time_s is not None and (their_s := theirs.get(seed))
    ]
    return TimeTo(
        target=name,
        seconds=spread_of_known(mine.values()),
        num_reached=sum(time_s is not None for time_s in mine.values()),
        num_runs=len(runs),
        ratio=spread_of_known(ratios),
        by_seed={str(seed): time_s for seed, time_s in mine.items()},
        newest_by_seed={
            str(seed): within(seconds_to(run.accuracy_curve, goal[seed])) for seed, run in runs.items()
        },
    )


def _difference(
    runs: Mapping[int, RunOutcome],
    reference: Mapping[int, RunOutcome],
    read: Read,
    share: float,
    horizon_s: float,
) -> Difference:
    def accuracy(run: RunOutcome) -> float:
        return read(run.accuracy_curve, share * horizon_s)

    points = [
        100 * (accuracy(run) - accuracy(reference[seed])) for seed, run in runs.items() if seed in reference
    ]
    mean = statistics.fmean(points) if points else None
    between = interval(points)
    if mean is None or between is None:
        return Difference(
            share=share, mean=mean, low=None, high=None, num_pairs=len(points), better=None, worse=None
        )
    low, high = between
    return Difference(
        share=share,
        mean=mean,
        low=low,
        high=high,
        num_pairs=len(points),
        better=low > 0 and mean > MARGIN_POINTS,
        worse=high < 0 and mean < -MARGIN_POINTS,
    )
