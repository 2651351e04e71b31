"""A stream that drifts: two Gaussians on opposite sides of a circle, which turn; at some sample they swap.

    python examples/streams/rotating.py examples/streams/rotating.csv --samples 3000 --swap-at 1800
    edgetide up --strategy gossip --data examples/streams/rotating.csv --devices 4

Who learned a sample's surroundings once is wrong a quarter of a turn later, and after the swap at once. The
best that can be reached is an accuracy of about 0.98.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CLASSES = ("left", "right")
SPREAD = 0.5
"""Standard deviation of both features, where the centres are 1 from the middle."""


class Sample(NamedTuple):
    """Two features and a class."""

    x: float
    y: float
    label: str


def rotating(seed: int, turn: int = 1500, swap_at: int | None = None) -> Iterator[Sample]:
    """Samples without end.

    Args:
        seed: of all that is drawn.
        turn: samples of a whole turn.
        swap_at: the classes change places at this sample.
    """
    drawn = random.Random(seed)
    for number in itertools.count():
        of_class = drawn.randrange(2)
        swapped = swap_at is not None and number >= swap_at
        angle = 2 * math.pi * number / turn + math.pi * (of_class ^ swapped)
        x = math.cos(angle) + drawn.gauss(0, SPREAD)
        y = math.sin(angle) + drawn.gauss(0, SPREAD)
        yield Sample(round(x, 3), round(y, 3), CLASSES[of_class])


def main() -> None:
    """Write a CSV file."""
    parser = argparse.ArgumentParser(description="Write a stream that drifts.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--turn", type=int, default=1500, help="samples of a whole turn")
    parser.add_argument("--swap-at", type=int, help="the classes change places at this sample")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    samples = itertools.islice(rotating(asked.seed, asked.turn, asked.swap_at), asked.samples)
    lines = [f"{one.x},{one.y},{one.label}\n" for one in samples]
    asked.file.write_text("x,y,label\n" + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
