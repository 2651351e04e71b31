from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models import graph as model_graph
from models.engines.numpy.engine import NumpyEngine
from models.engines.numpy.operators import OPERATORS
from models.engines.torch import TorchEngine
from models.graph import Constant, ModelGraph, Node, validate
from models.losses import LossSettings
from models.operators import OperatorError, window_sizes
from models.subnet import cut, sample, uniform_vector
from models.widths import plan_widths
from models.zoo import ZOO, initial_weights, load_model

SQUARES = LossSettings(name="mean-squared-error")
few = settings(max_examples=25, deadline=None)


def draw(shape, seed=0, *, whole=False):
    random = np.random.default_rng(seed)
    if whole:  # many equal values
        return random.integers(-2, 3, shape).astype(np.float32)
    return random.standard_normal(shape).astype(np.float32)


def graph_of(nodes, parameters, input_shape, constants=None, statistics=None):
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


def operator_graph(op, attributes, input_shape, parameters=None, inputs=("u",), constants=None):
    """One operator of u = x + p, made into logits: the gradient of p tells that of its input."""
    nodes = [
        Node("Add", ("x", "p"), "u", {}),
        Node(op, inputs, "z", attributes),
        Node("Flatten", ("z",), "y", {}),
    ]
    return graph_of(nodes, {"p": input_shape, **(parameters or {})}, input_shape, constants)


def assert_close(found, expected, what, relative=1e-4):
    assert found.shape == expected.shape, what
    worst = np.abs(found - expected).max(initial=0.0)
    assert worst <= relative * max(np.abs(expected).max(initial=0.0), 1e-6), f"{what}: {worst}"


def assert_same(found, expected):
    assert found.loss == pytest.approx(expected.loss, rel=1e-5, abs=1e-6)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert_close(found.gradients[name], gradient, name)
        assert found.gradients[name].flags.c_contiguous
        assert found.gradients[name].dtype == np.float32
    assert found.statistics.keys() == expected.statistics.keys()
    for name, moments in expected.statistics.items():
        np.testing.assert_allclose(found.statistics[name], moments, rtol=1e-4, atol=1e-5)


def check(graph, weights, x, loss=SQUARES, targets=None):
    """Compare with torch; two steps, so that the second works in used buffers."""
    torch_engine, engine = TorchEngine(graph, loss, 1, device="cpu"), NumpyEngine(graph, loss, 1)
    targets = targets or {"values": draw((len(x), *graph.shapes["y"]), 9)}
    expected = torch_engine.gradients(weights, x, targets)
    for _ in range(2):
        assert_same(engine.gradients(weights, x, targets), expected)
    given_moments = weights | expected.statistics
    outputs = engine.outputs(given_moments, x)
    for name, values in torch_engine.outputs(given_moments, x).items():
        assert_close(outputs[name], values, name)


def check_operator(op, attributes, x, weights=None, inputs=("u",), constants=None):
    weights = weights or {}
    shapes = {name: values.shape for name, values in weights.items()}
    graph = operator_graph(op, attributes, x.shape[1:], shapes, inputs, constants)
    check(graph, {"p": np.zeros(x.shape[1:], np.float32)} | weights, x)


def test_every_operator_of_the_graph_has_its_rule():
    assert OPERATORS.keys() | {"BatchNormalization"} == model_graph.OPERATORS.keys()


@st.composite
def windows(draw_from, *, is_pool):
    """A sample's spatial sizes, and a window's attributes that fit them."""
    rank = draw_from(st.integers(1, 2))
    sizes = tuple(draw_from(st.integers(1, 9)) for _ in range(rank))
    kernel = tuple(draw_from(st.integers(1, 4)) for _ in range(rank))
    attributes = {
        "kernel_shape": kernel,
        "strides": tuple(draw_from(st.integers(1, 3)) for _ in range(rank)),
        "pads": tuple(draw_from(st.integers(0, size - 1 if is_pool else 3)) for size in kernel * 2),
    }
    attributes |= {"ceil_mode": 0} if is_pool else {"dilations": (1,) * rank}
    if not is_pool:
        attributes["dilations"] = tuple(draw_from(st.integers(1, 2)) for _ in range(rank))
    try:
        window_sizes(sizes, attributes)
    except OperatorError:
        assume(False)
    return sizes, attributes


