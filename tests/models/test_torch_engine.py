from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from firmware_profiles.errors import UserError
from models import graph as model_graph
from models.engines.choose import make_engine
from models.engines.engine import features_name
from models.engines.torch_operators import OPERATORS
from models.graph import Constant, ModelGraph, Node, validate
from models.losses import LossSettings

POOL = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 0}


def conv_attributes(kernel=3, stride=1, pads=(1, 1, 1, 1), dilation=1, group=1):
    return {
        "kernel_shape": (kernel, kernel),
        "strides": (stride, stride),
        "pads": pads,
        "dilations": (dilation, dilation),
        "group": group,
    }


def graph_of(nodes, parameters, input_shape, statistics=None, constants=None):
    return validate(
        ModelGraph(
            name="small",
            input_name="x",
            input_shape=input_shape,
            output_name="y",
            nodes=tuple(nodes),
            parameters=parameters,
            statistics=statistics or {},
            constants=constants or {},
            shapes={},
        )
    )


def operator_graph(op, attributes, input_shape, parameters=None, inputs=("x",), constants=None):
    """One operator, made into logits by a flatten."""
    nodes = [Node(op, inputs, "z", attributes), Node("Flatten", ("z",), "y", {})]
    return graph_of(nodes, parameters or {}, input_shape, constants=constants)


def normed_graph(stride=1, channels=4):
    """1x1 convolution, batch norm, relu, global mean, linear."""
    nodes = [
        Node("Conv", ("x", "conv.weight"), "a", conv_attributes(1, stride, (0, 0, 0, 0))),
        Node(
            "BatchNormalization",
            ("a", "norm.weight", "norm.bias", "norm.mean", "norm.var"),
            "b",
            {"epsilon": 1e-5},
        ),
        Node("Relu", ("b",), "c", {}),
        Node("GlobalAveragePool", ("c",), "d", {}),
        Node("Flatten", ("d",), "e", {}),
        Node("Gemm", ("e", "fc.weight", "fc.bias"), "y", {}),
    ]
    parameters = {
        "conv.weight": (6, channels, 1, 1),
        "norm.weight": (6,),
        "norm.bias": (6,),
        "fc.weight": (3, 6),
        "fc.bias": (3,),
    }
    return graph_of(nodes, parameters, (channels, 8, 8), {"norm.mean": (6,), "norm.var": (6,)})


def random_weights(graph, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in graph.parameters.items()
    }


def images(num, shape, seed=1):
    return np.random.default_rng(seed).standard_normal((num, *shape)).astype(np.float32)


def run_operator(op, attributes, x, weights=None, inputs=("x",), constants=None):
    weights = weights or {}
    shapes = {name: values.shape for name, values in weights.items()}
    graph = operator_graph(op, attributes, x.shape[1:], shapes, inputs, constants)
    engine = make_engine("torch", graph, LossSettings(), 1)
    return engine.outputs(weights, x)["logits"].reshape(len(x), *graph.shapes["z"])


