"""Class priors on the logits: what is rare here is not pushed down for it."""

from __future__ import annotations

import numpy as np
import pytest

from models.engines.choose import make_engine
from models.losses import LossSettings
from models.priors import WithPriors, log_priors
from models.zoo import load_model
from models.zoo.initial import initial_weights

GRAPH, _ = load_model("cnn-28")
WEIGHTS = initial_weights(GRAPH, 0)
BIAS = next(name for name, shape in GRAPH.parameters.items() if shape == (10,))


def gradients(offsets, labels):
    engine = make_engine("numpy", GRAPH, LossSettings(), 1)
    inputs = np.random.default_rng(1).normal(size=(len(labels), 1, 28, 28)).astype(np.float32)
    return WithPriors(engine, BIAS, offsets).gradients(WEIGHTS, inputs, {"labels": labels})


def test_every_class_counts_once_more_than_it_comes():
    assert np.exp(log_priors(np.array([3, 0, 1]))) == pytest.approx([4 / 7, 1 / 7, 2 / 7])


def test_even_priors_change_nothing():
    labels = np.arange(10)
    even, none = gradients(log_priors(np.full(10, 5)), labels), gradients(np.zeros(10, np.float32), labels)
    assert even.loss == pytest.approx(none.loss, abs=1e-5)
    np.testing.assert_allclose(even.gradients[BIAS], none.gradients[BIAS], atol=1e-5)


def test_a_class_that_is_absent_is_hardly_pushed_down():
    labels = np.zeros(16, np.int64)
    plain = gradients(np.zeros(10, np.float32), labels).gradients[BIAS]
    corrected = gradients(log_priors(np.bincount(labels, minlength=10) * 40), labels).gradients[BIAS]
    assert plain[1:].sum() > 0.5
    assert corrected[1:].sum() < 0.1 * plain[1:].sum()


def test_answers_carry_no_offset():
    engine = make_engine("numpy", GRAPH, LossSettings(), 1)
    inputs = np.ones((2, 1, 28, 28), np.float32)
    with_priors = WithPriors(engine, BIAS, np.full(10, 7.0, np.float32))
    np.testing.assert_array_equal(
        with_priors.outputs(WEIGHTS, inputs)["logits"], engine.outputs(WEIGHTS, inputs)["logits"]
    )
