"""One library in a process of its own, timed and watched by request.

    python -m benchmarks.engine_worker THREADS BUNDLE…

`benchmarks.workers` starts it. It reads one request a line from stdin as JSON, and answers each with
one line. What it trains comes as bundles, as on a device, so a worker needs neither torch nor onnx.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from models.bundle import Bundle, decode
from models.calibrate import calibrate, evaluate
from models.data.batches import shuffled_batches
from models.data.dataset import load_data, match
from models.engines.choose import make_engine
from models.engines.engine import Engine
from models.optim.optimizer import Optimizer
from models.optim.settings import OptimizerSettings
from models.step import training_step
from models.subnet import Array, cut, full_subnet, sample, uniform_vector
from models.zoo.initial import initial_weights

BATCH_SIZE = 32
LEARNING_RATE, MOMENTUM = 0.05, 0.9
PLAIN_TORCH = {"torch contiguous": "contiguous", "torch channels_last": "channels_last"}
"""Kinds that are plain torch modules of the same width -> their memory format; all others are engines."""

NUM_CALIBRATION_SAMPLES = 512
_CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class TimeGradients(msgspec.Struct, frozen=True, kw_only=True, tag="time"):
    """Time loss and gradients of one mini-batch; answered with seconds, one call's mean.

    The first request of a case makes one call before the clock counts, and then times a single one.

    Attributes:
        kind: an engine, or a key of PLAIN_TORCH.
        network: of a bundle.
        keep_fraction: of every width group.
        clock: this process's CPU time, or the wall's.
        min_sample_s: as many calls are averaged as take about that long.
    """

    kind: str
    network: str
    keep_fraction: float
    clock: Literal["cpu", "wall"]
    min_sample_s: float


class TrainAlone(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Train the whole network on so many mini-batches; answered with the process' peak memory in bytes."""

    kind: str
    network: str
    num_batches: int


