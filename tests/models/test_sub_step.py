"""A mini-batch with factors on its weights and with a larger self as teacher, against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from firmware_profiles.errors import UserError
from models.draws import make_draw
from models.engines.choose import make_engine
from models.factors import class_factors, class_tensors, scaling_factors
from models.graph import ModelGraph, Node, validate
from models.losses import LossSettings
from models.optim.optimizer import Optimizer
from models.optim.settings import OptimizerSettings
from models.sub_step import SubStep
from models.subnet import cut, full_vector, ordered_subnet, uniform_vector
from models.subnet_settings import SubnetSettings
from models.widths import plan_widths
from models.zoo import initial_weights, load_model

CONV = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
PARAMETERS = {
    "a.weight": (4, 1, 3, 3),
    "b.weight": (4, 1, 3, 3),
    "c.weight": (6, 4, 3, 3),
    "d.weight": (3, 10 * 4),
    "d.bias": (3,),
}
GRAPH = validate(
    ModelGraph(
        "branches",
        "x",
        (1, 4, 4),
        "y",
        (
            Node("Conv", ("x", "a.weight"), "a", {**CONV, "group": 1}),
            Node("Relu", ("a",), "ra", {}),
            Node("Conv", ("ra", "b.weight"), "b", {**CONV, "group": 4}),
            Node("Relu", ("b",), "rb", {}),
            Node("Conv", ("rb", "c.weight"), "c", {**CONV, "group": 1}),
            Node("Relu", ("c",), "rc", {}),
            Node("Concat", ("rb", "rc"), "j", {"axis": 1}),
            Node(
                "MaxPool",
                ("j",),
                "p",
                {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 0},
            ),
            Node("Flatten", ("p",), "f", {}),
            Node("Gemm", ("f", "d.weight", "d.bias"), "y", {}),
        ),
        PARAMETERS,
        {},
        {},
        {},
    )
)
PLAN = plan_widths(GRAPH)
VECTOR = (2, 2)
PLAIN = OptimizerSettings(learning_rate=1.0, momentum=0.0)
INPUTS = np.random.default_rng(3).normal(size=(5, 1, 4, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1])


def weights_of(seed=1):
    weights = initial_weights(GRAPH, seed)
    rng = np.random.default_rng(seed)
    return {
        name: value + 0.1 * rng.normal(size=value.shape).astype(np.float32) for name, value in weights.items()
    }


def engine(loss=LossSettings()):  # noqa: B008 - frozen
    return make_engine("numpy", GRAPH, loss, 1)


def trained(settings, *, vector=VECTOR, largest=None, labels=LABELS, loss=LossSettings(), optimizer=PLAIN):  # noqa: B008
    """(loss, minus the gradient at every entry) of one step at rate 1."""
    weights = weights_of()
    step = SubStep(
        engine(loss),
        GRAPH,
        PLAN,
        settings,
        make_draw(settings, PLAN, seed=1, round_number=1, weights=None),
        np.bincount(LABELS if labels is LABELS else labels, minlength=3),
    )
    result = step.run(weights, Optimizer(optimizer), (vector, largest or vector), 0, INPUTS, labels)
    delta = {name: value - weights_of()[name] for name, value in weights.items()}
    step.silence_absent(delta)
    return result.loss, delta


def test_factors_stand_where_kept_activations_are_read_and_nowhere_else():
    factors = scaling_factors(GRAPH, PLAN, ordered_subnet(PLAN, (2, 3)))
    assert set(factors) == {"c.weight", "d.weight"}  # not where the input is read, not depthwise
    assert factors["c.weight"].ravel().tolist() == [2.0] * 2
    assert factors["d.weight"].tolist() == [2.0] * 8 + [2.0] * 12
    uneven = scaling_factors(GRAPH, PLAN, ordered_subnet(PLAN, (1, 3)))
    assert uneven["d.weight"].tolist() == [4.0] * 4 + [2.0] * 12  # each segment its own


def test_the_full_network_has_no_factors():
    assert scaling_factors(GRAPH, PLAN, ordered_subnet(PLAN, full_vector(PLAN))) == {}


def test_a_scaled_step_follows_the_exact_gradient_of_the_scaled_network():
    settings = SubnetSettings(draw="ordered", scaling=True)
    loss, delta = trained(settings)
    subnet = ordered_subnet(PLAN, VECTOR)
    scaled = dict(cut(PLAN, weights_of(), subnet))
    for name, factor in scaling_factors(GRAPH, PLAN, subnet).items():
        scaled[name] = scaled[name] * factor
    expected = engine().gradients(scaled, INPUTS, {"labels": LABELS})
    assert loss == expected.loss
    moved = cut(PLAN, delta, subnet)
    np.testing.assert_allclose(moved["d.bias"], -expected.gradients["d.bias"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["c.weight"], -2 * expected.gradients["c.weight"], rtol=1e-4, atol=1e-6)


def test_scaling_is_right_on_average_over_draws():
    """The mean over all sub-networks of what one layer reads is what it reads in the full network."""
    vector = (2, 6)
    kept = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    activations = np.arange(4.0)
    means = np.mean([sum(activations[list(pair)]) * 4 / 2 for pair in kept])
    assert means == activations.sum()
    factors = scaling_factors(GRAPH, PLAN, ordered_subnet(PLAN, vector))
    assert factors["c.weight"].ravel().tolist() == [2.0, 2.0]


def test_absent_classes_have_logit_0_and_get_no_gradient():
    labels = np.array([0, 1, 0, 0, 1])
    loss, delta = trained(
        SubnetSettings(draw="ordered", mask_absent_classes=True), vector=full_vector(PLAN), labels=labels
    )
    logits = engine().outputs(weights_of(), INPUTS)["logits"]
    logits[:, 2] = 0.0
    assert loss == pytest.approx(-log_softmax(logits, axis=1)[np.arange(5), labels].mean(), rel=1e-5)
    assert not delta["d.weight"][2].any()
    assert delta["d.bias"][2] == 0
    assert delta["d.weight"][:2].any()


def test_weight_decay_does_not_report_absent_classes_either():
    decaying = OptimizerSettings(learning_rate=1.0, momentum=0.0, weight_decay=0.1)
    settings = SubnetSettings(draw="ordered", mask_absent_classes=True)
    _, delta = trained(settings, labels=np.array([0, 1, 0, 0, 1]), optimizer=decaying)
    assert not delta["d.weight"][2].any()


def test_a_device_that_has_every_class_trains_as_without_a_mask():
    one, two = trained(SubnetSettings(mask_absent_classes=True)), trained(SubnetSettings())
    assert one[0] == two[0]
    assert all(np.array_equal(one[1][name], two[1][name]) for name in one[1])


def test_the_last_layer_is_found_with_its_bias():
    assert class_tensors(GRAPH) == ("d.weight", "d.bias")
    assert class_factors(GRAPH, np.array([True, False, True]))["d.weight"].ravel().tolist() == [1, 0, 1]


def test_a_network_that_does_not_end_in_a_gemm_cannot_mask_classes():
    nodes = (*GRAPH.nodes, Node("Relu", ("y",), "z", {}))
    graph = validate(ModelGraph("end", "x", (1, 4, 4), "z", nodes, PARAMETERS, {}, {}, {}))
    with pytest.raises(UserError, match="ends in Relu"):
        class_tensors(graph)


DISTILLATION = LossSettings(name="distillation", temperature=1.0, label_weight=0.7, distillation_weight=0.3)


def test_a_smaller_width_learns_from_labels_and_from_the_largest_one():
    settings = SubnetSettings(draw="ordered", self_distillation=0.3)
    largest = (3, 4)
    loss, _ = trained(settings, largest=largest, loss=DISTILLATION)
    own, teacher = (
        engine().outputs(cut(PLAN, weights_of(), ordered_subnet(PLAN, vector)), INPUTS)["logits"]
        for vector in (VECTOR, largest)
    )
    labels_loss = -log_softmax(own, axis=1)[np.arange(5), LABELS].mean()
    shares = softmax(teacher, axis=1)
    divergence = (shares * (log_softmax(teacher, axis=1) - log_softmax(own, axis=1))).sum(axis=1).mean()
    assert loss == pytest.approx(0.7 * labels_loss + 0.3 * divergence, rel=1e-4)


def test_the_largest_width_itself_learns_from_the_labels_alone():
    loss, delta = trained(SubnetSettings(draw="ordered", self_distillation=0.3), loss=DISTILLATION)
    expected_loss, expected = trained(SubnetSettings(draw="ordered"))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name in expected:
        np.testing.assert_allclose(delta[name], expected[name], rtol=1e-3, atol=1e-6)


def test_a_teacher_costs_its_forward_pass_and_with_batch_norm_two():
    def macs(name, weight):
        graph = load_model(name)[0]
        settings = SubnetSettings(self_distillation=weight)
        plan = plan_widths(graph)
        step = SubStep(None, graph, plan, settings, None, np.ones(10, np.int64))  # pyright: ignore[reportArgumentType]
        return step.teacher_macs(uniform_vector(plan, 1.0))

    assert macs("cnn-28", 0.0) == 0
    assert macs("cnn-28", 0.5) == 5_650_560
    assert macs("resnet-20", 0.5) == 2 * 40_813_184
