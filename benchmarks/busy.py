"""Somebody else's work: matrix products on one core, at normal priority, for so many seconds.

python -m benchmarks.busy SECONDS
"""

from __future__ import annotations

import os
import sys
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402 - it reads the number of threads when it is imported

SIDE = 256
"""Of the square matrices: a product takes milliseconds, so the end is met closely."""


def work(seconds: float) -> int:
    """Multiply matrices until the time is over; returns how many products it made."""
    left = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    ends_s, num_products = time.monotonic() + seconds, 0
    while time.monotonic() < ends_s:
        np.matmul(left, left)
        num_products += 1
    return num_products


if __name__ == "__main__":
    work(float(sys.argv[1]))
