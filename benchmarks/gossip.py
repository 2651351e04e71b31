"""Prototype gossip beside no communication, the paper's forms, and river's learners alone.

    python -m benchmarks.gossip [--quick] [--data DIR] [--river PYTHON] [--seeds 0-9] [--streams NAME ...]
                                [--methods NAME ...] [--workers N] [--out RESULTS] [--json]

Predict, then learn (prequential); counts of all nodes together. Messages are the real ones, with topics and
MQTT's headers, over a network that delays them by 20 ms. DIR holds `elec/elec.csv.gz` and `digits.npz`
(`benchmarks.prepare_data`); without them the streams that need no files are run. PYTHON is an interpreter
that has `river`. RESULTS is a folder where the outcome of each run is kept, so that a study can be continued.
`--quick` plays the first samples of each stream only. The age of what nodes hold of each other is measured
too, and compared with its formula, unless `--streams` asks for some only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.gossip_ages import CASES, age_checks, age_row
from benchmarks.gossip_checks import Outcome, report_of
from benchmarks.gossip_fleet import run_fleet
from benchmarks.gossip_methods import METHODS, NO_CHANGE
from benchmarks.gossip_streams import STREAMS, Site, to_arrays
from benchmarks.report import parser, publish
from coordinator.comparing.plan import parse_seeds
from firmware_profiles.errors import UserError
from models.prototypes.prequential import Prequential, accuracy, f1_scores

NUM_QUICK = 40
"""Samples of a node with `--quick`."""


RIVER = "river"

WITHOUT_DATA = "rotation", "images"
"""Streams whose names begin so need no files."""


@dataclass(frozen=True)
class Job:
    """One run; `most` samples a node. `out` is where its outcome is kept; empty: nowhere."""

    stream: str
    method: str
    seed: int
    folder: str
    most: int | None = None
    out: str = ""


def outcomes_of(job: Job, python: str = "") -> dict[str, Outcome]:
    """What a job finds, by method; from where it is kept, if it has been run before."""
    run: Callable[[], dict[str, Outcome]] = {
        RIVER: lambda: run_river(job, python),
        NO_CHANGE: lambda: {NO_CHANGE: no_change(job)},
    }.get(job.method, lambda: {job.method: run_job(job)})
    if not job.out:
        return run()
    name = "_".join(f"{job.stream} {job.method} {job.seed}".replace("%", "percent").split())
    path = Path(job.out) / f"{name}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Outcome])
    found = run()
    path.write_bytes(msgspec.json.encode(found))
    return found


def site_of(job: Job) -> Site:
    """The stream of a job."""
    kind = STREAMS[job.stream]
    return kind.make(Path(job.folder), kind.num_nodes, job.seed).cut(job.most)


def run_job(job: Job) -> Outcome:
    """Run one method on one stream."""
    site, method = site_of(job), METHODS[job.method]
    if method.settings.learner == "ilvq":
        site = site.in_ranges()
    nodes = run_fleet(
        site.streams,
        method.settings,
        num_classes=site.num_classes,
        network=STREAMS[job.stream].network,
        work=method.work,
        seed=job.seed,
    )
    num = sum(len(stream.labels) for stream in site.streams)
    predicted = {index: np.array(nodes[index].predicted) for index in site.judged}
    return replace(
        _judged(site, predicted),
        sent=sum(node.bytes_sent for node in nodes) / num,
        received=sum(node.bytes_received for node in nodes) / num,
        told=sum(node.num_sent for node in nodes) / num,
        f1_half=_judged(site, {index: some[: len(some) // 2] for index, some in predicted.items()}).f1,
        in_time=sum(node.num_in_time for node in nodes) / num,
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
        for true, guess in zip(site.streams[index].labels, guesses, strict=False):
            counts.add(int(true), int(guess))
        counted.append(counts.counts)
    return Outcome(*_scores(counted))


def _scores(counts: Sequence[NDArray[np.int64]]) -> tuple[float, float, tuple[float, ...]]:
    total = np.sum(counts, axis=0)
    f1 = f1_scores(total)
    by_node = tuple(accuracy(one) or 0.0 for one in counts)
    return accuracy(total) or 0.0, float(f1[1] if len(f1) == 2 else f1.mean()), by_node


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and print the report."""
    made = parser(__doc__ or "")
    made.add_argument("--river", metavar="PYTHON", help="interpreter that has river")
    made.add_argument("--seeds", default="0-9", help="such as 0-9")
    made.add_argument(
        "--streams", nargs="+", choices=list(STREAMS), help="all that the data allows by default"
    )
    made.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    made.add_argument("--out", metavar="RESULTS", help="folder of the results, which are kept")
    made.add_argument("--workers", type=int, default=None, help="processes at a time; the cores by default")
    options = made.parse_args(arguments)
    folder = options.data or ""
    streams = options.streams or [name for name in STREAMS if folder or name.startswith(WITHOUT_DATA)]
    seeds = (0,) if options.quick else parse_seeds(options.seeds)
    most = NUM_QUICK if options.quick else None
    if options.quick:
        streams = [name for name in streams if name.startswith("rotation") and "20" not in name]
    out = "" if options.quick or options.out is None else options.out
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    methods = [*options.methods, NO_CHANGE, *([RIVER] if options.river else [])]
    results: dict[str, dict[str, dict[int, Outcome]]] = {}
    with ProcessPoolExecutor(options.workers) as pool:
        jobs = [
            Job(stream, method, seed, folder, most, out)
            for stream in streams
            for seed in (seeds if STREAMS[stream].has_seeds else seeds[:1])
            for method in methods
        ]
        futures = [(job, pool.submit(outcomes_of, job, options.river or "")) for job in jobs]
        cases = () if options.streams else CASES[:1] if options.quick else CASES
        ages = [pool.submit(age_row, case, seeds[0]) for case in cases]
        for job, future in futures:
            for name, outcome in future.result().items():
                results.setdefault(job.stream, {}).setdefault(name, {})[job.seed] = outcome
            print(f"{job.stream} · {job.method} · seed {job.seed}", file=sys.stderr, flush=True)
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
