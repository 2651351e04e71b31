"""Narrower networks are ordinary networks."""

from __future__ import annotations

import numpy as np
import pytest

from firmware_profiles.errors import UserError
from models.cost import cost
from models.engines.choose import make_engine
from models.graph import ModelGraph, Node, validate
from models.losses import LossSettings
from models.narrow import narrow
from models.subnet import cut, full_subnet, full_vector, ordered_subnet, uniform_vector
from models.widths import plan_widths
from models.zoo import ZOO, initial_weights, load_model

GRAPHS = {name: load_model(name)[0] for name in ZOO}


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.parametrize("keep", [0.001, 0.45])
def test_every_width_group_is_scaled_rounded_and_at_least_one(name, keep):
    graph = GRAPHS[name]
    found = plan_widths(narrow(graph, keep)).groups
    wanted = uniform_vector(plan_widths(graph), keep)
    # A single channel is no group any more: nothing of it can be dropped.
    assert [group.num_channels for group in found] == [kept for kept in wanted if kept > 1]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_narrower_network_costs_what_its_vector_costs_in_the_whole_one(name):
    graph = GRAPHS[name]
    plan, less = plan_widths(graph), narrow(graph, 0.5)
    of_vector = cost(graph, plan, uniform_vector(plan, 0.5), 4)
    of_network = cost(less, plan_widths(less), full_vector(plan_widths(less)), 4)
    assert of_network.macs_training == of_vector.macs_training
    assert of_network.num_parameters == of_vector.num_parameters


@pytest.mark.parametrize("name", ["cnn-28", "dscnn-1d", "resnet-20"])
def test_it_computes_what_the_cut_weights_compute_in_the_whole_network(name):
    graph = GRAPHS[name]
    plan, less = plan_widths(graph), narrow(graph, 0.25)
    weights = cut(plan, initial_weights(graph, 1), ordered_subnet(plan, uniform_vector(plan, 0.25)))
    inputs = np.random.default_rng(1).normal(size=(2, *graph.input_shape)).astype(np.float32)
    targets = {"labels": np.array([1, 2])}
    of_cut = make_engine("numpy", graph, LossSettings(), 1).gradients(weights, inputs, targets)
    of_less = make_engine("numpy", less, LossSettings(), 1).gradients(
        cut(plan_widths(less), weights, full_subnet(plan_widths(less))), inputs, targets
    )
    assert of_less.loss == of_cut.loss
    for key, gradient in of_less.gradients.items():
        np.testing.assert_array_equal(gradient, of_cut.gradients[key])


def test_initial_weights_fit_it():
    less = narrow(GRAPHS["cnn-28"], 0.45)
    assert {key: value.shape for key, value in initial_weights(less, 0).items()} == less.parameters


@pytest.mark.parametrize(("keep", "name"), [(0.45, "cnn-28-w45"), (0.375, "cnn-28-w37-5"), (1.0, "cnn-28")])
def test_its_name_tells_the_share(keep, name):
    assert narrow(GRAPHS["cnn-28"], keep).name == name


def test_the_whole_share_is_the_network_itself():
    assert narrow(GRAPHS["cnn-28"], 1.0) is GRAPHS["cnn-28"]


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_a_share_outside_its_range_is_refused(keep):
    with pytest.raises(UserError, match="outside"):
        narrow(GRAPHS["cnn-28"], keep)


def test_a_network_without_width_groups_is_refused():
    nodes = (Node("Gemm", ("x", "w"), "y", {}),)
    graph = validate(ModelGraph("flat", "x", (3,), "y", nodes, {"w": (2, 3)}, {}, {}, {}))
    with pytest.raises(UserError, match="no width group"):
        narrow(graph, 0.5)
