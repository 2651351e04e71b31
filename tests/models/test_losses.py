from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from firmware_profiles.errors import UserError
from models.engines.choose import make_engine
from models.graph import ModelGraph, Node, validate
from models.loss_gradients import loss_gradients
from models.losses import LOSSES, LossSettings, find_loss, take_targets
from models.subnet import cut, ordered_subnet, uniform_vector
from models.widths import plan_widths

NAMES = tuple(LOSSES)
POOL = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 0}
CONV = {
    "kernel_shape": (3, 3),
    "strides": (1, 1),
    "pads": (1, 1, 1, 1),
    "dilations": (1, 1),
    "group": 1,
}


def every_target(num, classes, features_shape, seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    return {
        "labels": random.integers(0, classes, num),
        "values": (scale * random.standard_normal((num, classes))).astype(np.float32),
        "teacher_logits": (scale * random.standard_normal((num, classes))).astype(np.float32),
        "teacher_features": random.standard_normal(features_shape).astype(np.float32),
    }


def reference_loss(loss, logits, features, targets):
    """The four formulas by torch, in the dtype of the logits."""
    given = {name: torch.from_numpy(array) for name, array in targets.items()}
    given = {
        name: array.to(logits.dtype) if array.is_floating_point() else array for name, array in given.items()
    }
    if loss.name == "mean-squared-error":
        return (logits - given["values"]).pow(2).mean()
    labels = functional.cross_entropy(logits, given["labels"])
    if loss.name == "distillation":
        heat = loss.temperature
        teacher = functional.log_softmax(given["teacher_logits"] / heat, dim=1)
        ratio = teacher - functional.log_softmax(logits / heat, dim=1)
        distance = (teacher.exp() * ratio).sum(dim=1).mean()
        return loss.label_weight * labels + loss.distillation_weight * heat**2 * distance
    if loss.name == "feature-matching":
        distance = (features - given["teacher_features"]).pow(2).mean()
        return loss.label_weight * labels + loss.feature_weight * distance
    return labels


def autograd(loss, logits, features, targets):
    """(loss, gradient of the logits, gradient of the features) by torch in float64."""
    leaves = [torch.from_numpy(array.astype(np.float64)).requires_grad_() for array in (logits, features)]
    value = reference_loss(loss, *leaves, targets)
    found = torch.autograd.grad(value, leaves, materialize_grads=True)
    return value.item(), *(gradient.numpy() for gradient in found)


def assert_close(found, expected, relative=2e-6, absolute=1e-9):
    """Within a share of the largest entry, or an amount."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= max(relative * np.abs(expected).max(), absolute)


# ---------------------------------------------------------------- in NumPy


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    num=st.integers(1, 9),
    classes=st.integers(1, 12),
    scale=st.sampled_from([0.0, 0.1, 1.0, 30.0, 1e4]),
    temperature=st.floats(0.5, 20.0),
    factors=st.tuples(*[st.floats(0.0, 5.0)] * 3),
    seed=st.integers(0, 99),
)
def test_losses_and_gradients_in_numpy_are_those_of_autograd(
    name, num, classes, scale, temperature, factors, seed
):
    loss = LossSettings(
        name=name,
        temperature=temperature,
        label_weight=factors[0],
        distillation_weight=factors[1],
        feature_weight=factors[2],
    )
    random = np.random.default_rng(seed + 100)
    logits = (scale * random.standard_normal((num, classes))).astype(np.float32)
    features = random.standard_normal((num, 3, 2)).astype(np.float32)
    targets = every_target(num, classes, features.shape, seed, scale)
    value, of_logits, of_features = autograd(loss, logits, features, targets)
    found = loss_gradients(loss, logits, targets, features)
    # Terms that cancel leave the rounding of the terms: shares of up to 1, times their factors.
    size = 1 + factors[0] + factors[1] * temperature
    assert found.loss == pytest.approx(value, rel=2e-6, abs=5e-7 * size * (1 + temperature))
    assert_close(found.logits, of_logits, absolute=1e-6 * size / num)
    if name == "feature-matching":
        assert found.features is not None
        assert_close(found.features, of_features)
    else:
        assert found.features is None


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_contiguous_float32_whatever_the_order_of_the_logits(name):
    logits = np.asfortranarray(np.eye(4, 3, dtype=np.float32))
    features = np.asfortranarray(np.ones((4, 5), np.float32))
    found = loss_gradients(LossSettings(name=name), logits, every_target(4, 3, (4, 5)), features)
    assert isinstance(found.loss, float)
    for gradient in filter(lambda array: array is not None, found[1:]):
        assert gradient.dtype == np.float32
        assert gradient.flags.c_contiguous


@pytest.mark.parametrize("name", NAMES)
def test_the_arrays_that_a_loss_reads_stay_as_they_are(name):
    logits, features = np.eye(4, 3, dtype=np.float32), np.ones((4, 5), np.float32)
    targets = every_target(4, 3, (4, 5))
    for array in (logits, features, *targets.values()):
        array.flags.writeable = False
    loss_gradients(LossSettings(name=name, temperature=3.0), logits, targets, features)


def test_a_student_that_equals_its_teacher_is_not_moved():
    logits = every_target(5, 4, (5, 1))["teacher_logits"]
    targets = {"labels": np.zeros(5, np.int64), "teacher_logits": logits}
    found = loss_gradients(LossSettings(name="distillation", label_weight=0.0), logits, targets)
    assert found.loss == 0.0
    assert not found.logits.any()


def test_logits_that_are_not_finite_make_a_loss_that_is_not_finite():
    logits = np.array([[np.inf, 0.0]], np.float32)
    assert not math.isfinite(loss_gradients(LossSettings(), logits, {"labels": np.array([1])}).loss)


@pytest.mark.parametrize("name", ["cross-entropy", "mean-squared-error"])
def test_the_measure_for_evaluation_is_the_loss_times_the_samples(name):
    targets = every_target(6, 3, (6, 1))
    logits = every_target(6, 3, (6, 1), seed=1)["values"]
    found = loss_gradients(LossSettings(name=name), logits, targets).loss
    assert LOSSES[name].total(logits, targets) == pytest.approx(6 * found)


# ---------------------------------------------------------------- by the engine


def graph_of(nodes, parameters, input_shape):
    return validate(ModelGraph("test", "x", input_shape, "y", tuple(nodes), parameters, {}, {}, {}))


def pooled_graph():
    """The ReLU before the pool may be moved behind it, where the flatten reads it."""
    nodes = [
        Node("Conv", ("x", "conv.weight"), "a", CONV),
        Node("Relu", ("a",), "b", {}),
        Node("MaxPool", ("b",), "c", POOL),
        Node("Flatten", ("c",), "d", {}),
        Node("Gemm", ("d", "last.weight", "last.bias"), "y", {}),
    ]
    parameters = {"conv.weight": (6, 2, 3, 3), "last.weight": (3, 24), "last.bias": (3,)}
    return graph_of(nodes, parameters, (2, 4, 4))


def two_layers():
    """The ReLU may overwrite its input, and its output is what the last layer reads."""
    nodes = [
        Node("Gemm", ("x", "first.weight"), "a", {}),
        Node("Relu", ("a",), "b", {}),
        Node("Gemm", ("b", "last.weight", "last.bias"), "y", {}),
    ]
    return graph_of(nodes, {"first.weight": (8, 5), "last.weight": (3, 8), "last.bias": (3,)}, (5,))


def forward(graph, leaves, x):
    """(logits, features) by plain torch."""
    if "conv.weight" in leaves:
        features = functional.max_pool2d(functional.conv2d(x, leaves["conv.weight"], padding=1).relu(), 2)
        features = features.flatten(1)
    else:
        features = (x @ leaves["first.weight"].T).relu()
    return features @ leaves["last.weight"].T + leaves["last.bias"], features


def weights_of(graph, keep, seed=3):
    random = np.random.default_rng(seed)
    full = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in graph.parameters.items()
    }
    plan = plan_widths(graph)
    return cut(plan, full, ordered_subnet(plan, uniform_vector(plan, keep)))


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("make_graph", [pooled_graph, two_layers])
@pytest.mark.parametrize("name", NAMES)
def test_the_torch_engine_trains_by_every_loss(name, make_graph, keep):
    graph, loss = make_graph(), LossSettings(name=name, temperature=2.0, label_weight=0.3, feature_weight=2.0)
    weights = weights_of(graph, keep)
    x = np.random.default_rng(4).standard_normal((7, *graph.input_shape)).astype(np.float32)
    engine = make_engine("torch", graph, loss, 1)
    targets = every_target(7, 3, engine.outputs(weights, x)["features"].shape)
    found = engine.gradients(weights, x, targets)
    leaves = {name: torch.from_numpy(array).double().requires_grad_() for name, array in weights.items()}
    value = reference_loss(loss, *forward(graph, leaves, torch.from_numpy(x).double()), targets)
    value.backward()
    assert found.loss == pytest.approx(value.item(), rel=1e-5)
    for parameter, leaf in leaves.items():
        assert leaf.grad is not None
        assert_close(found.gradients[parameter], leaf.grad.numpy(), relative=1e-5)


def test_features_as_the_engine_gives_them_are_no_distance_away():
    graph, weights = two_layers(), weights_of(two_layers(), 1.0)
    x = np.ones((2, 5), np.float32)
    engine = make_engine("torch", graph, LossSettings(name="feature-matching", label_weight=0.0), 1)
    targets = {
        "labels": np.zeros(2, np.int64),
        "teacher_features": engine.outputs(weights, x)["features"].copy(),
    }
    assert engine.gradients(weights, x, targets).loss == 0.0


@pytest.mark.parametrize("kind", ["torch", "onnx", "numpy"])
def test_matching_features_of_a_network_without_weights_is_refused(kind):
    graph = graph_of([Node("Relu", ("x",), "y", {})], {}, (3,))
    with pytest.raises(UserError, match=r"'feature-matching' compares .* model test has no such layer"):
        make_engine(kind, graph, LossSettings(name="feature-matching"), 1)


# ---------------------------------------------------------------- targets


WRONG_TARGETS = {
    "labels are missing": ("cross-entropy", {"labels": None}, "wants the targets labels, and values, "),
    "teacher logits are missing": (
        "distillation",
        {"teacher_logits": None},
        r"add 'teacher_logits', float32 \[4, 3\], or choose another loss",
    ),
    "one row for all samples": (
        "distillation",
        {"teacher_logits": np.zeros((1, 3), np.float32)},
        r"'teacher_logits' is float32 \[1, 3\], it must be float32 \[4, 3\], as the logits are",
    ),
    "values of other classes": (
        "mean-squared-error",
        {"values": np.zeros((4, 2), np.float32)},
        r"'values' is float32 \[4, 2\]",
    ),
    "features of a wider network": (
        "feature-matching",
        {"teacher_features": np.zeros((4, 9), np.float32)},
        r"it must be float32 \[4, 5\], as the features are",
    ),
    "labels as a column": (
        "cross-entropy",
        {"labels": np.zeros((4, 1), np.int64)},
        r"'labels' is int64 \[4, 1\], it must be int64 \[4\], as the samples are",
    ),
    "short labels": ("cross-entropy", {"labels": np.zeros(4, np.int32)}, "'labels' is int32"),
    "values of double precision": ("mean-squared-error", {"values": np.zeros((4, 3))}, "is float64"),
    "a label too high": ("cross-entropy", {"labels": np.array([0, 3, 1, 1])}, r"label 3 is outside 0\.\.2"),
    "a label below 0": ("feature-matching", {"labels": np.array([0, 1, -1, 1])}, "label -1 is outside"),
}


@pytest.mark.parametrize("case", WRONG_TARGETS)
def test_targets_that_a_loss_cannot_use_are_refused(case):
    name, changes, message = WRONG_TARGETS[case]
    targets = every_target(4, 3, (4, 5)) | changes
    targets = {key: array for key, array in targets.items() if array is not None}
    with pytest.raises(UserError, match=message):
        take_targets(find_loss(name), targets, (4, 3), (4, 5))


def test_a_loss_without_any_targets_says_that_nothing_was_given():
    with pytest.raises(UserError, match="and nothing was given"):
        loss_gradients(LossSettings(), np.zeros((1, 2), np.float32), {})


def test_the_engine_refuses_targets_that_would_be_broadcast():
    graph = two_layers()
    engine = make_engine("torch", graph, LossSettings(name="mean-squared-error"), 1)
    with pytest.raises(UserError, match=r"'values' is float32 \[1, 3\]"):
        engine.gradients(
            weights_of(graph, 1.0), np.ones((2, 5), np.float32), {"values": np.ones((1, 3), np.float32)}
        )
