"""How fast the coordinator folds updates, beside the machine's memory and beside Flower.

    python -m benchmarks.aggregation [--quick] [--json] [--flower PYTHON]

A convolutional network of 0.96 million parameters; updates that differ, more of them than caches hold; one
thread, CPU time. Throughput is bytes of float32 updates a second. What is timed, in turn:

- `plain add`: NumPy's in-place `sums += update`, of flat float32 arrays of the same size: what the machine's
  memory allows a program that checks nothing and weights nothing;
- `dense`: `Aggregator.fold` of updates whose every mini-batch trained every entry;
- `by-steps N`: of updates whose N mini-batches trained random sub-networks of three widths. Each is replayed
  to know which entries were trained how often; that costs the same whatever the size of the filters;
- `dense from bytes`: `models.weights.unpack` and `fold`;
- `round`, `round from bytes`: the same with the making of the aggregator and of the new weights;
- Flower: its FedAvg of the same updates, all of them at once: `arrays` is its function of NumPy arrays,
  `records` the newer one, of records that hold bytes. Where `--flower` names the interpreter of
  an environment that has `flwr`; it is no dependency of this project.

Memory is the most that is allocated at a time, beside the model's size; Flower's is without the updates that
it is given, ours includes the one that is folded.
"""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import contextlib
import itertools
import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.flower_worker import peak_bytes, seconds
from benchmarks.report import Check, Report, median, median_ratio, parser, publish, sample_interleaved
from benchmarks.workers import ROOT
from coordinator.aggregate import Aggregator
from models.subnet import Array, full_vector
from models.weights import pack, unpack
from models.widths import Segment, WidthGroup, WidthPlan

WIDTHS = (64, 128, 256, 256)
KEPT = ((16, 32, 64, 64), (32, 64, 128, 128), (48, 96, 192, 192))
"""A quarter, a half and three quarters of the channels."""

NUM_UPDATES = 32
"""123 MB: more than the caches of a processor hold."""

NUM_STEPS = (8, 32, 128)
CHECKED_STEPS = 32
NUM_STREAMED = 1000
FLOWER = ("arrays", "records")


@dataclass(frozen=True)
class Work:
    """Updates, and what they belong to.

    Attributes:
        plan, weights: of the network.
        updates, samples: of the devices, and how many each trained.
    """

    plan: WidthPlan
    weights: dict[str, Array]
    updates: list[dict[str, Array]]
    samples: list[int]

    @property
    def num_bytes(self) -> int:
        """Of one update."""
        return sum(values.nbytes for values in self.weights.values())

    def fold(self, into: Aggregator, number: int, delta: dict[str, Array], num_steps: int | None) -> None:
        """Fold an update of so many mini-batches of sub-networks, or of the whole network."""
        vectors = (full_vector(self.plan),) if num_steps is None else KEPT
        steps = [step % len(vectors) for step in range(num_steps or CHECKED_STEPS)]
        into.fold(delta, self.samples[number], vectors, steps, seed=number)


def make_work() -> Work:
    """Four 3x3 convolutions with biases and a linear layer for colour images, and random updates."""
    groups = tuple(WidthGroup(f"convolution {index}", width) for index, width in enumerate(WIDTHS))
    axes: dict[str, tuple[tuple[Segment, ...], ...]] = {}
    before: tuple[Segment, ...] = (Segment(None, 3),)
    kernel = (Segment(None, 3),)
    for index, width in enumerate(WIDTHS):
        made = (Segment(index, width),)
        axes |= {f"{index}.weight": (made, before, kernel, kernel), f"{index}.bias": (made,)}
        before = made
    classes = (Segment(None, 10),)
    axes |= {"linear.weight": (classes, before), "linear.bias": (classes,)}
    plan = WidthPlan(groups=groups, axes=axes, values={})
    random = np.random.default_rng(0)
    weights = random_tensors(plan, random, 0.05)
    updates = [random_tensors(plan, random, 1e-3) for _ in range(NUM_UPDATES)]
    return Work(plan, weights, updates, random.integers(100, 1000, NUM_UPDATES).tolist())


def random_tensors(plan: WidthPlan, random: np.random.Generator, scale: float) -> dict[str, Array]:
    """Normal values in the full shapes of a plan."""
    shapes = {
        name: tuple(sum(part.num_channels * part.repeat for part in axis) for axis in axes)
        for name, axes in plan.axes.items()
    }
    return {name: random.normal(0.0, scale, shape).astype(np.float32) for name, shape in shapes.items()}


def make_runs(work: Work) -> dict[str, Callable[[], object]]:
    """Name -> handles each update once."""
    arrays = [flat(update) for update in work.updates]
    sums = np.zeros_like(arrays[0])
    blobs = [pack(update) for update in work.updates]
    shapes = {name: values.shape for name, values in work.weights.items()}

    def add() -> None:
        for update in arrays:
            np.add(sums, update, out=sums)

    def fold(into: Aggregator, num_steps: int | None) -> None:
        for number, update in enumerate(work.updates):
            work.fold(into, number, update, num_steps)

    def fold_bytes(into: Aggregator) -> None:
        for number, blob in enumerate(blobs):
            work.fold(into, number, unpack(blob, shapes), None)

    def round_of(folds: Callable[[Aggregator], None]) -> dict[str, Array]:
        into = Aggregator(work.plan, work.weights)
        folds(into)
        return into.finish()

    def fresh() -> Aggregator:
        return Aggregator(work.plan, work.weights)

    return {
        "plain add": add,
        "dense": partial(fold, fresh(), None),
        **{f"by-steps {steps}": partial(fold, fresh(), steps) for steps in NUM_STEPS},
        "dense from bytes": partial(fold_bytes, fresh()),
        "round": partial(round_of, partial(fold, num_steps=None)),
        "round from bytes": partial(round_of, fold_bytes),
    }


