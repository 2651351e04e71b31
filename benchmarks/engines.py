"""Time and memory of every engine's gradients, beside plain torch modules of the same width.

    python -m benchmarks.engines [--quick] [--json] [--ort-training-python PYTHON]

Mini-batches of 32. Each library computes in a process of its own, and they take turns, so that what
disturbs the machine disturbs all alike. For each network, keep fraction and number of threads it times
loss and gradients of one sub-network: by each engine, and by a plain torch module of that width
(forward and backward pass, in both memory layouts, of which the faster counts).

- One thread: CPU time, which on a thread that waits for nothing is the seconds of an otherwise idle core.
- Two threads: wall time, once alone and once while another process works on the other core. Reported only.
- Memory: the highest resident memory of a fresh process that loads one engine and trains the whole
  default network on 50 mini-batches; the peer is the lesser of our torch engine's and a plain torch module's.

`ort-training` cannot be installed beside plain onnxruntime, so it is measured where
`--ort-training-python` names the interpreter of an environment that has it.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engine_worker import PLAIN_TORCH, TimeGradients, TrainAlone
from benchmarks.live_fleet import busy_cores
from benchmarks.report import Check, Report, median, median_ratio, parser, publish, sample_interleaved
from benchmarks.workers import Ask, started_worker, write_bundles
from models.engines.choose import ENGINES

NETWORKS = ("cnn-28", "resnet-20")
KEEP_FRACTIONS = (1.0, 0.75, 0.5, 0.25)
OURS = "onnx"
ORT_TRAINING = "ort-training"
MEMORY_NETWORK = "cnn-28"
NUM_MEMORY_BATCHES = 50
LONGEST_LOAD_S = 3600.0

MAX_TIME_RATIO_FASTER = 1.2
MAX_TIME_RATIO_CONTIGUOUS = 1.0
MAX_MEMORY_RATIO = 0.45
"""The issue's limits, of onnx over torch."""


@dataclass(frozen=True)
class Effort:
    """How many samples: of each network at one thread, and at two; of memory."""

    one_thread: Mapping[str, int]
    two_threads: Mapping[str, int]
    memory: int
    min_sample_s: float


FULL = Effort({"cnn-28": 40, "resnet-20": 15}, {"cnn-28": 20, "resnet-20": 8}, memory=3, min_sample_s=0.05)
QUICK = Effort({"cnn-28": 5, "resnet-20": 2}, {"cnn-28": 2, "resnet-20": 1}, memory=1, min_sample_s=0.0)


@dataclass(frozen=True)
class Setup:
    """What is measured: engines and plain torch, their bundles, and the interpreter of each library."""

    kinds: tuple[str, ...]
    bundles: Sequence[Path]
    pythons: Mapping[str, str]

    def library(self, kind: str) -> str:
        """The worker that computes this kind: torch's engine and plain torch share one."""
        return "torch" if kind in PLAIN_TORCH else kind


def prepare(folder: Path, networks: Sequence[str], ort_training_python: str | None) -> Setup:
    """Write the bundles; find the engines that can be measured here."""
    kinds = [kind for kind, engine in ENGINES.items() if kind != ORT_TRAINING and engine.is_installed()]
    pythons = dict.fromkeys([*kinds, *PLAIN_TORCH], sys.executable)
    if ort_training_python is not None:
        kinds.append(ORT_TRAINING)
        pythons[ORT_TRAINING] = ort_training_python
    return Setup((*kinds, *PLAIN_TORCH), write_bundles(folder, networks), pythons)


@contextlib.contextmanager
def workers(setup: Setup, num_threads: int) -> Iterator[dict[str, Ask]]:
    """One worker for each library, by the kinds it computes."""
    with contextlib.ExitStack() as stack:
        pythons = {setup.library(kind): setup.pythons[kind] for kind in setup.kinds}
        libraries = {
            library: stack.enter_context(started_worker(setup.bundles, num_threads, python))
            for library, python in pythons.items()
        }
        yield {kind: libraries[setup.library(kind)] for kind in setup.kinds}


