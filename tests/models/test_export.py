"""The trained network taken out, whole or narrower."""

import os

import numpy as np
import pytest

from firmware_profiles.errors import UserError
from models import weights as weight_files
from models.export import export_subnet, load_weights, newest_weights, strongest_subnet
from models.subnet import uniform_vector
from models.widths import plan_widths
from models.zoo import initial_weights, load_model

GRAPH = load_model("cnn-28")[0]
PLAN = plan_widths(GRAPH)


def test_the_channels_with_the_largest_norm_are_kept():
    weights = initial_weights(GRAPH, 0)
    weights["0.weight"][[3, 30]] *= 100
    assert strongest_subnet(PLAN, weights, (2, 64, 64)).kept[0].tolist() == [3, 30]


def test_a_tied_group_counts_every_layer_that_makes_its_channels():
    graph = load_model("resnet-20")[0]
    plan = plan_widths(graph)
    weights = initial_weights(graph, 0)
    weights["4.conv2.weight"][5] *= 100  # a branch of the residual sum that the stem begins
    vector = (1, *(group.num_channels for group in plan.groups[1:]))
    assert strongest_subnet(plan, weights, vector).kept[0].tolist() == [5]


def test_equal_channels_are_kept_in_order():
    weights = {key: np.ones(shape, np.float32) for key, shape in GRAPH.parameters.items()}
    assert strongest_subnet(PLAN, weights, (3, 2, 1)).kept[0].tolist() == [0, 1, 2]


def test_the_first_channels_are_kept_where_that_is_asked_for():
    weights = initial_weights(GRAPH, 0)
    sub = export_subnet(PLAN, weights, uniform_vector(PLAN, 0.5), "first")
    np.testing.assert_array_equal(sub["3.weight"], weights["3.weight"][:32, :16])


def test_the_full_width_is_the_weights_themselves():
    weights = initial_weights(GRAPH, 0)
    sub = export_subnet(PLAN, weights, uniform_vector(PLAN, 1.0))
    assert all(np.array_equal(sub[key], weights[key]) for key in weights)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    weight_files.save(path, initial_weights(load_model("vgg-8")[0], 0))
    with pytest.raises(UserError, match="another network"):
        load_weights(GRAPH, path)


def test_weights_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    weight_files.save(path, initial_weights(GRAPH, 0) | {"0.bias": np.zeros(31, np.float32)})
    with pytest.raises(UserError, match=r"0\.bias has shape \(31,\)"):
        load_weights(GRAPH, path)


def test_the_newest_model_of_a_state_folder_is_taken(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for place, name in enumerate(("b", "a", "c")):
        (folder / f"{name}.safetensors").write_bytes(b"")
        os.utime(folder / f"{name}.safetensors", ns=(0, [5, 9, 7][place]))
    assert newest_weights(tmp_path).name == "a.safetensors"


def test_a_state_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="no model yet"):
        newest_weights(tmp_path)
