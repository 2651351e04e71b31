"""Prototype gossip beside no communication, the paper's forms, and river's learners alone.

    python -m benchmarks.gossip [--quick] [--data DIR] [--river PYTHON] [--seeds 0-9] [--streams NAME ...]
                                [--methods NAME ...] [--workers N] [--json]

Predict, then learn (prequential); counts of all nodes together. Messages are the real ones, with topics and
MQTT's headers, over a network that delays them by 20 ms. DIR holds `elec/elec.csv.gz` and `digits.npz`
(`benchmarks.prepare_data`); without them the rotating streams alone are run. PYTHON is an interpreter that
has `river`. `--quick` plays the first samples of each stream only. The age of what nodes hold of each
other is measured too, and compared with its formula, unless `--streams` asks for some only.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gossip_ages import CASES, age_checks, age_row
from benchmarks.gossip_fleet import run_fleet
from benchmarks.gossip_streams import STREAMS, Site, to_arrays
from benchmarks.report import Check, Report, parser, publish
from coordinator.comparing.plan import parse_seeds
from firmware_profiles.errors import UserError
from models.gossip_settings import GossipSettings, NewsSettings, SetSettings
from models.prototypes.prequential import Prequential, accuracy, f1_scores
from models.prototypes.settings import IlvqSettings

_PAPER = IlvqSettings(max_prototypes=2000, scale_memory=None)

METHODS: dict[str, GossipSettings] = {
    "gossip": GossipSettings(),
    "alone": GossipSettings(shares="nothing"),
    "all is news": GossipSettings(news=NewsSettings(below=1.0)),
    "paper: alone": GossipSettings(learner="ilvq", shares="nothing", ilvq=_PAPER),
    "paper: base": GossipSettings(
        learner="ilvq", shares="sets", ilvq=_PAPER, sets=SetSettings(skips_known=False)
    ),
    "paper: gate": GossipSettings(
        learner="ilvq", shares="sets", ilvq=_PAPER, sets=SetSettings(gate="paper", skips_known=False)
    ),
    "paper: gate, clusters": GossipSettings(
        learner="ilvq",
        shares="sets",
        ilvq=_PAPER,
        sets=SetSettings(gate="paper", clustering="dbscan", skips_known=False),
    ),
    "ilvq, calibrated gate": GossipSettings(
        learner="ilvq", shares="sets", sets=SetSettings(gate="calibrated", clustering="kmeans")
    ),
}
OURS, ALONE, BASE = "gossip", "alone", "paper: base"
PAPER_BEST = ("paper: base", "paper: gate", "paper: gate, clusters")
NO_CHANGE = "the label before"

NUM_QUICK = 40
"""Samples of a node with `--quick`."""


@dataclass(frozen=True)
class Outcome:
    """What one method did on one stream with one seed.

    Attributes:
        accuracy: of the judged nodes together. f1: of class 1 where there are two, else the classes' mean.
        by_node: accuracy of each judged node.
        sent, received: bytes per sample and node. told: messages per sample.
    """

    accuracy: float
    f1: float
    by_node: tuple[float, ...]
    sent: float = 0.0
    received: float = 0.0
    told: float = 0.0


@dataclass(frozen=True)
class Job:
    """One run; `most` samples a node."""

    stream: str
    method: str
    seed: int
    folder: str
    most: int | None = None


def site_of(job: Job) -> Site:
    """The stream of a job."""
    kind = STREAMS[job.stream]
    return kind.make(Path(job.folder), kind.num_nodes, job.seed).cut(job.most)


def run_job(job: Job) -> Outcome:
    """Run one method on one stream."""
    site = site_of(job)
    nodes = run_fleet(site.streams, METHODS[job.method], num_classes=site.num_classes, seed=job.seed)
    num = sum(len(stream.labels) for stream in site.streams)
    return Outcome(
        *_scores([nodes[index].session.prequential.counts for index in site.judged]),
        sent=sum(node.bytes_sent for node in nodes) / num,
        received=sum(node.bytes_received for node in nodes) / num,
        told=sum(node.num_sent for node in nodes) / num,
    )


def run_river(job: Job, python: str) -> dict[str, Outcome]:
    """River's learners on one stream."""
    site = site_of(job)
    with tempfile.TemporaryDirectory() as folder:
        streams, result = Path(folder) / "streams.npz", Path(folder) / "predicted.npz"
        np.savez(streams, **to_arrays(site))  # type: ignore[arg-type]
        command = [python, "-m", "benchmarks.river_worker", str(streams), str(result)]
        subprocess.run(command, check=True)
        with np.load(result) as found:
            predicted = dict(found)
    names = dict.fromkeys(name.rpartition("/")[0] for name in predicted)
    return {
        name: _judged(site, {index: predicted[f"{name}/{index}"] for index in site.judged}) for name in names
    }


