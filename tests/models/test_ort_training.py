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


def network(op, attributes=None, sizes=(4, 6, 6), parameters=None, constants=None, inputs=None, statistics=None):
    """`x * scale`, the operator, flattened, and a linear layer: so its input has a gradient too."""
    parameters, constants, statistics = parameters or {}, constants or {}, statistics or {}
    attributes = attributes or {}
    inputs = inputs or ("a", *parameters, *statistics, *constants)
    kinds = {"a": Operand("value", sizes), "x": Operand("value", sizes)}
    kinds |= {name: Operand("parameter", shape) for name, shape in parameters.items()}
    kinds |= {name: Operand("statistic", shape) for name, shape in statistics.items()}
    kinds |= {name: Operand("constant", constant.shape) for name, constant in constants.items()}
    made = operators.output_shape(op, [kinds[name] for name in inputs], attributes)
    scale, features = (sizes[0], *(1,) * (len(sizes) - 1)), math.prod(made)
    nodes = (
        Node("Mul", ("x", "scale"), "a", {}),
        Node(op, inputs, "b", attributes),
        Node("Flatten", ("b",), "c", {}),
        Node("Gemm", ("c", "fc.weight", "fc.bias"), "y", {}),
    )
    trained = {"scale": scale, **parameters, "fc.weight": (3, features), "fc.bias": (3,)}
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
    "depthwise": network("Conv", conv((3, 3), 1, (1, 1, 1, 1), group=4), parameters={"w": (4, 1, 3, 3), "b": (4,)}),
    "depthwise-stride": network("Conv", conv((3, 2), 2, (1, 0, 0, 1), group=4), parameters={"w": (4, 1, 3, 2)}),
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
    "mean-pool-padded": network("AveragePool", windows((3, 3), 2, (1, 1, 1, 1), ceil_mode=0, count_include_pad=1)),
    "mean-pool-inside": network("AveragePool", windows((3, 3), 2, (1, 0, 1, 1), ceil_mode=0, count_include_pad=0)),
    "mean-pool-1d": network("AveragePool", windows((3,), 2, (1, 1), ceil_mode=0, count_include_pad=0), (4, 9)),
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


def features_shape(graph, weights, num_samples):
    shape = [num_samples, *graph.shapes[next(n.inputs[0] for n in graph.nodes if n.output == graph.output_name)]]
    return (num_samples, weights[graph.nodes[-1].inputs[1]].shape[1]) if len(shape) == 2 else tuple(shape)


def make_case(group, graph, loss, keep_fraction, weights):
    plan = plan_widths(graph)
    kept = cut(plan, weights, sample(plan, uniform_vector(plan, keep_fraction), seed=1, step=2))
    random = np.random.default_rng(3)
    num_samples, classes = 3, graph.num_classes
    targets = {
        "labels": random.integers(0, classes, num_samples),
        "values": random.standard_normal((num_samples, classes), np.float32),
        "teacher_logits": random.standard_normal((num_samples, classes), np.float32),
        "teacher_features": random.standard_normal(features_shape(graph, kept, num_samples), np.float32),
    }
    x = random.standard_normal((num_samples, *graph.input_shape), np.float32)
    return Case(group, graph, LossSettings(name=loss, temperature=3.0, label_weight=0.5), kept, x, targets)


def random_weights(graph):
    random = np.random.default_rng(5)
    return {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in graph.parameters.items()}


def network_weights(graph):
    """Shifted so that few values lie within rounding of a ReLU's corner, where two right gradients differ."""
    random = np.random.default_rng(6)
    shifts = {node.inputs[2]: 2.0 for node in graph.nodes if node.op == "BatchNormalization"}
    return {
        name: (array + random.uniform(-0.2, 0.2, array.shape) + shifts.get(name, 0.0)).astype(np.float32)
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