@few
@given(
    windows(is_pool=False),
    st.sampled_from(["dense", "two groups", "depthwise", "doubling"]),
    st.booleans(),
    st.integers(1, 4),
)
def test_a_convolution_has_torchs_gradients(window, kind, has_bias, num_samples):
    sizes, attributes = window
    group, made, per_group = {
        "dense": (1, 5, 3),
        "two groups": (2, 4, 3),
        "depthwise": (4, 4, 1),
        "doubling": (3, 6, 1),
    }[kind]
    weights = {"w": draw((made, per_group, *attributes["kernel_shape"]), 2)}
    if has_bias:
        weights["b"] = draw((made,), 3)
    x = draw((num_samples, group * per_group, *sizes), 1)
    check_operator("Conv", attributes | {"group": group}, x, weights, ("u", *weights))


@few
@given(windows(is_pool=True), st.booleans(), st.booleans())
def test_a_max_pool_has_torchs_gradients_and_the_first_of_equal_values_wins(window, ceil_mode, whole):
    sizes, attributes = window
    attributes = attributes | {"ceil_mode": int(ceil_mode)}
    try:
        window_sizes(sizes, attributes)
    except OperatorError:
        assume(False)
    check_operator("MaxPool", attributes, draw((1, 3, *sizes), 1, whole=whole))


def test_the_first_of_equal_values_in_each_of_the_windows_takes_the_gradient():
    attributes = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 0}
    check_operator("MaxPool", attributes, draw((1, 2, 6, 6), 1, whole=True))


@few
@given(windows(is_pool=True), st.integers(0, 1))
def test_an_average_pool_has_torchs_gradients(window, count_pad):
    sizes, attributes = window
    check_operator("AveragePool", attributes | {"count_include_pad": count_pad}, draw((2, 3, *sizes), 1))


ONE_INPUT = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.1},
    "Clip": {"min": -0.5, "max": 0.75},
    "Sigmoid": {},
    "Tanh": {},
    "HardSwish": {},
    "GlobalAveragePool": {},
    "ReduceMean": {"axes": (2, 3), "keepdims": 0},
    "ReduceSum": {"axes": (1, 3), "keepdims": 1},
    "Reshape": {"shape": (0, 0, -1)},
    "Flatten": {},
    "Transpose": {"perm": (0, 3, 1, 2)},
    "Softmax": {"axis": 2},
}


@pytest.mark.parametrize("op", ONE_INPUT)
def test_an_operator_of_one_input_has_torchs_gradients(op):
    check_operator(op, ONE_INPUT[op], 2 * draw((3, 4, 5, 6), 1))


@pytest.mark.parametrize(("op", "at", "slope"), [("Relu", 0.0, 0.0), ("Clip", 6.0, 0.0), ("Clip", -1.0, 0.0)])
def test_no_gradient_passes_at_the_limits(op, at, slope):
    attributes = {"min": -1.0, "max": 6.0} if op == "Clip" else {}
    check_operator(op, attributes, np.full((1, 3), at, np.float32))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (5,), (1, 3, 4, 5), (4, 1)])
@pytest.mark.parametrize("is_left", [False, True])
def test_arithmetic_with_a_parameter_sums_its_gradient_to_its_shape(op, shape, is_left):
    if not shape:  # a parameter has an axis; a constant need not
        constants, weights = {"w": Constant((), (1.5,))}, {}
    else:
        constants, weights = None, {"w": 2 + np.abs(draw(shape, 2))}
    x = 4 + np.abs(draw((2, 3, 4, 5), 1))
    check_operator(op, {}, x, weights, ("w", "u") if is_left else ("u", "w"), constants)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("order", [("u", "v"), ("v", "u"), ("u", "u")])
