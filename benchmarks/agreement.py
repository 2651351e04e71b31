"""Whether every engine learns the same: losses and accuracy from the same weights and sub-networks.

    python -m benchmarks.agreement [--quick] [--data DIR] [--json] [--ort-training-python PYTHON]

Each engine trains the default network for 200 steps (learning rate 0.05, momentum 0.9, mini-batches of
32) from the same initial weights, on the same mini-batches of Fashion-MNIST and the same random
sub-networks of the shipped table. Losses are compared with the torch engine's over the first 50 steps,
before the rounding errors of two correct engines have grown; accuracy at the end, on the whole test set.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import msgspec

from benchmarks.engine_worker import PLAIN_TORCH, Learn, Learned
from benchmarks.engines import prepare, workers
from benchmarks.report import Check, Report, parser, publish
from models.data.dataset import DEFAULT_DATA

NETWORK = "cnn-28"
PEER = "torch"
NUM_STEPS = 200
NUM_COMPARED_STEPS = 50
MAX_LOSS_DIFFERENCE = 1e-3
MAX_ACCURACY_POINTS = 0.5
"""The issue's limits: relative, and in percentage points."""


def largest_difference(losses: list[float], others: list[float]) -> float:
    """Largest relative difference of two curves over the compared steps."""
    pairs = list(zip(losses, others, strict=True))[:NUM_COMPARED_STEPS]
    return max(abs(loss - other) / abs(other) for loss, other in pairs)


def compare(report: Report, seed: int, learned: dict[str, Learned]) -> None:
    """Rows and checks of one seed."""
    peer = learned[PEER]
    for kind, one in learned.items():
        report.rows.append(
            {
                "engine": kind,
                "seed": seed,
                "first_loss": one.losses[0],
                "last_loss": one.losses[-1],
                "accuracy": one.accuracy,
                "loss_difference": largest_difference(one.losses, peer.losses),
            }
        )
        if kind == PEER:
            continue
        name = f"{kind}, seed {seed}: largest relative difference of the first {NUM_COMPARED_STEPS} losses"
        difference = largest_difference(one.losses, peer.losses)
        report.checks.append(Check(name, difference, "<=", MAX_LOSS_DIFFERENCE, f"the {PEER} engine"))
        name = f"{kind}, seed {seed}: accuracy after {NUM_STEPS} steps, difference in points"
        points = 100 * abs(one.accuracy - peer.accuracy)
        report.checks.append(Check(name, points, "<=", MAX_ACCURACY_POINTS, f"the {PEER} engine"))


def main() -> int:
    """Measure and print."""
    made = parser("Whether every engine learns the same from the same weights and sub-networks.")
    made.add_argument("--ort-training-python", metavar="PYTHON", help="interpreter that has ort-training")
    options = made.parse_args()
    report = Report("agreement")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetide-bench-"))
        setup = prepare(Path(folder), [NETWORK], options.ort_training_python)
        asks = stack.enter_context(workers(setup, 1))
        for seed in range(1 if options.quick else 3):
            learn = {
                kind: Learn(
                    kind=kind,
                    network=NETWORK,
                    data=options.data or DEFAULT_DATA,
                    num_steps=NUM_STEPS,
                    seed=seed,
                )
                for kind in asks
                if kind not in PLAIN_TORCH
            }
            learned = {kind: msgspec.convert(asks[kind](learn[kind]), Learned) for kind in learn}
            compare(report, seed, learned)
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
