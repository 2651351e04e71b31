"""Every gradient rule against torch's own differentiation, in the runtime that devices have."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from models import graph as model_graph
from models.engines.choose import make_engine
from models.gradients import rules
from models.losses import LossSettings
from tests.fixtures.operator_graphs import CASES, worst_error

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
