"""Whether every engine learns the same: losses and accuracy from the same weights and sub-networks.

    python -m benchmarks.agreement [--quick] [--data DIR] [--json] [--ort-training-python PYTHON]

Each engine trains the default network for 200 steps (learning rate 0.05, momentum 0.9, mini-batches of
32) from the same initial weights, on the same mini-batches of Fashion-MNIST and the same random
sub-networks of the shipped table. It is compared with the torch engine three times:

- calm: the norm of the gradients is limited to 0.25, so that the first steps do not throw the weights
  about. The losses of the first 50 steps, and the accuracy on the whole test set in the end.
- free: the same without a limit. At this learning rate training is chaotic then: the loss doubles within
  two steps, and a rounding that turns one ReLU or the choice of one max pool grows until the curves are
  apart. How far, shows the control: torch from weights one rounding apart.
- in step: every step begins from the weights that torch had there, with the momentum that the engine's
  own gradients made on the way. Then nothing grows, and the losses and each step's change of the weights
  must be the same.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
CALM_NORM = 0.25
MAX_LOSS_DIFFERENCE = 1e-3
MAX_ACCURACY_POINTS = 0.5
"""The issue's limits: relative, and in percentage points."""


def largest_difference(losses: list[float], others: list[float], num_steps: int) -> float:
    """Largest relative difference of two curves over their first steps."""
    pairs = list(zip(losses, others, strict=True))[:num_steps]
    return max(abs(loss - other) / abs(other) for loss, other in pairs)


class Curves(NamedTuple):
    """What an engine learned: calm, free, and in step with the peer (see above)."""

    calm: Learned
    free: Learned
    in_step: Learned


def learn_all(asks: Mapping[str, Ask], data: str, seed: int, track: Path) -> dict[str, Curves]:
    """Engine, or CONTROL -> what it learned."""

    def learned(kind: str, **options: object) -> Learned:
        plain = {"kind": kind, "network": NETWORK, "data": data, "num_steps": NUM_STEPS, "seed": seed}
        return msgspec.convert(
            asks[kind](msgspec.convert({"type": "learn", **plain, **options}, Learn)), Learned
        )

    def curves(kind: str, *, nudge: bool = False, record: str | None = None) -> Curves:
        calm = learned(kind, nudge=nudge, clip_norm=CALM_NORM)
        free = learned(kind, nudge=nudge, record=record)
        return Curves(calm, free, learned(kind, follow=str(track)))

    found = {PEER: curves(PEER, record=str(track)), CONTROL: curves(PEER, nudge=True)}
    return found | {kind: curves(kind) for kind in asks if kind != PEER and kind not in PLAIN_TORCH}


def compare(report: Report, seed: int, found: Mapping[str, Curves]) -> None:
    """Rows and checks of one seed."""
    peer = found[PEER]
    for kind, curves in found.items():
        row: dict[str, object] = {"engine": kind, "seed": seed}
        for how in ("calm", "free"):
            learned, wanted = getattr(curves, how), getattr(peer, how)
            row[f"{how}_last_loss"] = learned.losses[-1]
            row[f"{how}_loss_difference"] = largest_difference(
                learned.losses, wanted.losses, NUM_COMPARED_STEPS
            )
            row[f"{how}_accuracy"] = learned.accuracy
            row[f"{how}_accuracy_points"] = 100 * abs(learned.accuracy - wanted.accuracy)
        row["in_step_loss_difference"] = largest_difference(
            curves.in_step.losses, peer.free.losses, NUM_STEPS
        )
        row["in_step_update_difference"] = curves.in_step.update_difference
        report.rows.append(row)
    control = next(row for row in report.rows if (row["engine"], row["seed"]) == (CONTROL, seed))
    for row in report.rows:
        if row["seed"] == seed and row["engine"] not in (PEER, CONTROL):
            report.checks += _checks(row, control)


def _checks(row: Mapping[str, Any], control: Mapping[str, Any]) -> Iterator[Check]:
    one = f"{row['engine']}, seed {row['seed']}"
    for how in ("calm", "free"):
        for key, limit, what in (
            (f"{how}_loss_difference", MAX_LOSS_DIFFERENCE, f"{NUM_COMPARED_STEPS} losses, relative"),
            (f"{how}_accuracy_points", MAX_ACCURACY_POINTS, "accuracy in the end, points"),
        ):
            against = f"the {PEER} engine; {CONTROL}: {control[key]:.2g}"
            yield Check(f"{one}: {how}, difference of {what}", row[key], "<=", limit, against)
    yield Check(
        f"{one}: in step, difference of {NUM_STEPS} losses, relative",
        row["in_step_loss_difference"],
        "<=",
        MAX_LOSS_DIFFERENCE,
        f"the {PEER} engine",
    )


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