def test_arithmetic_of_two_values_broadcasts_one_to_the_other(op, order):
    """v = mean of u over space, one for each channel of each sample."""
    nodes = [
        Node("Add", ("x", "p"), "u", {}),
        Node("GlobalAveragePool", ("u",), "v", {}),
        Node(op, order, "z", {}),
        Node("Add", ("z", "v"), "zz", {}),
        Node("Flatten", ("zz",), "y", {}),
    ]
    graph = graph_of(nodes, {"p": (3, 4, 5)}, (3, 4, 5))
    check(graph, {"p": np.zeros((3, 4, 5), np.float32)}, 4 + np.abs(draw((2, 3, 4, 5), 1)))


def test_products_with_a_parameter_have_torchs_gradients():
    check_operator("MatMul", {}, draw((3, 5), 1), {"w": draw((5, 4), 2)}, ("u", "w"))
    check_operator("MatMul", {}, draw((3, 2, 6, 5), 1), {"w": draw((5, 4), 2)}, ("u", "w"))
    check_operator("Gemm", {}, draw((3, 5), 1), {"w": draw((4, 5), 2), "b": draw((4,), 3)}, ("u", "w", "b"))
    check_operator("Gemm", {}, draw((3, 5), 1), {"w": draw((4, 5), 2)}, ("u", "w"))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_a_product_of_two_values_has_torchs_gradients(shape):
    perm = (0, *range(1, len(shape) - 1), len(shape), len(shape) - 1)
    nodes = [
        Node("Add", ("x", "p"), "u", {}),
        Node("Transpose", ("u",), "v", {"perm": perm}),
        Node("MatMul", ("u", "v"), "z", {}),
        Node("Flatten", ("z",), "y", {}),
    ]
    check(graph_of(nodes, {"p": shape}, shape), {"p": np.zeros(shape, np.float32)}, draw((2, *shape), 1))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concat_hands_each_part_its_gradient(axis):
    nodes = [
        Node("Add", ("x", "p"), "u", {}),
        Node("Tanh", ("u",), "v", {}),
        Node("Concat", ("u", "v", "u", "x"), "z", {"axis": axis}),
        Node("Flatten", ("z",), "y", {}),
    ]
    shape = (3, 4, 5)
    check(graph_of(nodes, {"p": shape}, shape), {"p": np.zeros(shape, np.float32)}, draw((2, *shape), 1))


@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 5, 6)])
def test_batch_norm_has_torchs_gradients_and_moments(shape):
    nodes = [
        Node("Mul", ("x", "p"), "u", {}),
        Node("BatchNormalization", ("u", "n.w", "n.b", "n.mean", "n.var"), "v", {"epsilon": 1e-3}),
        Node("Tanh", ("v",), "z", {}),
        Node("Flatten", ("z",), "y", {}),
    ]
    moments = {"n.mean": (4,), "n.var": (4,)}
    graph = graph_of(nodes, {"p": shape, "n.w": (4,), "n.b": (4,)}, shape, statistics=moments)
    weights = {"p": draw(shape, 2), "n.w": draw((4,), 3), "n.b": draw((4,), 4)}
    check(graph, weights, 3 + draw((5, *shape), 1))


def test_relus_that_overwrite_nothing_others_read_have_torchs_gradients():
    nodes = [
        Node("Gemm", ("x", "w"), "a", {}),
        Node("Relu", ("a",), "b", {}),
        Node("Add", ("b", "a"), "c", {}),
        Node("Relu", ("c",), "d", {}),
        Node("Add", ("d", "d"), "y", {}),
    ]
    check(graph_of(nodes, {"w": (3, 4)}, (4,)), {"w": draw((3, 4), 2)}, draw((5, 4), 1))


def smooth(graph):
    """The graph with tanh for relu: float32 rounding decides on which side of a kink a value lies."""
    nodes = tuple(
        msgspec.structs.replace(node, op="Tanh") if node.op == "Relu" else node for node in graph.nodes
    )
    return msgspec.structs.replace(graph, nodes=nodes)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("name", ZOO)
def test_sub_networks_of_the_zoo_have_torchs_gradients(name, keep):
    graph = smooth(load_model(name)[0])
    plan = plan_widths(graph)
    weights = {key: values for key, values in initial_weights(graph, 0).items() if key in graph.parameters}
    sub = cut(plan, weights, sample(plan, uniform_vector(plan, keep), 0, 0))
    x, labels = draw((6, *graph.input_shape), 1), np.arange(6) % graph.num_classes
    targets = {"labels": labels.astype(np.int64)}
    loss = LossSettings()
    expected = TorchEngine(graph, loss, 1, device="cpu").gradients(sub, x, targets)
    assert_same(NumpyEngine(graph, loss, 1).gradients(sub, x, targets), expected)