def no_change(job: Job) -> Outcome:
    """Each sample is predicted to be of the class that was last known."""
    site = site_of(job)
    predicted = {}
    for index in site.judged:
        stream = site.streams[index]
        late = 1 + stream.label_delay
        predicted[index] = np.concatenate([np.zeros(late, np.int64), stream.labels])[: len(stream.labels)]
    return _judged(site, predicted)


def _judged(site: Site, predicted: Mapping[int, NDArray[np.int64]]) -> Outcome:
    counted = []
    for index, guesses in predicted.items():
        counts = Prequential(site.num_classes)
        for true, guess in zip(site.streams[index].labels, guesses, strict=True):
            counts.add(int(true), int(guess))
        counted.append(counts.counts)
    return Outcome(*_scores(counted))


def _scores(counts: Sequence[NDArray[np.int64]]) -> tuple[float, float, tuple[float, ...]]:
    total = np.sum(counts, axis=0)
    f1 = f1_scores(total)
    by_node = tuple(accuracy(one) or 0.0 for one in counts)
    return accuracy(total) or 0.0, float(f1[1] if len(f1) == 2 else f1.mean()), by_node


# ---------------------------------------------------------------- what came of it

Results = dict[str, dict[str, dict[int, Outcome]]]
"""Stream -> method -> seed -> outcome."""


def report_of(results: Results) -> Report:
    """Rows by stream and method, and what must hold."""
    report = Report("gossip")
    for stream, by_method in results.items():
        for method, by_seed in by_method.items():
            outcomes = list(by_seed.values())
            spread = statistics.stdev(one.f1 for one in outcomes) if len(outcomes) > 1 else None
            report.rows.append(
                {
                    "stream": stream,
                    "method": method,
                    "num_seeds": len(outcomes),
                    "accuracy": round(100 * statistics.fmean(one.accuracy for one in outcomes), 2),
                    "f1": round(100 * statistics.fmean(one.f1 for one in outcomes), 2),
                    "f1_sd": None if spread is None else round(100 * spread, 2),
                    "sent": round(statistics.fmean(one.sent for one in outcomes), 1),
                    "received": round(statistics.fmean(one.received for one in outcomes), 1),
                    "told": round(statistics.fmean(one.told for one in outcomes), 3),
                }
            )
        report.checks += _checks(stream, by_method)
    return report


