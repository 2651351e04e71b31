"""The forward pass and loss as ONNX, in the form from which onnxruntime-training derives gradients.

Its gradient builder (1.19) takes a graph whose weights are inputs, and reads sizes from the graph, not
from the tensors. What follows from that, found by experiment:

- Dimensions have no names: of two names it believes that they differ, and drops or refuses a broadcast.
- A max pool's gradient has its size from the graph, so that channels of unknown number crash the process:
  pools see one channel, and samples and channels together as the batch.
- Average pools, depthwise convolutions of unknown width and HardSwish have no gradient, or a wrong one:
  they are written in operators that have. Batch norm is the runtime's own training operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.engines.engine import matched_features
from models.engines.reorder import pool_before_relu
from models.gradients.emitter import Emitter
from models.gradients.names import LOSS, target_name
from models.graph import ModelGraph, Node
from models.losses import LossSettings, find_loss

_BATCH_NORM = "com.microsoft:BatchNormInternal"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Site:
    """One node as a rule sees it.

    Attributes:
        inputs: emitted names of its inputs.
        sizes: its first input's shape of one sample at full width. made: its output's.
        weight: full-width shape of its second input if that is a parameter, else ().
        attributes: of the node.
    """

    inputs: tuple[str, ...]
    sizes: Shape
    made: Shape
    weight: Shape
    attributes: dict[str, Any]


def emit_loss(graph: ModelGraph, settings: LossSettings) -> Emitter:
    """Nodes that make the loss and the mini-batch's moments; see `Artifacts.loss`.

    Args:
        graph: a valid graph.
        settings: which loss, and its settings.

    Raises:
        UserError: the loss is unknown, or wants features and the network has none.
    """
    loss = find_loss(settings.name)
    matched = matched_features(graph, loss)
    graph = pool_before_relu(graph, {graph.output_name, matched or ""})
    e = Emitter()
    names = {name: name for name in (graph.input_name, *graph.parameters)}
    for name, constant in graph.constants.items():
        names[name] = e.constant(np.array(constant.values, np.float32).reshape(constant.shape))
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            names[node.output], *moments = _normalise(e, _site(graph, node, names))
            for statistic, moment in zip(node.inputs[3:], moments, strict=True):
                e.output(moment, statistic, 1)
        elif node.op in _RULES:
            names[node.output] = _RULES[node.op](e, _site(graph, node, names))
        else:
            attributes: dict[str, Any] = node.attributes
            names[node.output] = e.op(node.op, *(names[name] for name in node.inputs), **attributes)
    features = names[matched or graph.output_name]
    e.output(_LOSSES[loss.name](e, settings, names[graph.output_name], features), LOSS, 0)
    return e


def _site(graph: ModelGraph, node: Node, names: Mapping[str, str]) -> _Site:
    return _Site(
        inputs=tuple(names[name] for name in node.inputs if name not in graph.statistics),
        sizes=graph.shapes[node.inputs[0]],
        made=graph.shapes[node.output],
        weight=graph.parameters.get(node.inputs[1], ()) if len(node.inputs) > 1 else (),
        attributes=node.attributes,
    )


def _convolve(e: Emitter, site: _Site) -> str:
    """Conv, but a depthwise one as a sum over its taps: `group` cannot follow the width."""
    groups = site.attributes["group"]
    if groups == 1 or site.weight[1] > 1:
        return e.op("Conv", *site.inputs, **site.attributes)
    x, weight, *biases = site.inputs
    rank, multiplier = len(site.sizes) - 1, site.weight[0] // groups
    pads, strides = site.attributes["pads"], e.integers(*site.attributes["strides"])
    axes = e.integers(*range(2, 2 + rank))
    padded = e.op("Pad", x, e.integers(0, 0, *pads[:rank], 0, 0, *pads[rank:])) if any(pads) else x
    total = ""
    for tap in np.ndindex(*site.attributes["kernel_shape"]):
        starts = [index * step for index, step in zip(tap, site.attributes["dilations"], strict=True)]
        ends = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, site.made[1:], site.attributes["strides"], strict=True)
        ]
        pixels = e.op("Slice", padded, e.integers(*starts), e.integers(*ends), axes, strides)
        after = e.integers(*(index + 1 for index in tap))
        scale = e.op("Slice", weight, e.integers(*tap), after, axes)
        if multiplier > 1:
            pixels = e.reshape_to(pixels, (0, -1, 1, *site.made[1:]))
        product = e.op(
            "Mul",
            pixels,
            e.reshape_to(scale, (*((-1, multiplier) if multiplier > 1 else (-1,)), *(1,) * rank)),
        )
        total = e.op("Add", total, product) if total else product
    if multiplier > 1:
        total = e.reshape_to(total, (0, -1, *site.made[1:]))
    return e.op("Add", total, _per_channel(e, biases[0], rank)) if biases else total


def _per_channel(e: Emitter, vector: str, rank: int) -> str:
    return e.reshape_to(vector, (-1, *(1,) * rank))


def _linear(e: Emitter, site: _Site) -> str:
    return e.op("Gemm", *site.inputs, transB=1)


def _normalise(e: Emitter, site: _Site) -> tuple[str, str, str]:
    """Batch norm with the mini-batch's moments: the value, mean and biased variance."""
    x, scale, bias = site.inputs
    unused = e.scale(scale, 0.0)  # running moments, which nobody reads
    epsilon = site.attributes["epsilon"]
    made = e.ops(
        _BATCH_NORM,
        (x, scale, bias, unused, unused),
        5,
        epsilon=epsilon,
        momentum=0.0,
        training_mode=1,
    )
    inverse_deviation = made[4]
    variance = e.op("Reciprocal", e.op("Mul", inverse_deviation, inverse_deviation))
    # rounding may leave less than 0 where epsilon is all there is
    return made[0], made[3], e.op("Relu", e.op("Sub", variance, e.number(epsilon)))


