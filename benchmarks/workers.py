"""Starting and asking worker processes, one for each library, so that engines do not disturb each other.

What runs in them is `benchmarks.engine_worker`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.engine_worker import BATCH_SIZE, Request
from models.bundle import Bundle, TrainingSettings, encode
from models.gradients.build import build_artifacts
from models.table import uniform_table
from models.widths import plan_widths
from models.zoo import load_model, shipped_table

ROOT = Path(__file__).resolve().parent.parent


def write_bundles(folder: Path, networks: Sequence[str]) -> list[Path]:
    """Write what a device gets of each network of the zoo: `<network>.bundle`."""
    paths, settings = [], TrainingSettings(batch_size=BATCH_SIZE)
    for network in networks:
        graph, _ = load_model(network)
        plan = plan_widths(graph)
        table = shipped_table(network) or uniform_table(graph, plan, BATCH_SIZE, (0.25, 0.5, 0.75))
        artifacts = build_artifacts(graph, settings.loss)
        bundle = Bundle(graph=graph, plan=plan, table=table, settings=settings, artifacts=artifacts)
        path = folder / f"{network}.bundle"
        path.write_bytes(encode(bundle))
        paths.append(path)
    return paths


Ask = Callable[[Request], Any]


@contextmanager
def started_worker(bundles: Sequence[Path], num_threads: int, python: str = sys.executable) -> Iterator[Ask]:
    """A worker for as long as the block lasts.

    Args:
        bundles: files of `write_bundles`.
        num_threads: it may compute with.
        python: interpreter of its environment.

    Yields:
        What asks it and returns its answer as JSON holds it.

    Raises:
        RuntimeError: from a call: the worker could not do it, or is gone.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads))
    process = subprocess.Popen(
        [python, "-m", "benchmarks.engine_worker", str(num_threads), *map(str, bundles)],
        cwd=ROOT,
        env={**os.environ, **threads},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    to_worker, from_worker = process.stdin, process.stdout

    def ask(request: Request) -> Any:
        try:
            to_worker.write(msgspec.json.encode(request) + b"\n")
            line = from_worker.readline()
        except BrokenPipeError:
            line = b""
        answer = msgspec.json.decode(line) if line else {"error": f"{python} is gone; it said why above"}
        if "error" in answer:
            raise RuntimeError(f"{request}: {answer['error']}")
        return answer["value"]

    try:
        yield ask
    finally:
        process.terminate()
        process.wait()
        to_worker.close()
        from_worker.close()