def _checks(stream: str, by_method: Mapping[str, Mapping[int, Outcome]]) -> Iterator[Check]:
    ours = by_method.get(OURS)
    if ours is None:
        return
    f1 = {method: statistics.fmean(one.f1 for one in runs.values()) for method, runs in by_method.items()}
    sent = {method: statistics.fmean(one.sent for one in runs.values()) for method, runs in by_method.items()}
    alone = by_method.get(ALONE)
    if alone is not None:
        seeds = sorted(ours.keys() & alone.keys())
        lost = statistics.fmean(100 * (alone[seed].accuracy - ours[seed].accuracy) for seed in seeds)
        yield Check(f"{stream}: points lost by gossip, mean", lost, "<=", 0.3, ALONE)
        nodes = np.array([[alone[s].by_node, ours[s].by_node] for s in seeds])
        worst = float(100 * (nodes[:, 0] - nodes[:, 1]).mean(axis=0).max())
        yield Check(f"{stream}: points lost by gossip, worst node", worst, "<=", 1.5, ALONE)
    paper = [method for method in PAPER_BEST if method in f1]
    if paper:
        best = max(paper, key=lambda method: f1[method])
        yield Check(f"{stream}: F1 over the paper's best form", 100 * (f1[OURS] - f1[best]), ">", 0.0, best)
    if BASE in f1:
        yield Check(f"{stream}: bytes over those of the base", sent[OURS] / sent[BASE], "<=", 0.1, BASE)
        if PAPER_BEST[-1] in f1:
            clustered = PAPER_BEST[-1]
            yield Check(f"{stream}: bytes of the paper's form", sent[clustered] / sent[BASE], "<=", 0.2, BASE)
            lost = 100 * (f1[BASE] - f1[clustered])
            yield Check(f"{stream}: F1 that the paper's form loses", lost, "<=", 0.0, BASE)
    for method, value in f1.items():
        if method.startswith("river") or method == NO_CHANGE:
            yield Check(f"{stream}: F1 over {method}", 100 * (f1[OURS] - value), ">", 0.0, method)
    limits = {"elec first": (83.0, 80.0), "elec blocks": (88.5, None)}
    if stream in limits:
        least, most = limits[stream]
        yield Check(f"{stream}: F1", 100 * f1[OURS], ">=", least, "a prototype of this method")
        if most is not None:
            yield Check(f"{stream}: bytes sent per sample and node", sent[OURS], "<=", most, "limit")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and print the report."""
    made = parser(__doc__ or "")
    made.add_argument("--river", metavar="PYTHON", help="interpreter that has river")
    made.add_argument("--seeds", default="0-9", help="such as 0-9")
    made.add_argument(
        "--streams", nargs="+", choices=list(STREAMS), help="all that the data allows by default"
    )
    made.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    made.add_argument("--workers", type=int, default=None, help="processes at a time; the cores by default")
    options = made.parse_args(arguments)
    folder = options.data or ""
    streams = options.streams or [name for name in STREAMS if folder or name.startswith("rotation")]
    seeds = (0,) if options.quick else parse_seeds(options.seeds)
    most = NUM_QUICK if options.quick else None
    if options.quick:
        streams = [name for name in streams if name.startswith("rotation") and "20" not in name]
    results: Results = {}
    with ProcessPoolExecutor(options.workers) as pool:
        futures = {}
        for stream in streams:
            for seed in seeds if STREAMS[stream].has_seeds else seeds[:1]:
                for method in options.methods:
                    job = Job(stream, method, seed, folder, most)
                    futures[stream, method, seed] = pool.submit(run_job, job)
                job = Job(stream, NO_CHANGE, seed, folder, most)
                futures[stream, NO_CHANGE, seed] = pool.submit(no_change, job)
                if options.river is not None:
                    futures[stream, "", seed] = pool.submit(run_river, job, options.river)
        cases = () if options.streams else CASES[:1] if options.quick else CASES
        ages = [pool.submit(age_row, case, seeds[0]) for case in cases]
        for (stream, method, seed), future in futures.items():
            found = future.result()
            for name, outcome in (found if isinstance(found, dict) else {method: found}).items():
                results.setdefault(stream, {}).setdefault(name, {})[seed] = outcome
            print(f"{stream} · {method or 'river'} · seed {seed}", file=sys.stderr)
        age_rows = [future.result() for future in ages]
    report = report_of(results)
    report.rows += age_rows
    report.checks += [check for row in age_rows for check in age_checks(row)]
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