def windows(x, kernel, stride, pads, fill):
    """Pooling windows by hand: [N, C, H', W', kernel * kernel]."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    return view[:, :, ::stride, ::stride].reshape(*view[:, :, ::stride, ::stride].shape[:4], -1)


def test_every_operator_of_the_graph_has_its_place_in_the_table():
    assert OPERATORS.keys() | {"BatchNormalization"} == model_graph.OPERATORS.keys()


ELEMENTWISE = {
    "Relu": ({}, lambda x: np.maximum(x, 0)),
    "LeakyRelu": ({"alpha": 0.1}, lambda x: np.where(x > 0, x, 0.1 * x)),
    "Clip": ({"min": -0.5, "max": 0.75}, lambda x: np.clip(x, -0.5, 0.75)),
    "Sigmoid": ({}, lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": ({}, np.tanh),
    "HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Softmax": ({"axis": 1}, lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
    "GlobalAveragePool": ({}, lambda x: x.mean(axis=(2, 3), keepdims=True)),
    "ReduceMean": ({"axes": (2, 3), "keepdims": 0}, lambda x: x.mean(axis=(2, 3))),
    "ReduceSum": ({"axes": (3,), "keepdims": 1}, lambda x: x.sum(axis=3, keepdims=True)),
    "Reshape": ({"shape": (0, 0, -1)}, lambda x: x.reshape(2, 3, 20)),
    "Flatten": ({}, lambda x: x.reshape(2, 60)),
    "Transpose": ({"perm": (0, 2, 3, 1)}, lambda x: x.transpose(0, 2, 3, 1)),
}


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_an_operator_of_one_input_computes_what_onnx_says(op):
    attributes, reference = ELEMENTWISE[op]
    x = images(2, (3, 4, 5))
    np.testing.assert_allclose(run_operator(op, attributes, x), reference(x), atol=1e-6)


@pytest.mark.parametrize(
    ("op", "reference"),
    [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)],
)
def test_arithmetic_broadcasts_a_constant(op, reference):
    x, constant = images(2, (3, 4, 5)), Constant((3, 1, 1), (1.0, 2.0, -4.0))
    found = run_operator(op, {}, x, inputs=("x", "k"), constants={"k": constant})
    np.testing.assert_allclose(found, reference(x, np.array([1.0, 2.0, -4.0])[:, None, None]), atol=1e-6)


def test_matmul_takes_a_parameter_of_in_by_out():
    x, weight = images(2, (5,)), images(5, (4,), seed=2)
    np.testing.assert_allclose(
        run_operator("MatMul", {}, x, {"w": weight}, ("x", "w")), x @ weight, atol=1e-5
    )


def test_gemm_takes_a_weight_of_out_by_in():
    x, weight, bias = images(2, (5,)), images(4, (5,), seed=2), images(1, (4,), seed=3)[0]
    found = run_operator("Gemm", {}, x, {"w": weight, "b": bias}, ("x", "w", "b"))
    np.testing.assert_allclose(found, x @ weight.T + bias, atol=1e-5)


def test_concat_joins_channels():
    x = images(2, (3, 4, 5))
    found = run_operator("Concat", {"axis": 1}, x, inputs=("x", "x"))
    np.testing.assert_array_equal(found, np.concatenate([x, x], axis=1))


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (1, 0, 0, 1)])
def test_max_pool_pads_with_less_than_everything(pads):
    x = images(2, (3, 7, 7)) - 5.0
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": pads, "ceil_mode": 0}
    expected = windows(x, 3, 2, pads, -np.inf).max(axis=-1)
    np.testing.assert_array_equal(run_operator("MaxPool", attributes, x), expected)


@pytest.mark.parametrize("count_pad", [0, 1])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (1, 0, 0, 1)])
def test_average_pool_counts_padding_only_if_told(pads, count_pad):
    x = images(2, (3, 7, 7))
    attributes = {
        "kernel_shape": (3, 3),
        "strides": (2, 2),
        "pads": pads,
        "ceil_mode": 0,
        "count_include_pad": count_pad,
    }
    sums = windows(x, 3, 2, pads, 0.0).sum(axis=-1)
    counts = 9 if count_pad else windows(np.ones_like(x), 3, 2, pads, 0.0).sum(axis=-1)
    np.testing.assert_allclose(run_operator("AveragePool", attributes, x), sums / counts, atol=1e-5)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 2, 0)])
def test_convolution_pads_each_side_on_its_own(pads):
    x, weight = images(2, (3, 8, 8)), images(4, (3, 3, 3), seed=2)
    found = run_operator("Conv", conv_attributes(stride=2, pads=pads), x, {"w": weight}, ("x", "w"))
    top, left, bottom, right = pads
    padded = torch.from_numpy(np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))))
    np.testing.assert_allclose(
        found, functional.conv2d(padded, torch.from_numpy(weight), stride=2), atol=1e-5
    )


def test_a_depthwise_convolution_follows_the_channels_it_is_given():
    graph = operator_graph("Conv", conv_attributes(group=6), (6, 5, 5), {"w": (6, 1, 3, 3)}, ("x", "w"))
    engine = make_engine("torch", graph, LossSettings(), 1)
    x, weight = images(2, (4, 5, 5)), images(4, (1, 3, 3), seed=2)
    expected = functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=1, groups=4)
    np.testing.assert_allclose(engine.outputs({"w": weight}, x)["logits"], expected.flatten(1), atol=1e-5)


def test_a_one_dimensional_convolution_is_computed():
    attributes = {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1), "dilations": (1,), "group": 1}
    x, weight = images(2, (3, 9)), images(4, (3, 3), seed=2)
    found = run_operator("Conv", attributes, x, {"w": weight}, ("x", "w"))
    expected = functional.conv1d(torch.from_numpy(x), torch.from_numpy(weight), stride=2, padding=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4, 8])
def test_a_strided_1x1_convolution_of_few_channels_has_the_right_gradient(channels):
    graph = normed_graph(stride=2, channels=channels)
    weights, x, labels = random_weights(graph), images(5, (channels, 8, 8)), np.array([0, 1, 2, 0, 1])
    found = make_engine("torch", graph, LossSettings(), 1).gradients(weights, x, {"labels": labels})
    conv, norm, linear = nn.Conv2d(channels, 6, 1, 2, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 3)
    module = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    for parameter, values in zip(module.parameters(), weights.values(), strict=True):
        parameter.data = torch.from_numpy(values.copy())
    loss = functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), abs=1e-6)
    for parameter, gradient in zip(module.parameters(), found.gradients.values(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad, atol=1e-5)


def test_statistics_are_the_mean_and_biased_variance_of_the_mini_batch():
    graph = normed_graph()
    weights, x = random_weights(graph), images(5, (4, 8, 8))
    engine = make_engine("torch", graph, LossSettings(), 1)
    before_norm = np.einsum("oc,nchw->nohw", weights["conv.weight"][:, :, 0, 0], x)
    from_gradients = engine.gradients(weights, x, {"labels": np.zeros(5, np.int64)}).statistics
    for statistics in (from_gradients, engine.statistics(weights, x)):
        np.testing.assert_allclose(statistics["norm.mean"], before_norm.mean(axis=(0, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(statistics["norm.var"], before_norm.var(axis=(0, 2, 3)), rtol=1e-5)


def test_a_channel_with_a_single_value_has_variance_zero():
    nodes = [
        Node("Gemm", ("x", "w"), "a", {}),
        Node("BatchNormalization", ("a", "n.weight", "n.bias", "n.mean", "n.var"), "y", {"epsilon": 1e-5}),
    ]
    parameters = {"w": (3, 2), "n.weight": (3,), "n.bias": (3,)}
    graph = graph_of(nodes, parameters, (2,), {"n.mean": (3,), "n.var": (3,)})
    statistics = make_engine("torch", graph, LossSettings(), 1).statistics(
        random_weights(graph), images(1, (2,))
    )
    np.testing.assert_allclose(statistics["n.var"], 0.0, atol=1e-9)


def test_a_prediction_depends_on_no_batch_mate():
    graph = normed_graph()
    engine = make_engine("torch", graph, LossSettings(), 1)
    weights, x = random_weights(graph), images(5, (4, 8, 8))
    weights |= engine.statistics(weights, images(5, (4, 8, 8), seed=9))
    np.testing.assert_allclose(
        engine.outputs(weights, x)["logits"][:1], engine.outputs(weights, x[:1])["logits"], atol=1e-5
    )


def test_features_are_what_the_last_layer_reads():
    graph = normed_graph()
    engine = make_engine("torch", graph, LossSettings(), 1)
    weights, x = random_weights(graph), images(5, (4, 8, 8))
    outputs = engine.outputs(weights | engine.statistics(weights, x), x)
    np.testing.assert_allclose(
        outputs["features"] @ weights["fc.weight"].T + weights["fc.bias"], outputs["logits"], atol=1e-5
    )


def test_features_are_found_behind_a_bias_that_is_added_on_its_own():
    nodes = [Node("MatMul", ("x", "w"), "a", {}), Node("Add", ("a", "k"), "y", {})]
    graph = graph_of(nodes, {"w": (4, 3)}, (4,), constants={"k": Constant((3,), (1.0, 2.0, 3.0))})
    assert features_name(graph) == "x"


def test_neither_weights_nor_inputs_are_changed():
    graph = normed_graph()
    weights, x, labels = random_weights(graph), images(5, (4, 8, 8)), np.zeros(5, np.int64)
    before = {name: values.copy() for name, values in weights.items()}
    x_before = x.copy()
    found = make_engine("torch", graph, LossSettings(), 1).gradients(weights, x, {"labels": labels})
    for gradient in found.gradients.values():
        np.add(gradient, 1.0, out=gradient)  # the caller may
    assert all(np.array_equal(weights[name], before[name]) for name in weights)
    assert np.array_equal(x, x_before)


def test_a_relu_leaves_a_value_alone_that_others_read_too():
    nodes = [
        Node("Gemm", ("x", "w"), "a", {}),
        Node("Relu", ("a",), "b", {}),
        Node("Add", ("b", "a"), "y", {}),
    ]
    graph = graph_of(nodes, {"w": (3, 4)}, (4,))
    weights, x = random_weights(graph), images(2, (4,))
    before = x @ weights["w"].T
    found = make_engine("torch", graph, LossSettings(), 1).outputs(weights, x)["logits"]
    np.testing.assert_allclose(found, before + np.maximum(before, 0), atol=1e-5)


def test_read_only_arrays_are_welcome():
    graph = normed_graph()
    weights, x, labels = random_weights(graph), images(5, (4, 8, 8)), np.zeros(5, np.int64)
    for values in (*weights.values(), x, labels):
        values.flags.writeable = False
    found = make_engine("torch", graph, LossSettings(), 1).gradients(weights, x, {"labels": labels})
    assert np.isfinite(found.loss)


def test_gradients_come_contiguous_in_the_shapes_of_the_weights():
    graph = normed_graph()
    weights = random_weights(graph)
    labels = {"labels": np.zeros(5, np.int64)}
    found = make_engine("torch", graph, LossSettings(), 1).gradients(weights, images(5, (4, 8, 8)), labels)
    assert {name: g.shape for name, g in found.gradients.items()} == graph.parameters
    assert all(g.flags.c_contiguous and g.dtype == np.float32 for g in found.gradients.values())


def test_the_number_of_threads_holds_in_a_thread_that_did_not_make_the_engine():
    graph = normed_graph()
    engine, weights = make_engine("torch", graph, LossSettings(), 1), random_weights(graph)
    seen = []

    def work():
        torch.set_num_threads(2)
        engine.statistics(weights, images(5, (4, 8, 8)))
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'hinge' is unknown: choose one of cross-entropy"):
        make_engine("torch", normed_graph(), LossSettings(name="hinge"), 1)


def test_no_threads_are_refused():
    with pytest.raises(UserError, match="0 threads"):
        make_engine("torch", normed_graph(), LossSettings(), 0)


def test_choosing_an_engine_imports_torch_only_when_it_is_made():
    modules = ("models.engines.choose", "models.step", "models.bundle", "models.calibrate")
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