def measure_times(
    report: Report, asks: Mapping[str, Ask], network: str, effort: Effort, num_threads: int, other_core: str
) -> None:
    """Rows of one network, one for each keep fraction."""
    samplers = {
        (kind, keep): partial(
            ask,
            TimeGradients(
                kind=kind,
                network=network,
                keep_fraction=keep,
                clock="cpu" if num_threads == 1 else "wall",
                min_sample_s=effort.min_sample_s,
            ),
        )
        for keep in KEEP_FRACTIONS
        for kind, ask in asks.items()
    }
    num_repeats = (effort.one_thread if num_threads == 1 else effort.two_threads)[network]
    seconds = sample_interleaved(samplers, num_repeats)
    for keep in KEEP_FRACTIONS:
        row = times_row({kind: seconds[kind, keep] for kind in asks})
        about = {"network": network, "keep_fraction": keep, "num_threads": num_threads}
        report.rows.append({**about, "other_core": other_core, **row})
    print(f"{network}, {num_threads} threads, other core {other_core}: done", file=sys.stderr)


def times_row(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians in ms by kind, and the ratios of ours to plain torch within each repeat."""
    faster = min(PLAIN_TORCH, key=lambda kind: median(seconds[kind]))
    return {
        **{f"{kind} ms": 1e3 * median(values) for kind, values in seconds.items()},
        "faster_torch": faster,
        "ratio_faster": median_ratio(seconds[OURS], seconds[faster]),
        "ratio_contiguous": median_ratio(seconds[OURS], seconds["torch contiguous"]),
    }


def check_times(report: Report) -> None:
    """Geometric means over the rows at one thread."""
    rows = [row for row in report.rows if row.get("num_threads") == 1]
    for key, target, peer in (
        ("ratio_faster", MAX_TIME_RATIO_FASTER, "plain torch modules in their faster memory layout"),
        ("ratio_contiguous", MAX_TIME_RATIO_CONTIGUOUS, "plain torch modules, contiguous"),
    ):
        mean = math.exp(sum(math.log(row[key]) for row in rows) / len(rows))
        name = f"{OURS} over {peer}: time, geometric mean of {len(rows)} rows"
        report.checks.append(Check(name, mean, "<=", target, peer))


def measure_memory(report: Report, setup: Setup, num_repeats: int) -> None:
    """Peak resident memory of a fresh process for each kind."""

    def peak_mb(kind: str) -> float:
        with started_worker(setup.bundles, 1, setup.pythons[kind]) as ask:
            return ask(TrainAlone(kind=kind, network=MEMORY_NETWORK, num_batches=NUM_MEMORY_BATCHES)) / 1e6

    kinds = [kind for kind in setup.kinds if kind != "torch contiguous"]  # one layout's memory is the other's
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # time does not count here
        peaks_mb = list(pool.map(peak_mb, kinds * num_repeats))
    found = {kind: median(peaks_mb[index :: len(kinds)]) for index, kind in enumerate(kinds)}
    report.rows += [{"training_process": kind, "peak_rss_mb": peak} for kind, peak in found.items()]
    least = min((kind for kind in found if setup.library(kind) == "torch"), key=lambda kind: found[kind])
    peer = f"a process that trains with {least}: {found[least]:.0f} MB"
    ratio = found[OURS] / found[least]
    name = f"{OURS} over torch: peak memory of a training process"
    report.checks.append(Check(name, ratio, "<=", MAX_MEMORY_RATIO, peer))


def main() -> int:
    """Measure and print."""
    made = parser("Time and memory of every engine's gradients, beside plain torch.")
    made.add_argument("--ort-training-python", metavar="PYTHON", help="interpreter that has ort-training")
    options = made.parse_args()
    effort, report = QUICK if options.quick else FULL, Report("engines")
    with tempfile.TemporaryDirectory(prefix="edgetide-bench-") as folder:
        setup = prepare(Path(folder), NETWORKS, options.ort_training_python)
        with workers(setup, 1) as asks:
            for network in NETWORKS:
                measure_times(report, asks, network, effort, 1, "idle")
        with workers(setup, 2) as asks:
            for network in NETWORKS:
                measure_times(report, asks, network, effort, 2, "idle")
                with busy_cores(1, LONGEST_LOAD_S):
                    measure_times(report, asks, network, effort, 2, "busy")
        check_times(report)
        measure_memory(report, setup, effort.memory)
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
