"""One rule for each operator of a ModelGraph."""

from __future__ import annotations

from firmware_profiles.errors import UserError
from models.gradients import convolution, elementwise, normalisation, pooling, products, shapes
from models.gradients.rule import Rule
from models.graph import Node

RULES: dict[str, Rule] = {
    "Conv": convolution.convolve,
    "Gemm": products.linear,
    "MatMul": products.multiply_matrices,
    "Add": elementwise.add,
    "Sub": elementwise.subtract,
    "Mul": elementwise.multiply,
    "Div": elementwise.divide,
    "Relu": elementwise.relu,
    "LeakyRelu": elementwise.leaky_relu,
    "Clip": elementwise.clip,
    "Sigmoid": elementwise.sigmoid,
    "Tanh": elementwise.tanh,
    "HardSwish": elementwise.hard_swish,
    "MaxPool": pooling.pool_maximum,
    "AveragePool": pooling.pool_average,
    "GlobalAveragePool": pooling.pool_globally,
    "BatchNormalization": normalisation.normalise,
    "ReduceMean": shapes.reduce_mean,
    "ReduceSum": shapes.reduce_sum,
    "Reshape": shapes.reshape,
    "Flatten": shapes.flatten,
    "Transpose": shapes.transpose,
    "Concat": shapes.concat,
    "Softmax": normalisation.softmax,
}


def find_rule(node: Node) -> Rule:
    """The rule of a node's operator.

    Raises:
        UserError: there is none; it names the operator and the place of the node.
    """
    if node.op not in RULES:
        place = f" at {node.place}" if node.place else ""
        raise UserError(
            f"the operator {node.op}{place} has no gradient rule, so that this network cannot be trained "
            "without torch; choose --engine torch"
        )
    return RULES[node.op]
