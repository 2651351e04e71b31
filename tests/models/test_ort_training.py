"""The ort-training engine against torch, and its graphs of the loss.

The training build and torch are never in one environment: `scripts/test-ort-training` makes one for the
build, runs this file there, and names the other's Python in EDGETIDE_TORCH_PYTHON.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from firmware_profiles.errors import UserError
from models import operators
from models.engines.engine import features_name, features_shape
from models.engines.installed import onnxruntime_kind
from models.gradients.build import build_artifacts, build_loss
from models.graph import Constant, ModelGraph, Node, encode, validate
from models.losses import LossSettings
from models.operators import Operand
from models.subnet import cut, sample, uniform_vector
from models.widths import plan_widths
from models.zoo import load_model
from models.zoo.initial import initial_weights

ROOT = Path(__file__).resolve().parents[2]
TORCH_PYTHON = os.environ.get("EDGETIDE_TORCH_PYTHON")

needs_training_build = pytest.mark.skipif(
    onnxruntime_kind() != "training",
    reason="needs onnxruntime-training-cpu in an environment of its own: scripts/test-ort-training",
)
needs_plain_build = pytest.mark.skipif(onnxruntime_kind() != "plain", reason="needs plain onnxruntime")
needs_torch_python = pytest.mark.skipif(
    not TORCH_PYTHON, reason="EDGETIDE_TORCH_PYTHON names no Python with torch: scripts/test-ort-training"
)

LOSSES = ["cross-entropy", "mean-squared-error", "distillation", "feature-matching"]
NETWORKS = ["cnn-28", "resnet-20", "densenet-40", "vgg-8", "dscnn-1d"]
KEEP_FRACTIONS = (1, 0.5, 0.1)
DRAWS = (0, 1, 2)


# ---------------------------------------------------------------- small networks, one for each operator


def windows(kernel, stride=1, pads=None, dilation=None, **more):
    rank = len(kernel)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": (stride,) * rank}
    attributes["pads"] = pads or (0,) * 2 * rank
    if dilation:
        attributes["dilations"] = (dilation,) * rank
    return attributes | more


def conv(kernel, stride=1, pads=None, dilation=1, group=1):
    return windows(kernel, stride, pads, dilation, group=group)


def network(
    op, attributes=None, sizes=(4, 6, 6), parameters=None, constants=None, inputs=None, statistics=None
):
    """Weights before the operator, so that its input has a gradient too; then a linear layer."""
    parameters, constants, statistics = parameters or {}, constants or {}, statistics or {}
    attributes = attributes or {}
    inputs = inputs or ("a", *parameters, *statistics, *constants)
    kinds = {"a": Operand("value", sizes), "x": Operand("value", sizes)}
    kinds |= {name: Operand("parameter", shape) for name, shape in parameters.items()}
    kinds |= {name: Operand("statistic", shape) for name, shape in statistics.items()}
    kinds |= {name: Operand("constant", constant.shape) for name, constant in constants.items()}
    made = operators.output_shape(op, [kinds[name] for name in inputs], attributes)
    first, before = ("Mul", sizes) if len(sizes) > 1 else ("MatMul", sizes * 2)
    nodes = (
        Node(first, ("x", "before"), "a", {}),
        Node(op, inputs, "made", attributes),
        Node("Flatten", ("made",), "flat", {}),
        Node("Gemm", ("flat", "fc.weight", "fc.bias"), "y", {}),
    )
    trained = {"before": before, **parameters, "fc.weight": (3, math.prod(made)), "fc.bias": (3,)}
    return validate(ModelGraph("small", "x", sizes, "y", nodes, trained, statistics, constants, {}))


NUMBER = {"k": Constant((), (0.5,))}
ROW = {"k": Constant((4, 1, 1), (0.5, -1.0, 2.0, 3.0))}
NORM = {"n.weight": (4,), "n.bias": (4,)}
MOMENTS = {"n.mean": (4,), "n.var": (4,)}

OPERATORS = {
    "conv": network("Conv", conv((3, 3), pads=(1, 1, 1, 1)), parameters={"w": (5, 4, 3, 3), "b": (5,)}),
    "conv-stride": network("Conv", conv((3, 3), 2, (1, 1, 1, 1)), parameters={"w": (5, 4, 3, 3)}),
    "conv-1x1-stride": network("Conv", conv((1, 1), 2), parameters={"w": (5, 4, 1, 1)}),
    "conv-uneven": network("Conv", conv((2, 3), 2, (0, 1, 2, 0)), (4, 7, 6), {"w": (5, 4, 2, 3)}),
    "conv-dilation": network("Conv", conv((3, 3), 1, (2, 2, 2, 2), 2), parameters={"w": (5, 4, 3, 3)}),
    "conv-groups": network("Conv", conv((3, 3), group=2), parameters={"w": (6, 2, 3, 3)}),
    "conv-1d": network("Conv", conv((5,), 2, (2, 2)), (4, 12), {"w": (5, 4, 5), "b": (5,)}),
    "depthwise": network(
        "Conv", conv((3, 3), 1, (1, 1, 1, 1), group=4), parameters={"w": (4, 1, 3, 3), "b": (4,)}
    ),
    "depthwise-stride": network(
        "Conv", conv((3, 2), 2, (1, 0, 0, 1), group=4), parameters={"w": (4, 1, 3, 2)}
    ),
    "depthwise-dilation": network("Conv", conv((3, 3), dilation=2, group=4), parameters={"w": (4, 1, 3, 3)}),
    "depthwise-multiplier": network("Conv", conv((3, 3), group=4), parameters={"w": (8, 1, 3, 3), "b": (8,)}),
    "depthwise-1d": network("Conv", conv((5,), 2, (2, 2), group=4), (4, 12), {"w": (4, 1, 5)}),
    "matmul": network("MatMul", sizes=(4, 6), parameters={"w": (6, 5)}),
    "matmul-values": network("MatMul", sizes=(6, 6), inputs=("a", "x")),
    "add-row": network("Add", parameters={"w": (4, 1, 1)}),
    "sub-map": network("Sub", parameters={"w": (4, 6, 6)}),
    "mul-left": network("Mul", parameters={"w": (6, 1)}, inputs=("w", "a")),
    "mul-itself": network("Mul", inputs=("a", "a")),
    "add-itself": network("Add", inputs=("a", "a")),
    "div-number": network("Div", constants=NUMBER),
    "sub-number-left": network("Sub", constants=NUMBER, inputs=("k", "a")),
    "mul-constant": network("Mul", constants=ROW),
    "relu": network("Relu"),
    "leaky-relu": network("LeakyRelu", {"alpha": 0.1}),
    "clip": network("Clip", {"min": -0.5, "max": 1.0}),
    "sigmoid": network("Sigmoid"),
    "tanh": network("Tanh"),
    "hard-swish": network("HardSwish"),
    "softmax": network("Softmax", {"axis": 1}),
    "max-pool": network("MaxPool", windows((2, 2), 2, ceil_mode=0)),
    "max-pool-overlap": network("MaxPool", windows((3, 3), 2, (1, 1, 1, 1), ceil_mode=0)),
    "max-pool-ceil": network("MaxPool", windows((2, 2), 2, ceil_mode=1), (4, 7, 7)),
    "max-pool-1d": network("MaxPool", windows((3,), 2, ceil_mode=0), (4, 9)),
    "mean-pool": network("AveragePool", windows((2, 2), 2, ceil_mode=0, count_include_pad=0)),
    "mean-pool-padded": network(
        "AveragePool", windows((3, 3), 2, (1, 1, 1, 1), ceil_mode=0, count_include_pad=1)
    ),
    "mean-pool-inside": network(
        "AveragePool", windows((3, 3), 2, (1, 0, 1, 1), ceil_mode=0, count_include_pad=0)
    ),
    "mean-pool-1d": network(
        "AveragePool", windows((3,), 2, (1, 1), ceil_mode=0, count_include_pad=0), (4, 9)
    ),
    "global-pool": network("GlobalAveragePool"),
    "mean": network("ReduceMean", {"axes": (1, 3), "keepdims": 0}),
    "sum": network("ReduceSum", {"axes": (2,), "keepdims": 1}),
    "reshape": network("Reshape", {"shape": (0, 0, -1)}),
    "transpose": network("Transpose", {"perm": (0, 2, 1, 3)}),
    "concat": network("Concat", {"axis": 1}, inputs=("a", "x", "a")),
    "batch-norm": network("BatchNormalization", {"epsilon": 1e-5}, parameters=NORM, statistics=MOMENTS),
    "batch-norm-1d": network("BatchNormalization", {"epsilon": 1e-3}, (4, 9), NORM, statistics=MOMENTS),
    "batch-norm-flat": network("BatchNormalization", {"epsilon": 1e-3}, (4,), NORM, statistics=MOMENTS),
}


class Case(NamedTuple):
    """One computation. `group` says which cases an engine must serve together."""

    group: str
    graph: ModelGraph
    loss: LossSettings
    weights: dict
    x: Any
    targets: dict


def make_case(group, graph, loss, keep_fraction, weights, draw=0):
    plan = plan_widths(graph)
    kept = cut(plan, weights, sample(plan, uniform_vector(plan, keep_fraction), seed=1, step=2))
    random = np.random.default_rng(draw)
    num_samples, classes = 3, graph.num_classes
    features = features_shape(graph, features_name(graph), kept, num_samples)
    targets = {
        "labels": random.integers(0, classes, num_samples),
        "values": random.standard_normal((num_samples, classes), np.float32),
        "teacher_logits": random.standard_normal((num_samples, classes), np.float32),
        "teacher_features": random.standard_normal(features, np.float32),
    }
    x = random.standard_normal((num_samples, *graph.input_shape), np.float32)
    return Case(group, graph, LossSettings(name=loss, temperature=3.0, label_weight=0.5), kept, x, targets)


def random_weights(graph):
    random = np.random.default_rng(5)
    return {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in graph.parameters.items()}


def network_weights(graph):
    random = np.random.default_rng(6)
    return {
        name: (array + random.uniform(-0.2, 0.2, array.shape)).astype(np.float32)
        if array.ndim == 1
        else array
        for name, array in initial_weights(graph, 0).items()
    }


def operator_cases():
    return {
        f"{name}-keep-{keep}": make_case(name, graph, "cross-entropy", keep, random_weights(graph))
        for name, graph in OPERATORS.items()
        for keep in (1, 0.5)
    }


def network_cases():
    graphs = {name: load_model(name)[0] for name in NETWORKS}
    return {
        f"{name}-keep-{keep}-draw-{draw}": make_case(
            name, graph, "cross-entropy", keep, network_weights(graph), draw
        )
        for name, graph in graphs.items()
        for keep in KEEP_FRACTIONS
        for draw in DRAWS
    }


def loss_cases():
    graph = OPERATORS["conv"]
    return {
        f"{loss}-keep-{keep}": make_case(loss, graph, loss, keep, random_weights(graph))
        for loss in LOSSES
        for keep in (1, 0.5)
    }


@functools.cache
def cases():
    return operator_cases() | loss_cases() | network_cases()


SMALL_NAMES = [f"{name}-keep-{keep}" for name in (*OPERATORS, *LOSSES) for keep in (1, 0.5)]


# ---------------------------------------------------------------- gradients against torch


@pytest.fixture(scope="module")
def found_by_torch(tmp_path_factory):
    """Case name -> arrays that torch found, in a process of the other environment."""
    folder = tmp_path_factory.mktemp("cases")
    for name, case in cases().items():
        arrays = {"graph": encode(case.graph), "loss": msgspec.json.encode(case.loss)}
        arrays = {key: np.frombuffer(data, np.uint8) for key, data in arrays.items()} | {"x": case.x}
        arrays |= {f"w/{key}": array for key, array in case.weights.items()}
        arrays |= {f"t/{key}": array for key, array in case.targets.items()}
        np.savez(folder / f"{name}.npz", **arrays)
    program = Path(__file__).with_name("torch_reference.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([TORCH_PYTHON, program, folder], check=True, env=environment, timeout=150)
    found = {}
    for name in cases():
        with np.load(folder / f"{name}.found.npz") as arrays:
            found[name] = dict(arrays)
    return found


@functools.cache
def engine_of(group):
    """One engine serves every width."""
    from models.engines.choose import make_engine

    case = next(case for case in cases().values() if case.group == group)
    return make_engine("ort-training", case.graph, case.loss, 1)


def relative_errors(found, expected, kind):
    """The largest error of each tensor by the tensor's largest entry."""
    return {
        name: float(
            np.abs(array - expected[f"{kind}/{name}"]).max() / np.abs(expected[f"{kind}/{name}"]).max()
        )
        for name, array in found.items()
    }


