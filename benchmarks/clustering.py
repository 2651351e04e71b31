"""The clustering of told sets beside scikit-learn's.

    python -m benchmarks.clustering [--quick] [--json]

Of 120 prototypes, what a device tells at a time, and of 400, each of three classes and 9 features: DBSCAN at
one eps, and k-means to 85 centroids from one draw of k-means++. Both sides go by classes, and compute on one
thread. Seconds and inertia are ratios, ours to theirs. The memory is what importing either adds to a process
that has NumPy, in MB of RSS: a gossip agent may take 60 in all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402 - it reads the number of threads when it is imported
from sklearn import cluster  # noqa: E402

from benchmarks.report import (  # noqa: E402
    Check,
    Report,
    median,
    median_ratio,
    parser,
    publish,
    time_interleaved,
)
from models.prototypes.clustering import dbscan, kmeans, proportional  # noqa: E402
from models.prototypes.standard import Doubles  # noqa: E402
from models.subnet import Indices  # noqa: E402

NUM_FEATURES, NUM_CLASSES, NUM_KEPT = 9, 3, 85
EPS = 2.0

_MEMORY = """
import os
import numpy, psutil
before = psutil.Process().memory_info().rss
import {module}
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


def our_dbscan(rows: Doubles, labels: Indices) -> Indices:
    """Clusters, no two classes in one."""
    return dbscan(rows, labels, EPS)


def their_dbscan(rows: Doubles, labels: Indices) -> Indices:
    """The same by scikit-learn."""
    return _by_class(labels, lambda few: cluster.DBSCAN(eps=EPS, min_samples=1).fit_predict(rows[few]))


def our_means(rows: Doubles, labels: Indices, seed: int = 0) -> Indices:
    """Each class by its share of the centroids."""
    random, shares = np.random.default_rng(seed), _shares(labels)
    return _by_class(labels, lambda few: kmeans(rows[few], np.ones(len(few)), shares[labels[few[0]]], random))


def their_means(rows: Doubles, labels: Indices, seed: int = 0) -> Indices:
    """The same by scikit-learn."""
    shares = _shares(labels)

    def of_class(few: Indices) -> Indices:
        found = cluster.KMeans(shares[labels[few[0]]], init="k-means++", n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
        return found.fit_predict(rows[few])

    return _by_class(labels, of_class)


def inertia(rows: Doubles, clusters: Indices) -> float:
    """Sum of the squared distances to the means."""
    parts = (rows[clusters == one] for one in np.unique(clusters))
    return float(sum(((part - part.mean(axis=0)) ** 2).sum() for part in parts))


def _inertia_ratio(rows: Doubles, labels: Indices) -> float:
    """Ours to theirs, over ten draws of seeds."""
    ours = sum(inertia(rows, our_means(rows, labels, seed)) for seed in range(10))
    return ours / sum(inertia(rows, their_means(rows, labels, seed)) for seed in range(10))


def _shares(labels: Indices) -> list[int]:
    return proportional(np.bincount(labels, minlength=NUM_CLASSES), NUM_KEPT).tolist()


def _by_class(labels: Indices, clusters_of: Callable[[Indices], Indices]) -> Indices:
    found, used = np.empty(len(labels), np.int64), 0
    for label in np.unique(labels):
        few = np.flatnonzero(labels == label)
        found[few] = used + clusters_of(few)
        used = int(found[few].max()) + 1
    return found


def imported_mb(module: str) -> float:
    """What importing it adds to a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", _MEMORY.format(module=module)], capture_output=True, check=True
    )
    return float(found.stdout)


def main() -> int:
    """Measure, and print the report."""
    arguments = parser(__doc__ or "").parse_args()
    report, num_repeats = Report("clustering"), 3 if arguments.quick else 15
    for num in (120, 400):
        random = np.random.default_rng(num)
        rows, labels = random.standard_normal((num, NUM_FEATURES)), random.integers(0, NUM_CLASSES, num)
        for name, ours, theirs in (("dbscan", our_dbscan, their_dbscan), ("k-means", our_means, their_means)):
            seconds = time_interleaved(
                {"ours": partial(ours, rows, labels), "theirs": partial(theirs, rows, labels)}, num_repeats
            )
            ratio = median_ratio(seconds["ours"], seconds["theirs"])
            row = {
                "of": name,
                "prototypes": num,
                "ours_ms": 1000 * median(seconds["ours"]),
                "to_theirs": ratio,
            }
            report.checks.append(Check(f"{name} of {num}, seconds", ratio, "<=", 1.0, "scikit-learn"))
            if name == "k-means":
                row["inertia"] = _inertia_ratio(rows, labels)
            else:
                row["clusters"] = len(np.unique(ours(rows, labels)))
                row["their_clusters"] = len(np.unique(theirs(rows, labels)))
            report.rows.append(row)
    for module in ("models.prototypes.clustering", "sklearn.cluster"):
        report.rows.append({"importing": module, "mb": imported_mb(module)})
    return publish(report, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
