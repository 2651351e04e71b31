"""Every gradient rule against torch's own differentiation, in the runtime that devices have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from models import graph as model_graph
from models.engines.choose import make_engine
from models.gradients import rules
from models.gradients.training_graph import emit_training
from models.losses import LossSettings
from tests.fixtures.operator_graphs import CASES, Draft, worst_error

TOLERANCE = 1e-4
LOSS = LossSettings()


def test_every_operator_of_the_graph_has_a_rule():
    assert rules.RULES.keys() == model_graph.OPERATORS.keys()


@pytest.mark.parametrize("op", CASES)
def test_a_rule_gives_the_gradients_of_torch(op):
    @settings(max_examples=60 if op == "Conv" else 25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CASES[op])
    def holds(case):
        targets = {"labels": case.labels}
        wanted = make_engine("torch", case.graph, LOSS, 1).gradients(case.weights, case.x, targets)
        found = make_engine("onnx", case.graph, LOSS, 1).gradients(case.weights, case.x, targets)
        assert found.loss == pytest.approx(wanted.loss, rel=1e-5, abs=1e-6)
        assert worst_error(found.gradients, wanted.gradients) <= TOLERANCE
        assert worst_error(found.statistics, wanted.statistics) <= TOLERANCE

    holds()


def pool_case(kernel, sizes, **attributes):
    draft = Draft((2, *sizes))
    rank = len(kernel)
    attributes = {
        "kernel_shape": kernel,
        "strides": kernel,
        "pads": (0,) * 2 * rank,
        "ceil_mode": 0,
    } | attributes
    return draft.case(draft.add("MaxPool", ("h",), "z", attributes), 3, 0)


@pytest.mark.parametrize(
    "case",
    [
        pool_case((9, 9), (9, 9)),
        pool_case((5, 4), (12, 11), strides=(2, 3), pads=(2, 1, 1, 0)),
        pool_case((6, 6), (13, 9), strides=(3, 2), ceil_mode=1),
        pool_case((30,), (61,), strides=(7,), pads=(3, 0)),
    ],
    ids=["of the whole map", "overlapping and padded", "not full at the end", "of a signal"],
)
def test_the_first_of_equal_pixels_takes_the_gradient_of_a_large_window(case):
    case.x[...] = np.round(case.x)
    targets = {"labels": case.labels}
    wanted, found = (
        make_engine(kind, case.graph, LOSS, 1).gradients(case.weights, case.x, targets)
        for kind in ("torch", "onnx")
    )
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert worst_error(found.gradients, wanted.gradients) <= TOLERANCE


def test_the_pixels_of_a_large_window_have_no_nodes_of_their_own():
    graphs = [pool_case((size, size), (32, 32)).graph for size in (8, 32)]
    small, large = (len(emit_training(graph, LOSS).nodes) for graph in graphs)
    assert large < small + 10  # a node for each of 32 x 32 pixels would take minutes to load
