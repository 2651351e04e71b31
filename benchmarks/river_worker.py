"""River's learners, each alone on the samples of each node, in a process of its own.

    python -m benchmarks.river_worker STREAMS.npz PREDICTED.npz

`benchmarks.gossip` starts it with the interpreter of an environment that has `river` and NumPy; nothing of
this project is imported. What is written is each learner's prediction of each sample, before it learns it.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from typing import Any

import numpy as np


def learners() -> dict[str, Any]:
    """Name -> what makes one with river's own defaults, but for ten trees."""
    river = {name: importlib.import_module(f"river.{name}") for name in ("tree", "forest", "naive_bayes")}
    return {
        "river: Hoeffding tree": river["tree"].HoeffdingTreeClassifier,
        "river: adaptive random forest": lambda: river["forest"].ARFClassifier(n_models=10, seed=0),
        "river: Gaussian naive Bayes": river["naive_bayes"].GaussianNB,
    }


def predicted(make: Any, x: Any, y: Any, delay: int) -> Any:
    """Int64 [n]: of each sample, before its label is known, which is `delay` samples later."""
    learner, waiting, found = make(), deque(), np.zeros(len(y), np.int64)
    for number, (row, label) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        sample = dict(enumerate(row))
        guess = learner.predict_one(sample)
        found[number] = 0 if guess is None else guess
        waiting.append((sample, label))
        if len(waiting) > delay:
            learner.learn_one(*waiting.popleft())
    return found


def main() -> int:
    """Read, predict, write."""
    streams, result = sys.argv[1:]
    with np.load(streams) as found:
        arrays = dict(found)
    num_nodes = sum(name.startswith("x") for name in arrays)
    written = {
        f"{name}/{node}": predicted(make, arrays[f"x{node}"], arrays[f"y{node}"], int(arrays[f"delay{node}"]))
        for name, make in learners().items()
        for node in range(num_nodes)
    }
    np.savez(result, **written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