def _clip(e: Emitter, site: _Site) -> str:
    return e.op("Clip", *site.inputs, e.number(site.attributes["min"]), e.number(site.attributes["max"]))


def _hard_swish(e: Emitter, site: _Site) -> str:
    """In operators that have a gradient: x clip(x + 3, 0, 6) / 6."""
    x = site.inputs[0]
    gate = e.op("Clip", e.op("Add", x, e.number(3.0)), e.number(0.0), e.number(6.0))
    return e.scale(e.op("Mul", x, gate), 1 / 6)


def _pool_maximum(e: Emitter, site: _Site) -> str:
    return _by_channel(e, site, lambda x: e.op("MaxPool", x, **site.attributes))


def _pool_average(e: Emitter, site: _Site) -> str:
    """A convolution with equal weights; padding counts only where the attribute says so."""
    windows = {key: site.attributes[key] for key in ("kernel_shape", "strides", "pads")}
    kernel = np.ones((1, 1, *windows["kernel_shape"]), np.float32)
    if site.attributes["count_include_pad"] or not any(windows["pads"]):
        mean = e.constant(kernel / np.float32(kernel.size))
        return _by_channel(e, site, lambda x: e.op("Conv", x, mean, **windows))
    pixels = e.constant(np.ones((1, 1, *site.sizes[1:]), np.float32))
    ones = e.constant(kernel)
    counts = e.op("Conv", pixels, ones, **windows)
    return _by_channel(e, site, lambda x: e.op("Div", e.op("Conv", x, ones, **windows), counts))


def _by_channel(e: Emitter, site: _Site, compute: Callable[[str], str]) -> str:
    """Apply to [samples * channels, 1, *sizes], whose channels are known."""
    x = site.inputs[0]
    both = e.op("Shape", x, start=0, end=2)
    made = compute(e.reshape_to(x, (-1, 1, *site.sizes[1:])))
    return e.op("Reshape", made, e.op("Concat", both, e.integers(*site.made[1:]), axis=0))


def _sum(e: Emitter, site: _Site) -> str:
    return e.sum(site.inputs[0], site.attributes["axes"], keepdims=bool(site.attributes["keepdims"]))


def _reshape(e: Emitter, site: _Site) -> str:
    return e.reshape_to(site.inputs[0], site.attributes["shape"])


_RULES: dict[str, Callable[[Emitter, _Site], str]] = {
    "Conv": _convolve,
    "Gemm": _linear,
    "Clip": _clip,
    "HardSwish": _hard_swish,
    "MaxPool": _pool_maximum,
    "AveragePool": _pool_average,
    "ReduceSum": _sum,
    "Reshape": _reshape,
}
"""Operators that are more than the ONNX operator of that name with the same inputs and attributes."""


def _cross_entropy(e: Emitter, _: LossSettings, logits: str, __: str) -> str:
    # its gradient is computed from the second output
    return e.ops("SoftmaxCrossEntropyLoss", (logits, target_name("labels")), 2)[0]


def _mean_square(e: Emitter, left: str, right: str) -> str:
    difference = e.op("Sub", left, right)
    return e.op("ReduceMean", e.op("Mul", difference, difference), keepdims=0)


def _squared_error(e: Emitter, _: LossSettings, logits: str, __: str) -> str:
    return _mean_square(e, logits, target_name("values"))


def _distillation(e: Emitter, settings: LossSettings, logits: str, features: str) -> str:
    """label_weight CE + distillation_weight T^2 KL(teacher || student)."""
    softened = 1 / settings.temperature
    student = e.op("LogSoftmax", e.scale(logits, softened), axis=1)
    teacher = e.op("LogSoftmax", e.scale(target_name("teacher_logits"), softened), axis=1)
    terms = e.op("Mul", e.op("Exp", teacher), e.op("Sub", teacher, student))
    divergence = e.op("ReduceMean", e.sum(terms, (1,), keepdims=False), keepdims=0)
    labels = e.scale(_cross_entropy(e, settings, logits, features), settings.label_weight)
    return e.op("Add", labels, e.scale(divergence, settings.distillation_weight * settings.temperature**2))


def _feature_matching(e: Emitter, settings: LossSettings, logits: str, features: str) -> str:
    labels = e.scale(_cross_entropy(e, settings, logits, features), settings.label_weight)
    difference = _mean_square(e, features, target_name("teacher_features"))
    return e.op("Add", labels, e.scale(difference, settings.feature_weight))


_LOSSES: dict[str, Callable[[Emitter, LossSettings, str, str], str]] = {
    "cross-entropy": _cross_entropy,
    "mean-squared-error": _squared_error,
    "distillation": _distillation,
    "feature-matching": _feature_matching,
}
"""Mean over the mini-batch from settings, logits and features, by the keys of `models.losses.LOSSES`."""