# ---------------------------------------------------------------- Flower


def flat(tensors: dict[str, Array]) -> Array:
    """All entries, one tensor after another."""
    return np.concatenate([values.reshape(-1) for values in tensors.values()])


@contextlib.contextmanager
def flower(work: Work, python: str) -> Iterator[Callable[[str], float]]:
    """Flower's process for as long as the block lasts; yields what asks it.

    Raises:
        RuntimeError: it is gone, or its mean of the updates is not ours.
    """
    with tempfile.TemporaryDirectory(prefix="edgetide-bench-") as folder:
        updates, result = Path(folder) / "updates.npy", Path(folder) / "result.npy"
        np.save(updates, np.stack([flat(update) for update in work.updates]))
        about = {"samples": work.samples, "shapes": [values.shape for values in work.weights.values()]}
        command = [python, "-m", "benchmarks.flower_worker", str(updates), str(result), json.dumps(about)]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            to_flower, from_flower = process.stdin, process.stdout

            def ask(request: str) -> float:
                with contextlib.suppress(BrokenPipeError):
                    to_flower.write(request + "\n")
                    to_flower.flush()
                answer = from_flower.readline()
                if not answer:
                    raise RuntimeError(f"{python} could not do {request!r}; it said why above")
                return json.loads(answer)

            try:
                ask("seconds arrays 1")
                compare(work, np.load(result))
                yield ask
            finally:
                to_flower.close()  # so that it ends


def compare(work: Work, theirs: Array) -> None:
    """Check that both average alike."""
    into = Aggregator(work.plan, work.weights)
    for number, update in enumerate(work.updates):
        work.fold(into, number, update, None)
    new = into.finish()
    ours = flat(new) - flat(work.weights)
    if not np.allclose(ours, theirs, rtol=0.0, atol=1e-7):
        raise RuntimeError(f"the means differ by {np.abs(ours - theirs).max():g}")


# ---------------------------------------------------------------- report


def measure_times(report: Report, work: Work, ask: Callable[[str], float] | None, num_repeats: int) -> None:
    """One row for each way, and the checks."""
    runs = make_runs(work)
    for run in runs.values():
        run()
    samplers: dict[str, Callable[[], float]] = {name: partial(seconds, run) for name, run in runs.items()}
    if ask is not None:
        samplers |= {f"Flower {name}": partial(ask, f"seconds {name} {NUM_UPDATES}") for name in FLOWER}
    samples = sample_interleaved(samplers, num_repeats)
    for name, values in samples.items():
        rate = NUM_UPDATES / median(values)
        report.rows.append(
            {
                "way": name,
                "updates_per_s": rate,
                "mb_per_s": rate * work.num_bytes / 1e6,
                "of_plain_add": median_ratio(samples["plain add"], values),
            }
        )
    check_times(report, samples)


def check_times(report: Report, samples: dict[str, Sequence[float]] | dict[str, list[float]]) -> None:
    """Ratios within each repeat, their medians."""

    def check(name: str, peer: str, target: float) -> None:
        ratio = median_ratio(samples[peer], samples[name])
        report.checks.append(Check(f"{name}: throughput over {peer}", ratio, ">=", target, peer))

    check("dense", "plain add", 0.3)
    check(f"by-steps {CHECKED_STEPS}", "plain add", 0.15)
    if "Flower arrays" in samples:
        check("round", "Flower arrays", 3.0)
        check("round from bytes", "Flower records", 3.0)


def measure_memory(report: Report, work: Work, ask: Callable[[str], float] | None) -> None:
    """Peak of a round whose updates come one after another, by their number."""
    blobs = itertools.cycle([pack(update) for update in work.updates[:4]])
    shapes = {name: values.shape for name, values in work.weights.items()}

    def stream(num_updates: int) -> None:
        into = Aggregator(work.plan, work.weights)
        for number in range(num_updates):
            work.fold(into, number % NUM_UPDATES, unpack(next(blobs), shapes), 8)
        into.finish()

    peaks = {("ours", number): peak_bytes(partial(stream, number)) for number in (10, NUM_STREAMED)}
    if ask is not None:
        peaks |= {
            (f"Flower {name}", number): int(ask(f"peak_bytes {name} {number}"))
            for name in FLOWER
            for number in (8, NUM_UPDATES)
        }
    for (way, number), peak in peaks.items():
        report.rows.append(
            {"way": way, "num_updates": number, "peak_over_model_bytes": peak / work.num_bytes}
        )
    growth = peaks["ours", NUM_STREAMED] / peaks["ours", 10]
    report.checks.append(
        Check(f"memory of {NUM_STREAMED} updates over that of 10", growth, "<=", 1.1, "ours")
    )


def main() -> int:
    """Measure and print."""
    made = parser("How fast updates are folded, beside the machine's memory and beside Flower.")
    made.add_argument("--flower", metavar="PYTHON", help="interpreter that has flwr")
    options = made.parse_args()
    report, work = Report("aggregation"), make_work()
    num_parameters = sum(math.prod(values.shape) for values in work.weights.values())
    print(f"{num_parameters} parameters, {NUM_UPDATES} updates", file=sys.stderr)
    if options.flower is None:
        print("Flower is left out: --flower names an interpreter that has it", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        ask = None if options.flower is None else stack.enter_context(flower(work, options.flower))
        measure_times(report, work, ask, 7 if options.quick else 30)
        measure_memory(report, work, ask)
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