def gradient_error(name, expected):
    """The largest relative error of a gradient, where loss, shapes and moments are right."""
    case = cases()[name]
    found = engine_of(case.group).gradients(case.weights, case.x, case.targets)
    assert found.loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert {key: array.shape for key, array in found.gradients.items()} == {
        key: case.weights[key].shape for key in case.graph.parameters
    }
    assert max(relative_errors(found.statistics, expected, "s").values(), default=0.0) <= 1e-4
    return max(relative_errors(found.gradients, expected, "g").values())


@needs_training_build
@needs_torch_python
@pytest.mark.parametrize("name", SMALL_NAMES)
def test_the_gradients_of_an_operator_are_those_of_torch(found_by_torch, name):
    assert gradient_error(name, found_by_torch[name]) <= 1e-4


@needs_training_build
@needs_torch_python
@pytest.mark.parametrize("keep", KEEP_FRACTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradients_of_a_network_are_those_of_torch(found_by_torch, network, keep):
    # Where a ReLU's input is within rounding of 0, two right gradients differ by whole terms. Not every
    # draw of a deep network has such a value; a wrong gradient is wrong in all of them.
    names = [f"{network}-keep-{keep}-draw-{draw}" for draw in DRAWS]
    assert min(gradient_error(name, found_by_torch[name]) for name in names) <= 1e-4


@needs_training_build
@needs_torch_python
@pytest.mark.parametrize("name", [f"{name}-keep-0.5-draw-0" for name in NETWORKS])
def test_outputs_are_those_of_torch(found_by_torch, name):
    case, expected = cases()[name], found_by_torch[name]
    engine = engine_of(case.group)
    moments = engine.statistics(case.weights, case.x)
    found = engine.outputs(case.weights | moments, case.x)
    assert max(relative_errors(moments, expected, "s").values(), default=0.0) <= 1e-4
    assert max(relative_errors(found, expected, "o").values()) <= 1e-4


# ---------------------------------------------------------------- the engine


@needs_training_build
def test_neither_torch_nor_onnx_is_imported():
    code = "import sys, models.engines.ort_training; print({'torch', 'onnx', 'h5py'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("set()\n", "")


@needs_training_build
def test_gradients_are_the_callers_to_overwrite():
    case, engine = cases()["conv-keep-1"], engine_of("conv")
    first = engine.gradients(case.weights, case.x, case.targets).gradients
    for array in first.values():
        array[...] = np.nan
    second = engine.gradients(case.weights, case.x, case.targets).gradients
    assert all(np.isfinite(array).all() and array.flags.c_contiguous for array in second.values())


@needs_training_build
def test_a_missing_target_is_named():
    case = cases()["conv-keep-1"]
    with pytest.raises(UserError, match="add 'labels'"):
        engine_of("conv").gradients(case.weights, case.x, {})


@needs_training_build
def test_features_of_another_width_are_refused():
    wide, narrow = cases()["feature-matching-keep-1"], cases()["feature-matching-keep-0.5"]
    with pytest.raises(UserError, match="'teacher_features'"):
        engine_of("feature-matching").gradients(wide.weights, wide.x, narrow.targets)


@needs_training_build
def test_a_damaged_graph_is_refused_with_the_models_name():
    from models.engines.ort_training import OrtTrainingEngine

    graph, loss = OPERATORS["conv"], LossSettings()
    artifacts = msgspec.structs.replace(build_artifacts(graph, loss), loss=b"not ONNX")
    with pytest.raises(UserError, match="gradients of model small"):
        OrtTrainingEngine(graph, loss, 1, artifacts)


# ---------------------------------------------------------------- its graph of the loss


PLAIN_NAMES = [name for name in SMALL_NAMES if not name.startswith("batch-norm")]
"""All but batch norm, which is an operator of the training build."""


@needs_plain_build
@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_the_graph_of_the_loss_makes_the_loss(name):
    import onnxruntime

    from models.engines.torch import TorchEngine

    case = cases()[name]
    expected = TorchEngine(case.graph, case.loss, 1, "cpu").gradients(case.weights, case.x, case.targets).loss
    session = onnxruntime.InferenceSession(
        build_loss(case.graph, case.loss), providers=["CPUExecutionProvider"]
    )
    given = {case.graph.input_name: case.x, **case.weights}
    given |= {f"@{key}": array for key, array in case.targets.items()}
    feeds = {item.name: given[item.name] for item in session.get_inputs()}
    assert session.run(["@loss"], feeds)[0] == pytest.approx(expected, rel=1e-5)


def test_no_unknown_size_has_a_name():
    # Of two names the gradient builder believes that they differ, and computes wrong gradients.
    import onnx

    for name in NETWORKS:
        model = onnx.load_model_from_string(build_loss(load_model(name)[0], LossSettings()))
        values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        sizes = [size for value in values for size in value.type.tensor_type.shape.dim]
        assert sizes
        assert not any(size.dim_param for size in sizes)
