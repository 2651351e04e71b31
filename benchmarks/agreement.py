"""Whether every engine learns the same: losses and accuracy from the same weights and sub-networks.

    python -m benchmarks.agreement [--quick] [--data DIR] [--json] [--ort-training-python PYTHON]

Each engine trains the default network for 200 steps (learning rate 0.05, momentum 0.9, mini-batches of
32) from the same initial weights, on the same mini-batches of Fashion-MNIST and the same random
sub-networks of the shipped table. It is compared with the torch engine twice:

- on its own: the losses of the first 50 steps, and the accuracy on the whole test set in the end. At
  this learning rate training is chaotic: a rounding that turns one ReLU or the choice of one max pool
  grows until the curves are apart. How far, shows the control: torch from weights one rounding apart.
- in step: every step begins from the weights that torch had there, with the momentum that the engine's
  own gradients made on the way. Then nothing grows, and the losses and each step's change of the weights
  must be the same.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.engine_worker import PLAIN_TORCH, Learn, Learned
from benchmarks.engines import prepare, workers
from benchmarks.report import Check, Report, parser, publish
from benchmarks.workers import Ask
from models.data.dataset import DEFAULT_DATA

NETWORK = "cnn-28"
PEER = "torch"
CONTROL = "torch from weights one rounding apart"
NUM_STEPS = 200
NUM_COMPARED_STEPS = 50
MAX_LOSS_DIFFERENCE = 1e-3
MAX_ACCURACY_POINTS = 0.5
"""The issue's limits: relative, and in percentage points."""


def largest_difference(losses: list[float], others: list[float], num_steps: int) -> float:
    """Largest relative difference of two curves over their first steps."""
    pairs = list(zip(losses, others, strict=True))[:num_steps]
    return max(abs(loss - other) / abs(other) for loss, other in pairs)


def learn_all(
    asks: Mapping[str, Ask], data: str, seed: int, track: Path
) -> dict[str, tuple[Learned, Learned]]:
    """Engine, or CONTROL -> what it learned on its own, and in step with the peer."""

    def learned(kind: str, **options: object) -> Learned:
        plain = {"kind": kind, "network": NETWORK, "data": data, "num_steps": NUM_STEPS, "seed": seed}
        return msgspec.convert(
            asks[kind](msgspec.convert({"type": "learn", **plain, **options}, Learn)), Learned
        )

    peer = learned(PEER, record=str(track))
    found = {PEER: (peer, learned(PEER, follow=str(track)))}
    found[CONTROL] = (learned(PEER, nudge=True), found[PEER][1])
    for kind in asks:
        if kind != PEER and kind not in PLAIN_TORCH:
            found[kind] = (learned(kind), learned(kind, follow=str(track)))
    return found


def compare(report: Report, seed: int, found: Mapping[str, tuple[Learned, Learned]]) -> None:
    """Rows and checks of one seed."""
    peer, _ = found[PEER]
    control = largest_difference(found[CONTROL][0].losses, peer.losses, NUM_COMPARED_STEPS)
    control_points = 100 * abs(found[CONTROL][0].accuracy - peer.accuracy)
    for kind, (alone, in_step) in found.items():
        difference = largest_difference(alone.losses, peer.losses, NUM_COMPARED_STEPS)
        in_step_difference = largest_difference(in_step.losses, peer.losses, NUM_STEPS)
        points = 100 * abs(alone.accuracy - peer.accuracy)
        row = {"engine": kind, "seed": seed, "first_loss": alone.losses[0], "last_loss": alone.losses[-1]}
        row |= {"accuracy": alone.accuracy, "loss_difference": difference}
        if kind != CONTROL:
            row |= {"in_step_loss_difference": in_step_difference}
            row |= {"in_step_update_difference": in_step.update_difference}
        report.rows.append(row)
        if kind in (PEER, CONTROL):
            continue
        what = f"{kind}, seed {seed}: largest relative difference of"
        report.checks += [
            Check(
                f"{what} the losses of {NUM_STEPS} steps, in step",
                in_step_difference,
                "<=",
                MAX_LOSS_DIFFERENCE,
                f"the {PEER} engine",
            ),
            Check(
                f"{what} the first {NUM_COMPARED_STEPS} losses, on its own",
                difference,
                "<=",
                MAX_LOSS_DIFFERENCE,
                f"the {PEER} engine; {CONTROL}: {control:.2g}",
            ),
            Check(
                f"{kind}, seed {seed}: accuracy after {NUM_STEPS} steps on its own, difference in points",
                points,
                "<=",
                MAX_ACCURACY_POINTS,
                f"the {PEER} engine; {CONTROL}: {control_points:.2g}",
            ),
        ]


def main() -> int:
    """Measure and print."""
    made = parser("Whether every engine learns the same from the same weights and sub-networks.")
    made.add_argument("--ort-training-python", metavar="PYTHON", help="interpreter that has ort-training")
    options = made.parse_args()
    report = Report("agreement")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetide-bench-")))
        setup = prepare(folder, [NETWORK], options.ort_training_python)
        asks = stack.enter_context(workers(setup, 1))
        for seed in range(1 if options.quick else 5):
            compare(report, seed, learn_all(asks, options.data or DEFAULT_DATA, seed, folder / "weights"))
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
