from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibrate import calibrate, evaluate
from models.losses import cross_entropy_total


class MomentEngine:
    """An engine whose one batch norm sees the inputs themselves, and whose logits are the inputs."""

    name = "moments"

    def gradients(self, weights, inputs, targets):
        raise AssertionError("calibration does not train")

    def statistics(self, weights, inputs):
        del weights
        return {"n.mean": inputs.mean(axis=0), "n.var": inputs.var(axis=0)}

    def outputs(self, weights, inputs):
        return {"logits": inputs - weights["n.mean"]}


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_moments_over_batches_of_any_sizes_are_those_of_all_samples_together(sizes, seed):
    samples = np.random.default_rng(seed).normal(3.0, 2.0, (sum(sizes), 4)).astype(np.float32)
    batches = np.split(samples, np.cumsum(sizes)[:-1])
    found = calibrate(MomentEngine(), {}, batches)
    np.testing.assert_allclose(found["n.mean"], samples.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["n.var"], samples.var(axis=0), atol=1e-4)
    assert all(values.dtype == np.float32 for values in found.values())


def test_calibrating_on_nothing_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        calibrate(MomentEngine(), {}, [np.zeros((0, 4), np.float32)])


def test_evaluation_counts_and_sums_whatever_the_batch_size():
    random = np.random.default_rng(0)
    inputs, labels = random.standard_normal((10, 4)).astype(np.float32), random.integers(0, 4, 10)
    statistics = {"n.mean": np.float32([1.0, 0.0, 0.0, -1.0])}
    logits = inputs - statistics["n.mean"]
    expected = (logits.argmax(axis=1) == labels).sum()
    for batch_size in (1, 3, 10, 99):
        found = evaluate(MomentEngine(), {}, statistics, inputs, labels, batch_size)
        assert (found.num_correct, found.num_samples) == (expected, 10)
        assert found.loss_sum == pytest.approx(cross_entropy_total(logits, {"labels": labels}))


def test_cross_entropy_of_even_logits_is_the_logarithm_of_the_number_of_classes():
    total = cross_entropy_total(np.zeros((3, 4), np.float32), {"labels": np.array([0, 1, 3])})
    assert total == pytest.approx(3 * np.log(4))


def test_cross_entropy_of_huge_logits_is_finite():
    logits = np.array([[1e30, -1e30]], np.float32)
    assert cross_entropy_total(logits, {"labels": np.array([0])}) == 0.0
