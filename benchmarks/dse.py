"""The search's front beside uniform keep fractions and random search, and two workers beside one.

    python -m benchmarks.dse [--quick] [--data DIR] [--json]

One fixed protocol: the default network (cnn-28) on fashion-mnist-small, 150 trials, two workers, the settings
of `PROTOCOL`. The Bayesian sampler and random search get as many trials, the same uniform vectors to begin
with, the same early stopping and the same second measurement.

What each of them ends with is then measured afresh: on the data's test part, which no search has seen, from
other initial weights, other warm starts, mini-batches and channel draws; uniform keep fractions from 0.1 to 1
in steps of 0.05 too. Hypervolume is the area between training MACs and mean gain that the fresh measurements
dominate; the reference point is (MACs of the full network, no gain), in units of full MACs times accuracy.
`as_chosen` is the area below what a device would get: for each budget the fresh gain of the entry that the
table (for uniform fractions: the widest) would have it train. It picks nothing by the fresh measurements.

Trials per second are those of one and of two workers on the same sixteen random vectors, in turn.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.report import Check, Report, median, median_ratio, parser, publish, sample_interleaved
from dse.costs import Pricing
from dse.hypervolume import hypervolume
from dse.objectives import gain
from dse.run import Outcome, run
from dse.samplers import SamplerName
from dse.settings import SearchSettings
from dse.site import Run, load_site
from dse.study import quiet
from dse.warm import warm_starts
from dse.worker import Task
from dse.workers import give, started_workers
from models.data.dataset import DEFAULT_DATA, load_data
from models.subnet import DropoutVector, full_vector, uniform_vector
from models.zoo.initial import initial_weights

NETWORK = "cnn-28"
DEFAULT: SamplerName = "tpe"
ENGINE = "torch"
FRESH_SEED = 1_000

MAX_WALL_S = 600.0
MIN_OVER_UNIFORM = 1.05
MIN_OVER_RANDOM = 1.0
MIN_SPEEDUP = 1.7
"""The issue's limits."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        settings: of the searches.
        num_trials: of each search.
        num_fresh: fresh warm starts of each stage.
        fractions: uniform keep fractions.
        num_timed: trials that one and two workers are timed with.
        num_repeats: times that each of them is timed.
    """

    settings: SearchSettings
    num_trials: int
    num_fresh: int
    fractions: tuple[float, ...]
    num_timed: int
    num_repeats: int


PROTOCOL = SearchSettings(stages=(60, 240), num_steps=15, num_devices=4, num_repeats=2, num_held_out=1500)
FULL = Effort(PROTOCOL, 150, 6, tuple(step / 20 for step in range(2, 21)), num_timed=16, num_repeats=3)
QUICK = Effort(
    msgspec.structs.replace(PROTOCOL, stages=(5, 10), num_steps=2, num_devices=1, num_held_out=100),
    num_trials=12,
    num_fresh=1,
    fractions=(0.25, 0.5, 0.75, 1.0),
    num_timed=2,
    num_repeats=1,
)

Gains = Mapping[DropoutVector, tuple[float, ...]]
"""Vector -> the fresh gain of each stage."""


def a_run(folder: Path, data: str, effort: Effort, sampler: SamplerName, num_workers: int) -> Run:
    """A search of the protocol, in a study of its own."""
    return Run(
        model=NETWORK,
        data=data,
        url=f"sqlite:///{folder / sampler}.db",
        name=sampler,
        num_trials=effort.num_trials,
        engine=ENGINE,
        settings=effort.settings,
        command=f"python -m benchmarks.dse ({sampler})",
        sampler=sampler,
        num_workers=num_workers,
        warm_folder=str(folder / f"{sampler}.warm"),
    )


def search(plan_of_run: Run) -> Outcome:
    """Run a search as `edgetide dse run` does, from nothing."""
    site = load_site(plan_of_run)
    split = load_data(plan_of_run.data, plan_of_run.settings.seed)
    outcome = run(plan_of_run, site.graph, site.bench.initial, split)
    print(f"{plan_of_run.sampler}: {outcome.wall_s:.0f} s, {dict(outcome.phases_s)}", file=sys.stderr)
    return outcome


def fresh_gains(plan_of_run: Run, vectors: Sequence[DropoutVector], repeat: int) -> Gains:
    """Measure vectors on samples and from seeds that no search has used, from one fresh training."""
    settings = msgspec.structs.replace(plan_of_run.settings, seed=FRESH_SEED)
    site = load_site(msgspec.structs.replace(plan_of_run, settings=settings))
    split = load_data(plan_of_run.data)
    inputs, labels = split.test.batch(slice(None))
    bench = replace(
        site.bench,
        initial=initial_weights(site.graph, FRESH_SEED),
        data=split.train,
        held_out_inputs=inputs,
        held_out_labels=labels,
    )
    starts = warm_starts(bench, [repeat])
    return {vector: tuple(gain(bench, start, vector) for start in starts) for vector in vectors}


def all_fresh_gains(plan_of_run: Run, vectors: Sequence[DropoutVector], num_fresh: int) -> list[Gains]:
    """Fresh gains, one mapping for each fresh training, two of them at a time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan_of_run.num_workers, mp_context=context) as pool:
        return list(pool.map(partial(fresh_gains, plan_of_run, vectors), range(num_fresh)))


