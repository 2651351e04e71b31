"""Prototypes as a network predict as the nearest of them do."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from models.engines.numpy.engine import NumpyEngine
from models.losses import LossSettings
from models.onnx_file import to_onnx
from models.prototypes.classifier import (
    NUM_PLACES,
    SHARPNESS,
    as_weights,
    no_weights,
    prototype_graph,
    scales_of,
)
from models.prototypes.prototype_set import PrototypeSet, empty, joined, of_samples

FEATURES, CLASSES = 6, 3
GRAPH = prototype_graph((FEATURES,), CLASSES, NUM_PLACES)


def prototypes(num=60, *, offset=0.0, scale=1.0, seed=0):
    """Around a centre for each class, whose distances are of the order of their spread."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, num)
    centres = random.normal(0, 1.5, (CLASSES, FEATURES))
    vectors = offset + scale * (centres[labels] + random.normal(0, 1, (num, FEATURES)))
    return of_samples(vectors.astype(np.float32), labels)


def scores(weights, samples, graph=GRAPH):
    engine = NumpyEngine(graph, LossSettings(), 1)
    return engine.outputs(weights, np.asarray(samples, np.float32))[graph.output_name]


def nearest(given, samples):
    """The class of each sample's nearest prototype, in units of the distance between their quartiles."""
    vectors = given.vectors.astype(np.float64)
    low, high = np.quantile(vectors, (0.25, 0.75), axis=0)
    spread = np.where(high > low, (high - low) / 1.349, vectors.std(axis=0))
    used = spread > 0
    apart = (np.asarray(samples, np.float64)[:, None, used] - vectors[None][:, :, used]) / spread[used]
    return given.labels[(apart**2).sum(axis=2).argmin(axis=1)]


def agreement(given, samples):
    found = scores(as_weights(given, GRAPH), samples)
    assert found.shape == (len(samples), CLASSES)
    assert np.isfinite(found).all()
    return np.mean(found.argmax(axis=1) == nearest(given, samples))


def test_each_prototype_is_of_its_own_class():
    given = prototypes()
    assert agreement(given, given.vectors) == 1.0


def test_a_sample_is_of_the_class_of_the_prototype_nearest_to_it():
    assert agreement(prototypes(), prototypes(500, seed=0).vectors) > 0.97  # near a border several vote


@pytest.mark.parametrize(("offset", "scale"), [(1e4, 1.0), (-3e5, 100.0), (0.0, 1e-6), (0.0, 1e8)])
def test_units_and_large_offsets_change_nothing(offset, scale):
    given = prototypes(offset=offset, scale=scale)
    assert agreement(given, given.vectors) == 1.0


def test_a_feature_that_is_always_the_same_says_nothing():
    given = prototypes()
    given.vectors[:, 2] = 1000.0
    samples = given.vectors.copy()
    samples[:, 2] = -5.0
    assert agreement(given, samples) == 1.0


def test_one_prototype_alone_decides_everything():
    given = of_samples(np.full((1, FEATURES), 7.0), [1])
    assert (scores(as_weights(given, GRAPH), np.eye(FEATURES)).argmax(axis=1) == 1).all()


def test_of_two_as_near_the_one_of_more_samples_wins():
    vectors = np.array([[-1.0] * FEATURES, [1.0] * FEATURES], np.float32)
    for heavy in (0, 1):
        weights = np.array([9.0, 1.0] if heavy == 0 else [1.0, 9.0], np.float32)
        given = PrototypeSet(vectors, np.array([0, 1]), weights, np.zeros(2, np.float32))
        found = scores(as_weights(given, GRAPH), np.zeros((1, FEATURES)))
        np.testing.assert_allclose(found[0, [heavy, 1 - heavy]], SHARPNESS * np.array([0.9, 0.1]), rtol=1e-4)


def test_without_prototypes_every_class_is_as_likely():
    samples = prototypes().vectors
    for weights in (no_weights(GRAPH), as_weights(empty(FEATURES), GRAPH)):
        assert np.ptp(scores(weights, samples)) == 0.0


def test_weights_are_those_that_the_graph_names():
    for num in (0, 1, NUM_PLACES):
        weights = as_weights(prototypes(num), GRAPH)
        assert {name: one.shape for name, one in weights.items()} == GRAPH.parameters
        assert {one.dtype for one in weights.values()} == {np.dtype(np.float32)}


def test_more_prototypes_than_places_are_refused():
    with pytest.raises(ValueError, match=f"{NUM_PLACES + 1} prototypes"):
        as_weights(prototypes(NUM_PLACES + 1), GRAPH)


def test_prototypes_of_other_features_are_refused():
    with pytest.raises(ValueError, match="of 5 features for 256 of 6"):
        as_weights(of_samples(np.zeros((2, 5)), [0, 1]), GRAPH)


def test_samples_of_any_shape_are_flattened():
    graph = prototype_graph((2, 3), CLASSES, NUM_PLACES)
    given = prototypes()
    samples = given.vectors.reshape(-1, 2, 3)
    found = scores(as_weights(given, graph), samples, graph)
    np.testing.assert_array_equal(found, scores(as_weights(given, GRAPH), given.vectors))


@pytest.mark.parametrize("num", [0, 60])
def test_it_is_exported_as_plain_onnx(num):
    weights = as_weights(prototypes(num), GRAPH)
    session = onnxruntime.InferenceSession(
        to_onnx(GRAPH, weights).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    samples = prototypes(seed=0).vectors
    (found,) = session.run([GRAPH.output_name], {GRAPH.input_name: samples})
    np.testing.assert_allclose(found, scores(weights, samples), rtol=1e-4, atol=1e-4)


def test_one_faulty_device_of_five_does_not_spoil_the_scales_of_those_that_come():
    sound, faulty = prototypes(80, seed=1), prototypes(20, seed=2, offset=1e6)
    scales = scales_of(as_weights(joined([sound, faulty]), prototype_graph((FEATURES,), CLASSES, 100)))
    alone = scales_of(as_weights(sound, prototype_graph((FEATURES,), CLASSES, 100)))
    assert scales is not None
    assert alone is not None
    np.testing.assert_array_less(np.sqrt(scales.variance), 3.0 * np.sqrt(alone.variance))
    assert scales.count == 50.0
    assert scales_of(no_weights(prototype_graph((FEATURES,), CLASSES, 100))) is None
