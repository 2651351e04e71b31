from __future__ import annotations

import queue
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.evaluator import BATCH_SIZE, NUM_CALIBRATION_SAMPLES, Evaluator, calibration_batches, measure
from firmware_profiles.errors import UserError

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

BUNDLE = tiny.make_bundle()


def knowing_weights(sign=1.0):
    """Weights that tell the classes apart by the first feature; of the wrong sign they are always wrong."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in BUNDLE.graph.parameters.items()}
    weights["a.weight"][0, 0] = 1.0
    weights["b.weight"][1, 0] = sign
    weights["b.weight"][0, 0] = -sign
    return weights


def clear_data(num_samples):
    labels = np.arange(num_samples) % 2
    samples = np.zeros((num_samples, 3), np.float32)
    samples[:, 0] = 4.0 * labels - 2.0
    return tiny.Dataset(samples, labels.astype(np.int64), 2)


class Heard:
    def __init__(self):
        self.done, self.kept, self.failed = queue.SimpleQueue(), [], queue.SimpleQueue()

    def evaluator(self, make_engine=tiny.NumpyEngine, test=None, keep=None):
        return Evaluator(
            make_engine,
            clear_data(8),
            clear_data(8) if test is None else test,
            done=lambda *said: self.done.put(said),
            keep=keep or (lambda weights, statistics: self.kept.append((weights, statistics))),
            failed=self.failed.put,
        )


@pytest.fixture
def heard():
    return Heard()


@pytest.mark.parametrize(("sign", "accuracy"), [(1.0, 1.0), (-1.0, 0.0)])
def test_accuracy_is_the_share_of_right_answers(sign, accuracy):
    measured = measure(tiny.NumpyEngine(), knowing_weights(sign), clear_data(8), clear_data(10))
    assert measured.accuracy == accuracy


@pytest.mark.parametrize("num_samples", [1, BATCH_SIZE - 1, BATCH_SIZE, 2 * BATCH_SIZE + 3])
def test_every_sample_counts_once_whatever_the_batches(num_samples):
    measured = measure(tiny.NumpyEngine(), knowing_weights(), clear_data(8), clear_data(num_samples))
    assert measured.accuracy == 1.0
    zeros = {name: 0 * value for name, value in knowing_weights().items()}
    blind = measure(tiny.NumpyEngine(), zeros, clear_data(8), clear_data(num_samples))
    assert blind.loss == pytest.approx(np.log(2), rel=1e-5)


def test_calibration_takes_the_first_samples_up_to_its_limit():
    sizes = [len(batch) for batch in calibration_batches(clear_data(NUM_CALIBRATION_SAMPLES + 100))]
    assert sum(sizes) == NUM_CALIBRATION_SAMPLES
    assert [len(batch) for batch in calibration_batches(clear_data(5))] == [5]


def test_versions_are_measured_in_order_and_told(heard):
    evaluator = heard.evaluator()
    for version in (0, 1, 2):
        evaluator.submit(version, knowing_weights(1.0 if version else -1.0))
    evaluator.close()
    assert [heard.done.get(timeout=20)[:2] for _ in range(3)] == [(0, 0.0), (1, 1.0), (2, 1.0)]


def test_each_measured_version_is_kept_with_its_statistics(heard):
    evaluator = heard.evaluator()
    evaluator.submit(1, knowing_weights())
    evaluator.close()
    ((weights, statistics),) = heard.kept
    assert set(weights) == set(BUNDLE.graph.parameters)
    assert statistics == {}


def test_closing_finishes_what_was_submitted(heard):
    evaluator = heard.evaluator()
    evaluator.submit(0, knowing_weights())
    evaluator.close()
    assert not heard.done.empty()


def test_without_held_out_data_there_is_no_evaluator(heard):
    with pytest.raises(UserError, match="no held-out data"):
        heard.evaluator(test=clear_data(0))


def test_an_engine_that_cannot_be_made_is_told(heard):
    def make_engine():
        raise UserError("engine 'onnx' is not installed")

    evaluator = heard.evaluator(make_engine=make_engine)
    evaluator.submit(0, knowing_weights())
    assert "not installed" in str(heard.failed.get(timeout=20))
    evaluator.close()


def test_a_full_disk_under_the_kept_models_is_told(heard):
    def keep(weights, statistics):
        raise OSError(28, "No space left on device")

    evaluator = heard.evaluator(keep=keep)
    evaluator.submit(0, knowing_weights())
    assert "No space left" in str(heard.failed.get(timeout=20))
    evaluator.close()