def volume(
    vectors: Sequence[DropoutVector], fresh: Sequence[Gains], macs: Mapping[DropoutVector, float]
) -> float:
    """Hypervolume of the mean fresh gains, MACs as shares of the full network's."""
    points = [(macs[vector], _mean_gain(fresh, vector)) for vector in vectors]
    return hypervolume(points, (1.0 + 1e-9, 0.0))


def as_chosen(
    ranked: Sequence[DropoutVector], fresh: Sequence[Gains], macs: Mapping[DropoutVector, float]
) -> float:
    """Area below the fresh gain of what a table chooses, by budget.

    Args:
        ranked: from the least progress that the table promises to the most.
        fresh: the fresh gains.
        macs: shares of the full network's.
    """
    area, end = 0.0, 1.0
    for vector in reversed(ranked):  # the best promise that fits
        if macs[vector] < end:
            area += (end - macs[vector]) * _mean_gain(fresh, vector)
            end = macs[vector]
    return area


def ratio_and_error(
    ours: Sequence[DropoutVector],
    others: Sequence[DropoutVector],
    fresh: Sequence[Gains],
    macs: Mapping[DropoutVector, float],
) -> tuple[float, float]:
    """Ratio of two hypervolumes, and its standard error: a jackknife over the fresh trainings."""

    def ratio(part: Sequence[Gains]) -> float:
        below = volume(others, part, macs)
        return volume(ours, part, macs) / below if below else math.nan

    num = len(fresh)
    if num < 2:
        return ratio(fresh), math.nan
    left_out = [ratio([one for index, one in enumerate(fresh) if index != out]) for out in range(num)]
    mean = sum(left_out) / num
    return ratio(fresh), math.sqrt((num - 1) / num * sum((one - mean) ** 2 for one in left_out))


def _mean_gain(fresh: Sequence[Gains], vector: DropoutVector) -> float:
    gains = [stage for one in fresh for stage in one[vector]]
    return sum(gains) / len(gains)


