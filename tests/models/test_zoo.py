"""The zoo, and sub-networks beside plain torch modules of the same width."""

import copy
import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from firmware_profiles.errors import UserError
from models.graph import digest
from models.onnx_file import to_onnx
from models.subnet import cut, sample, uniform_vector
from models.trace import trace_module
from models.widths import plan_widths
from models.zoo import ZOO, initial_weights, load_model

USER = runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "user_networks.py"))
SHAPES = {name: entry.input_shape for name, entry in ZOO.items()} | {"Branches": (2, 13, 13)}


def make(name):
    return USER[name]() if name in USER else ZOO[name].make(ZOO[name].input_shape, ZOO[name].num_classes)


def narrowed(module, sub):
    """A plain torch module with the given weights, its layers as wide as these are."""
    module = copy.deepcopy(module).eval()
    for name, layer in module.named_modules():
        for key in ("weight", "bias"):
            if f"{name}.{key}" in sub:
                setattr(layer, key, nn.Parameter(torch.from_numpy(sub[f"{name}.{key}"])))
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups > 1:
            layer.groups = layer.groups * layer.weight.shape[0] // layer.out_channels
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean = torch.from_numpy(sub[f"{name}.mean"])
            layer.running_var = torch.from_numpy(sub[f"{name}.var"])
    for name, _ in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(torch.from_numpy(sub[name])))
    return module


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("name", [*ZOO, "Branches"])
def test_a_sub_network_computes_what_a_plain_torch_module_of_its_width_computes(name):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = make(name)
    graph, weights = trace_module(module, SHAPES[name], "net")
    for key, shape in graph.statistics.items():
        weights[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    plan = plan_widths(graph)
    x = rng.standard_normal((2, *SHAPES[name])).astype(np.float32)
    for step, keep in enumerate((1.0, 0.6, 0.25)):
        sub = cut(plan, weights, sample(plan, uniform_vector(plan, keep), 5, step))
        with torch.no_grad():
            expected = narrowed(module, sub)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run(to_onnx(graph, sub), x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_the_shipped_graph_is_what_a_fresh_trace_gives(name):
    """After a change to a constructor: python -m models.zoo.ship."""
    fresh, _ = trace_module(make(name), SHAPES[name], name)
    assert digest(load_model(name)[0]) == digest(fresh)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("cnn-28", (3, 20, 24), 7),
        ("resnet-20", (1, 28, 28), 62),
        ("densenet-40", (1, 12, 12), 3),
        ("vgg-8", (1, 28, 28), 10),
        ("dscnn-1d", (6, 128), 6),
        ("dscnn-1d", (1, 16000), 35),
        ("cnn-tiny-28", (3, 13, 20), 4),
        ("cnn-tiny-1d", (1, 4000), 12),
    ],
)
def test_a_network_fits_data_of_other_shapes_as_its_constructor_would_make_it(name, shape, classes):
    graph, weights = load_model(name, shape, classes)
    assert weights is None
    fresh, _ = trace_module(ZOO[name].make(shape, classes), shape, name)
    assert digest(graph) == digest(fresh)


def test_no_network_of_the_zoo_needs_torch_to_fit_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ZOO:
        assert load_model(name, (2, *SHAPES[name][1:]), 3)[0].num_classes == 3


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("cnn-28", (6, 128), "channels, height, width"), ("vgg-8", (1, 8, 8), "at least 16")],
)
def test_data_that_a_network_cannot_take_is_refused(name, shape, message):
    with pytest.raises(UserError, match=message):
        load_model(name, shape, 10)


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match=r"did you mean resnet-20\?"):
        load_model("resnet20")


def test_a_file_brings_its_weights(tmp_path):
    graph, weights = trace_module(USER["Tiny"](), (1, 6, 6), "tiny")
    path = tmp_path / "My_Net.onnx"
    path.write_bytes(to_onnx(graph, weights).SerializeToString())
    read, read_weights = load_model(path, (1, 6, 6), 3)
    assert read.name == "my-net"
    assert all(np.array_equal(read_weights[key], weights[key]) for key in weights)


def test_a_file_that_does_not_fit_the_data_is_refused(tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(to_onnx(trace_module(USER["Tiny"](), (1, 6, 6), "tiny")[0]).SerializeToString())
    with pytest.raises(UserError, match=r"\(1, 6, 6\).*the data has \(1, 28, 28\)|data has \(1, 28, 28\)"):
        load_model(str(path), (1, 28, 28), 3)


def test_initial_weights_depend_on_the_seed_alone():
    graph = load_model("resnet-20")[0]
    first, again, other = (initial_weights(graph, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[key], again[key]) for key in graph.parameters)
    assert not np.array_equal(first["0.weight"], other["0.weight"])


def test_initial_weights_have_he_variance_and_neutral_norms():
    weights = initial_weights(load_model("resnet-20")[0], 0)
    assert weights["11.conv2.weight"].var() == pytest.approx(2 / (64 * 9), rel=0.05)
    assert (weights["1.weight"] == 1).all()
    assert not weights["1.bias"].any()
    assert not np.array_equal(weights["11.conv2.weight"], weights["11.conv1.weight"])


def test_initial_weights_are_every_parameter_and_no_statistic():
    graph = load_model("resnet-20")[0]
    weights = initial_weights(graph, 0)
    assert {key: array.shape for key, array in weights.items()} == graph.parameters
    assert all(array.dtype == np.float32 for array in weights.values())