@pytest.fixture
def cnn():
    graph, _ = load_model("cnn-28")
    return graph, initial_weights(graph, 0)


LABELS = np.array([3, 1, 4, 1], np.int64)


def test_the_small_cnn_with_its_relus_has_torchs_gradients_and_outputs(cnn):
    graph, weights = cnn
    check(graph, weights, draw((4, 1, 28, 28), 1), LossSettings(), {"labels": LABELS})


@pytest.mark.parametrize("name", ["distillation", "feature-matching"])
def test_the_other_losses_reach_the_network(cnn, name):
    graph, weights = cnn
    targets = {
        "labels": LABELS,
        "teacher_logits": draw((4, 10), 5),
        "teacher_features": draw((4, 576), 6),
    }
    check(graph, weights, draw((4, 1, 28, 28), 1), LossSettings(name=name), targets)


def test_a_large_evaluation_gives_each_sample_its_own_outputs(cnn):
    graph, weights = cnn
    engine, x = NumpyEngine(graph, LossSettings(), 1), draw((130, 1, 28, 28), 1)
    together = engine.outputs(weights, x)
    assert together["logits"].shape == (130, 10)
    np.testing.assert_allclose(
        together["logits"][128:], engine.outputs(weights, x[128:])["logits"], atol=1e-5
    )


def test_neither_weights_nor_inputs_are_changed_and_results_are_the_callers(cnn):
    graph, weights = cnn
    x = draw((4, 1, 28, 28), 1)
    for values in (*weights.values(), x):
        values.flags.writeable = False
    engine = NumpyEngine(graph, LossSettings(), 1)
    first, outputs = engine.gradients(weights, x, {"labels": LABELS}), engine.outputs(weights, x)
    kept = {name: values.copy() for name, values in (first.gradients | outputs).items()}
    engine.gradients(weights, x + 1, {"labels": LABELS})
    engine.outputs(weights, x + 1)
    assert all(np.array_equal(kept[name], values) for name, values in (first.gradients | outputs).items())
    for values in first.gradients.values():
        values.fill(np.nan)  # the caller may
    again = engine.gradients(weights, x, {"labels": LABELS})
    assert all(np.array_equal(again.gradients[name], kept[name]) for name in again.gradients)


def test_sizes_may_change_from_call_to_call(cnn):
    graph, weights = cnn
    plan, engine, x = plan_widths(graph), NumpyEngine(graph, LossSettings(), 1), draw((4, 1, 28, 28), 1)
    subs = [cut(plan, weights, sample(plan, uniform_vector(plan, keep), 0, 0)) for keep in (1, 0.3)]
    alone = [NumpyEngine(graph, LossSettings(), 1).gradients(sub, x, {"labels": LABELS}) for sub in subs]
    for index in (0, 1, 0, 1):
        found = engine.gradients(subs[index], x, {"labels": LABELS})
        assert found.loss == alone[index].loss
        assert all(np.array_equal(found.gradients[name], g) for name, g in alone[index].gradients.items())


def test_several_threads_may_share_an_engine(cnn):
    graph, weights = cnn
    engine, xs = NumpyEngine(graph, LossSettings(), 1), [draw((4, 1, 28, 28), seed) for seed in range(4)]
    alone = [engine.gradients(weights, x, {"labels": LABELS}) for x in xs]
    found = {}

    def work(index):
        found[index] = [engine.gradients(weights, xs[index], {"labels": LABELS}).loss for _ in range(3)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: [alone[index].loss] * 3 for index in range(4)}


def test_weights_that_overflow_give_a_loss_that_is_not_finite_and_no_warning(cnn):
    graph, weights = cnn
    huge = {name: values * np.float32(1e20) for name, values in weights.items()}
    engine = NumpyEngine(graph, LossSettings(), 1)
    assert not np.isfinite(engine.gradients(huge, draw((4, 1, 28, 28), 1), {"labels": LABELS}).loss)
