"""Measures model versions on held-out data, on a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from firmware_profiles.errors import UserError
from models.calibrate import calibrate
from models.data.dataset import Dataset
from models.engines.engine import Engine
from models.losses import cross_entropy_total
from models.subnet import Array

log = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Small enough that activations stay in the cache: larger ones take longer."""
NUM_CALIBRATION_SAMPLES = 512

Done = Callable[[int, float, float], None]
"""Called with (version, accuracy 0..1, mean loss)."""

Keep = Callable[[Mapping[str, Array], Mapping[str, Array]], None]
"""Called with (weights, batch-norm statistics) of each measured version."""


class Measured(NamedTuple):
    """What held-out data says of a model.

    Attributes:
        accuracy: 0..1.
        loss: mean cross-entropy.
        statistics: the batch-norm moments it was measured with.
        class_accuracy: by class, None for one without samples.
    """

    accuracy: float
    loss: float
    statistics: dict[str, Array]
    class_accuracy: tuple[float | None, ...]


def measure(
    engine: Engine, weights: Mapping[str, Array], calibration: Dataset | None, test: Dataset
) -> Measured:
    """Measure on `test`; batch-norm statistics come from `calibration`, None where the network has none."""
    statistics = {} if calibration is None else calibrate(engine, weights, calibration_batches(calibration))
    together = {**weights, **statistics}
    right, loss_sum = np.zeros(test.num_classes, np.int64), 0.0
    for start in range(0, len(test), BATCH_SIZE):  # batch by batch: samples are stored much smaller
        inputs, labels = test.batch(slice(start, start + BATCH_SIZE))
        logits = engine.outputs(together, inputs)["logits"]
        right += np.bincount(labels[logits.argmax(axis=1) == labels], minlength=test.num_classes)
        loss_sum += cross_entropy_total(logits, {"labels": labels})
    of_class = np.bincount(test.labels, minlength=test.num_classes)
    by_class = tuple(int(n) / int(of) if of else None for n, of in zip(right, of_class, strict=True))
    return Measured(int(right.sum()) / len(test), loss_sum / len(test), statistics, by_class)


def calibration_batches(calibration: Dataset) -> Iterator[Array]:
    """The first samples, in batches, for `models.calibrate`."""
    limit = min(len(calibration), NUM_CALIBRATION_SAMPLES)
    for start in range(0, limit, BATCH_SIZE):
        yield calibration.batch(np.arange(start, min(start + BATCH_SIZE, limit)))[0]


class Evaluator:
    """Measures one version after another; results come by `keep` and `done`, on the evaluator's thread.

    What ends it, such as an engine that is not installed or a full disk, comes by `failed`: a run that is
    never measured would never be finished.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        calibration: Dataset,
        test: Dataset,
        *,
        done: Done,
        keep: Keep,
        failed: Callable[[Exception], None],
    ) -> None:
        if len(test) == 0:
            raise UserError("there is no held-out data to measure the model on")
        self._make_engine, self._calibration, self._test = make_engine, calibration, test
        self._done, self._keep, self._failed = done, keep, failed
        self._versions: queue.SimpleQueue[tuple[int, dict[str, Array]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="evaluation", daemon=True)
        self._thread.start()

    def submit(self, version: int, weights: dict[str, Array]) -> None:
        """Measure this version when those before it are done."""
        self._versions.put((version, weights))

    def close(self) -> None:
        """Finish what was submitted, then end."""
        self._versions.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._measure_all()
        except Exception as error:  # noqa: BLE001 - it is raised again where it is heard
            self._failed(error)

    def _measure_all(self) -> None:
        engine = self._make_engine()
        while (item := self._versions.get()) is not None:
            version, weights = item
            measured = measure(engine, weights, self._calibration, self._test)
            self._keep(weights, measured.statistics)
            self._done(version, measured.accuracy, measured.loss)
