"""Flower's federated averaging in a process of its own, timed and watched by request.

    python -m benchmarks.flower_worker UPDATES.npy RESULT.npy ABOUT

`benchmarks.aggregation` starts it with the interpreter of an environment that has `flwr` and NumPy; nothing
of this project is imported. UPDATES is a matrix of one update a row, ABOUT the shapes of its tensors and the
samples of each update as JSON; the mean of all goes into RESULT. It reads one request a line from stdin,
`seconds FUNCTION NUM_UPDATES` or `peak_bytes FUNCTION NUM_UPDATES`, and answers each with one JSON value.
The functions:

- `arrays`: `flwr.server.strategy.aggregate.aggregate`, of NumPy arrays;
- `records`: `flwr.serverapp.strategy.strategy_utils.aggregate_arrayrecords`, which the newer FedAvg calls, of
  records whose arrays are bytes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np


def read_results(path: str, about: dict[str, Any]) -> list[Any]:
    """Cut the rows of a file into arrays, each of its own memory."""
    borders = np.cumsum([np.prod(shape, dtype=int) for shape in about["shapes"]])[:-1]
    return [
        (
            [
                part.reshape(shape).copy()
                for part, shape in zip(np.split(row, borders), about["shapes"], strict=True)
            ],
            num_samples,
        )
        for row, num_samples in zip(np.load(path), about["samples"], strict=True)
    ]


def make_functions(results: list[Any]) -> dict[str, Callable[[int], Any]]:
    """Name -> aggregates so many of the results: arrays and number of samples of each update."""
    app = importlib.import_module("flwr.app")
    aggregate = importlib.import_module("flwr.server.strategy.aggregate").aggregate
    utils = importlib.import_module("flwr.serverapp.strategy.strategy_utils")

    def record(arrays: list[np.ndarray], num_samples: int) -> Any:
        made = {str(number): app.Array(values) for number, values in enumerate(arrays)}
        metrics = app.MetricRecord({"num-examples": num_samples})
        return app.RecordDict({"arrays": app.ArrayRecord(made), "metrics": metrics})

    records = [record(*result) for result in results]
    return {
        "arrays": lambda num_updates: aggregate(results[:num_updates]),
        "records": lambda num_updates: utils.aggregate_arrayrecords(records[:num_updates], "num-examples"),
    }


def seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that one call held at a time, without what it was given."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    """Answer until stdin ends."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        results = read_results(sys.argv[1], json.loads(sys.argv[3]))
        functions = make_functions(results)
        mean = functions["arrays"](len(results))
        np.save(sys.argv[2], np.concatenate([values.reshape(-1) for values in mean]))
        for line in sys.stdin:
            measure, name, num_updates = line.split()
            function = functions[name]
            found = {"seconds": seconds, "peak_bytes": peak_bytes}[measure](
                lambda function=function, number=int(num_updates): function(number)
            )
            answers.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