def measure_fronts(report: Report, folder: Path, data: str, effort: Effort) -> None:
    """Search, search at random, and measure what both found and uniform fractions afresh."""
    plans = {name: a_run(folder, data, effort, name, 2) for name in _samplers()}
    outcomes = {name: search(plan_of_run) for name, plan_of_run in plans.items()}
    site = load_site(plans["nsga2"])
    ranked = {
        name: [entry.vector for entry in sorted(outcome.table.entries, key=lambda entry: entry.progress)]
        for name, outcome in outcomes.items()
    }
    ranked["uniform"] = list(
        dict.fromkeys(uniform_vector(site.plan, fraction) for fraction in effort.fractions)
    )
    vectors = list(dict.fromkeys(vector for one in ranked.values() for vector in one))
    pricing = Pricing(site.graph, site.plan, effort.settings.batch_size, plans["nsga2"].price)
    full_macs = pricing(full_vector(site.plan)).macs
    macs = {vector: pricing(vector).macs / full_macs for vector in vectors}
    started_s = time.monotonic()
    fresh = all_fresh_gains(plans["nsga2"], vectors, effort.num_fresh)
    print(f"measured {len(vectors)} vectors afresh: {time.monotonic() - started_s:.0f} s", file=sys.stderr)
    for name, found in ranked.items():
        row = {"method": name, "vectors": len(found), "hypervolume": volume(found, fresh, macs)}
        row["as_chosen"] = as_chosen(found, fresh, macs)
        if name in outcomes:
            outcome = outcomes[name]
            share = outcome.num_parts_saved / (outcome.num_parts + outcome.num_parts_saved)
            row |= {"trials": outcome.num_trials, "wall_s": outcome.wall_s}
            row |= {"stopped": outcome.num_stopped, "measuring_saved": share}
        report.rows.append(row)
    report.checks.append(
        Check("front of the default CNN, seconds", outcomes[DEFAULT].wall_s, "<=", MAX_WALL_S, "10 minutes")
    )
    for ours in (DEFAULT, "nsga2"):
        for peer, op, target in (("uniform", ">=", MIN_OVER_UNIFORM), ("random", ">", MIN_OVER_RANDOM)):
            value, error = ratio_and_error(ranked[ours], ranked[peer], fresh, macs)
            report.rows.append({"hypervolume": ours, "over": peer, "ratio": value, "standard_error": error})
            report.checks.append(Check(f"fresh hypervolume of {ours} over {peer}", value, op, target, peer))


def _samplers() -> Iterator[SamplerName]:
    yield DEFAULT
    yield "nsga2"
    yield "random"


def seconds_per_trial(folder: Path, data: str, effort: Effort, num_workers: int) -> float:
    """Time some trials of a fresh study; the workers are up and the warm starts kept before."""
    plan_of_run = msgspec.structs.replace(
        a_run(folder, data, effort, "random", num_workers),
        name=f"{num_workers} workers, {time.monotonic_ns()}",
        num_trials=effort.num_timed,
        stops_hopeless=False,
    )
    with quiet(), started_workers(plan_of_run) as workers:
        load_site(plan_of_run).open_study()
        repeats = tuple(range(effort.settings.num_repeats))
        give(workers[:1], [Task(kind="warm", repeats=repeats)], lambda: None)
        started_s = time.monotonic()
        give(workers, [Task(kind="search")] * num_workers, lambda: None)
        return (time.monotonic() - started_s) / effort.num_timed


def measure_workers(report: Report, folder: Path, data: str, effort: Effort) -> None:
    """One worker beside two, in turn."""
    samplers = {num: partial(seconds_per_trial, folder, data, effort, num) for num in (1, 2)}
    seconds = sample_interleaved(samplers, effort.num_repeats)
    for num, samples in seconds.items():
        report.rows.append({"workers": num, "trials_per_s": 1 / median(samples), "samples": len(samples)})
    speedup = median_ratio(seconds[1], seconds[2])
    report.checks.append(
        Check("two workers over one: trials per second", speedup, ">=", MIN_SPEEDUP, "1 worker")
    )


def main() -> int:
    """Run the protocol and print the report."""
    arguments = parser(__doc__ or "").parse_args()
    effort = QUICK if arguments.quick else FULL
    report = Report("dse")
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), arguments.data or DEFAULT_DATA
        measure_fronts(report, folder, data, effort)
        measure_workers(report, folder, data, effort)
    return publish(report, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