class Learn(msgspec.Struct, frozen=True, kw_only=True, tag="learn"):
    """Train random sub-networks of the bundle's table on real data; answered with `Learned`.

    Attributes:
        data: a name or a path. seed: decides weights, vectors, sub-networks and mini-batches.
        nudge: whether to begin from weights one rounding apart.
        record: file to write the weights to, before the first step and after each.
        follow: such a file; every step begins from its weights, not from those of the step before.
        clip_norm: largest norm of the gradients, or None for no limit.
    """

    kind: str
    network: str
    data: str
    num_steps: int
    seed: int
    nudge: bool = False
    record: str | None = None
    follow: str | None = None
    clip_norm: float | None = None


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned.

    Attributes:
        losses: of every step.
        accuracy: share of the test samples that the whole network gets right in the end.
        update_difference: where it followed, the largest difference from a recorded step's change of the
            weights, as a share of that change (L2 norms).
    """

    losses: list[float]
    accuracy: float
    update_difference: float | None = None


Request = TimeGradients | TrainAlone | Learn


class _Timed(NamedTuple):
    run: Callable[[], object]
    num_calls: int


class _Track:
    """The weights of every step in a file, float32 [num_steps + 1, num_weights]: written, or followed."""

    def __init__(self, request: Learn, weights: dict[str, Array]) -> None:
        self.difference: float | None = None
        self._weights, self._follows = weights, request.follow is not None
        shape = (request.num_steps + 1, sum(values.size for values in weights.values()))
        self._rows: Array | None = None
        if request.record is not None:
            self._rows = np.memmap(request.record, np.float32, "w+", shape=shape)
            self._rows[0] = self._flat()
        elif request.follow is not None:
            self._rows = np.memmap(request.follow, np.float32, "r", shape=shape)

    def before(self, step: int) -> None:
        if self._follows and self._rows is not None:
            start = 0
            for values in self._weights.values():
                values.ravel()[:] = self._rows[step, start : start + values.size]
                start += values.size

    def after(self, step: int) -> None:
        if self._rows is None:
            return
        if not self._follows:
            self._rows[step + 1] = self._flat()
            return
        change = self._rows[step + 1] - self._rows[step]
        apart = self._flat() - self._rows[step + 1]
        share = float(np.linalg.norm(apart) / np.linalg.norm(change))
        self.difference = max(self.difference or 0.0, share)

    def _flat(self) -> Array:
        return np.concatenate([values.ravel() for values in self._weights.values()])


class _Worker:
    """Does what is asked; keeps what it has built for the next request."""

    def __init__(self, num_threads: int, bundles: Sequence[Bundle]) -> None:
        self._num_threads = num_threads
        self._bundles = {bundle.graph.name: bundle for bundle in bundles}
        self._engines: dict[tuple[str, str], Engine] = {}
        self._timed: dict[tuple[str, str, float], _Timed] = {}

    def answer(self, request: Request) -> Any:
        if isinstance(request, TimeGradients):
            return self._time(request)
        if isinstance(request, TrainAlone):
            return self._train(request)
        return self._learn(request)

    def _time(self, request: TimeGradients) -> float:
        key = (request.kind, request.network, request.keep_fraction)
        clock = _CLOCKS[request.clock]
        if key in self._timed:
            return _time(*self._timed[key], clock)
        run = self._gradients(*key)
        run()  # has the library set itself up
        once_s = _time(run, 1, clock)
        num_calls = max(1, round(request.min_sample_s / once_s)) if once_s else 1
        self._timed[key] = _Timed(run, num_calls)
        return once_s

    def _gradients(self, kind: str, network: str, keep_fraction: float) -> Callable[[], object]:
        bundle = self._bundles[network]
        weights, inputs, labels = _something_to_learn(bundle)
        subnet = sample(bundle.plan, uniform_vector(bundle.plan, keep_fraction), seed=1, step=0)
        sub = cut(bundle.plan, weights, subnet)
        if kind in PLAIN_TORCH:
            from benchmarks.torch_peer import gradients_run, narrowed  # noqa: PLC0415 - only this one needs torch

            module = narrowed(self._plain_torch(network), sub)
            return gradients_run(module, PLAIN_TORCH[kind], inputs, labels)
        engine = self._engine(kind, network)
        return lambda: engine.gradients(sub, inputs, {"labels": labels})

    def _train(self, request: TrainAlone) -> int:
        bundle = self._bundles[request.network]
        weights, inputs, labels = _something_to_learn(bundle)
        if request.kind in PLAIN_TORCH:
            from benchmarks.torch_peer import training_run  # noqa: PLC0415 - only this one needs torch

            module, memory_format = self._plain_torch(request.network), PLAIN_TORCH[request.kind]
            run = training_run(module, memory_format, LEARNING_RATE, MOMENTUM, inputs, labels)
        else:
            engine, optimizer = (
                self._engine(request.kind, request.network),
                Optimizer(OptimizerSettings(learning_rate=LEARNING_RATE, momentum=MOMENTUM)),
            )
            plan, subnet, targets = bundle.plan, full_subnet(bundle.plan), {"labels": labels}

            def run() -> object:
                return training_step(engine, plan, weights, optimizer, subnet, inputs, targets)

        for _ in range(request.num_batches):
            run()
        return peak_rss_bytes()

    def _learn(self, request: Learn) -> Learned:
        bundle = self._bundles[request.network]
        graph, plan = bundle.graph, bundle.plan
        data = match(load_data(request.data), graph.input_shape, graph.num_classes)
        engine = self._engine(request.kind, request.network)
        weights = initial_weights(graph, request.seed)
        if request.nudge:
            _nudge(weights)
        settings = OptimizerSettings(
            learning_rate=LEARNING_RATE, momentum=MOMENTUM, clip_norm=request.clip_norm
        )
        optimizer = Optimizer(settings)
        track = _Track(request, weights)
        batches = shuffled_batches(len(data.train), BATCH_SIZE, request.seed)
        chosen = np.random.default_rng(request.seed).integers(
            len(bundle.table.entries), size=request.num_steps
        )
        losses = []
        for step, (index, batch) in enumerate(zip(chosen, batches, strict=False)):
            track.before(step)
            subnet = sample(plan, bundle.table.entries[index].vector, request.seed, step)
            inputs, labels = data.train.batch(batch)
            result = training_step(engine, plan, weights, optimizer, subnet, inputs, {"labels": labels})
            losses.append(result.loss)
            track.after(step)
        moments: dict[str, Array] = {}
        if graph.statistics:
            moments = calibrate(engine, weights, [data.train.batch(slice(0, NUM_CALIBRATION_SAMPLES))[0]])
        inputs, labels = data.test.batch(slice(None))
        found = evaluate(engine, weights, moments, inputs, labels, batch_size=256)
        accuracy = found.num_correct / found.num_samples
        return Learned(losses=losses, accuracy=accuracy, update_difference=track.difference)

    def _engine(self, kind: str, network: str) -> Engine:
        bundle = self._bundles[network]
        if (kind, network) not in self._engines:
            self._engines[kind, network] = make_engine(
                kind, bundle.graph, bundle.settings.loss, self._num_threads, bundle.artifacts
            )
        return self._engines[kind, network]

    def _plain_torch(self, network: str) -> Any:
        import torch  # noqa: PLC0415 - only the plain modules need it

        from models.zoo import zoo_entry  # noqa: PLC0415

        torch.set_num_threads(self._num_threads)
        entry = zoo_entry(network)
        return entry.make(entry.input_shape, entry.num_classes)


def _something_to_learn(bundle: Bundle) -> tuple[dict[str, Array], Array, Any]:
    """Weights, inputs float32 [BATCH_SIZE, *input_shape] and labels int64 [BATCH_SIZE], always the same."""
    graph, random = bundle.graph, np.random.default_rng(0)
    inputs = random.standard_normal((BATCH_SIZE, *graph.input_shape)).astype(np.float32)
    return initial_weights(graph, 0), inputs, random.integers(0, graph.num_classes, BATCH_SIZE)


def _nudge(weights: dict[str, Array]) -> None:
    """Move every weight to a float32 neighbour, up or down by chance."""
    random = np.random.default_rng(0)
    for values in weights.values():
        towards = np.where(random.random(values.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        values[...] = np.nextafter(values, towards)


def _time(run: Callable[[], object], num_calls: int, clock: Callable[[], float]) -> float:
    gc.disable()
    try:
        start = clock()
        for _ in range(num_calls):
            run()
        return (clock() - start) / num_calls
    finally:
        gc.enable()


def peak_rss_bytes(pid: int | str = "self") -> int:
    """Highest resident memory of a process since it began, as Linux counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this benchmark reads VmHWM in /proc, which Linux has")


def main() -> None:
    """Answer until stdin ends."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        bundles = [decode(Path(name).read_bytes()) for name in sys.argv[2:]]
        worker = _Worker(int(sys.argv[1]), bundles)
        decoder = msgspec.json.Decoder(Request)
        for line in sys.stdin.buffer:
            try:
                answer = {"value": worker.answer(decoder.decode(line))}
            except Exception as error:  # noqa: BLE001 - whatever it is, the starter tells it
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
