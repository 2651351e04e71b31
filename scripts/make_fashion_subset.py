"""Make the shipped subset of Fashion-MNIST from the four original idx files.

    python scripts/make_fashion_subset.py FOLDER

Class-balanced, drawn without replacement by a fixed seed: train from the original training part, test
from the original test part. The files stay idx files, compressed with xz.
"""

from __future__ import annotations

import lzma
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.idx import read_idx_file

NAME = "fashion-mnist-small"
SEED = 2017  # the year of the data set
NUM_PER_CLASS = {"train": 800, "t10k": 200}
TARGET = Path(__file__).parents[1] / "models" / "data" / "shipped"
# Measured over preset, lc, lp, pb and over PNG-like prediction first: raw pixels with these are smallest.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]


def balanced(labels: NDArray[np.uint8], num_per_class: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the same number of samples of each class, in their original order."""
    chosen = [
        rng.choice(np.flatnonzero(labels == label), num_per_class, replace=False)
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write a uint8 array as an xz-compressed idx file."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(lzma.compress(header + values.tobytes(), filters=FILTERS))


def main(folder: Path) -> None:
    """Write the four files and say how large they are."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for part, num_per_class in NUM_PER_CLASS.items():
        images = read_idx_file(folder / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx_file(folder / f"{part}-labels-idx1-ubyte.gz")
        chosen = balanced(labels, num_per_class, np.random.default_rng(SEED))
        write_idx(TARGET / f"{NAME}-{part}-images-idx3-ubyte.xz", images[chosen])
        write_idx(TARGET / f"{NAME}-{part}-labels-idx1-ubyte.xz", labels[chosen])
    for path in sorted(TARGET.glob(f"{NAME}-*")):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/make_fashion_subset.py FOLDER")
    main(Path(sys.argv[1]))
