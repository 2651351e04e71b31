"""MACs, parameters and memory as functions of a vector."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.cost import CostModel, cost
from models.subnet import cut, full_vector, sample, uniform_vector
from models.trace import trace_module
from models.widths import plan_widths
from models.zoo import ZOO, load_model

USER = runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "user_networks.py"))


def counted_by_hooks(module, input_shape):
    """MACs of one sample by a counter of its own: each layer's outputs times its inputs per output."""
    total = 0

    def count(layer, _inputs, output):
        nonlocal total
        total += output[0].numel() * math.prod(layer.weight.shape[1:])

    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module.eval()(torch.zeros(1, *input_shape))
    return total


def test_the_cnn_costs_what_a_hand_computation_says():
    graph = load_model("cnn-28")[0]
    plan = plan_widths(graph)
    convs = 28 * 28 * 32 * 1 * 9, 14 * 14 * 64 * 32 * 9, 7 * 7 * 64 * 64 * 9
    linear = 10 * 64 * 9
    found = cost(graph, plan, full_vector(plan), 32)
    assert found.macs_forward == sum(convs) + linear == 5_650_560
    assert found.macs_training == 3 * found.macs_forward - convs[0]  # nobody needs the image's gradient
    assert found.num_parameters == 320 + 18_496 + 36_928 + 5_770


def test_a_narrow_cnn_costs_what_a_hand_computation_says():
    graph = load_model("cnn-28")[0]
    plan = plan_widths(graph)
    found = cost(graph, plan, (5, 7, 9), 1)
    convs = 28 * 28 * 5 * 9, 14 * 14 * 7 * 5 * 9, 7 * 7 * 9 * 7 * 9
    assert found.macs_forward == sum(convs) + 10 * 9 * 9
    assert found.num_parameters == (5 * 9 + 5) + (7 * 5 * 9 + 7) + (9 * 7 * 9 + 9) + (10 * 81 + 10)


def test_memory_follows_its_formula():
    graph = trace_module(USER["Tiny"](), (1, 6, 6), "tiny")[0]
    plan = plan_widths(graph)
    found = cost(graph, plan, (2,), batch_size=8)
    kept = 36 + 2 * 16 + 2  # the image for the weights' gradient, ReLU's output, the linear layer's input
    largest = 36 + 2 * 16  # the convolution's input and output
    full, sub = 4 * 9 + 4 + 4 * 3 + 3, 2 * 9 + 2 + 2 * 3 + 3
    assert found.activation_bytes == 4 * kept
    assert found.memory_bytes == 4 * (3 * full + 2 * sub + 8 * (kept + largest))


@pytest.mark.parametrize("name", ZOO)
def test_macs_agree_with_an_independent_counter(name):
    entry = ZOO[name]
    graph = load_model(name)[0]
    plan = plan_widths(graph)
    module = entry.make(entry.input_shape, entry.num_classes)
    found = cost(graph, plan, full_vector(plan), 1)
    assert found.macs_forward == counted_by_hooks(module, entry.input_shape)
    assert found.num_parameters == sum(parameter.numel() for parameter in module.parameters())


def test_macs_of_a_users_network_agree_with_an_independent_counter():
    module = USER["Branches"]()
    graph = trace_module(module, (2, 13, 13), "branches")[0]
    plan = plan_widths(graph)
    assert cost(graph, plan, full_vector(plan), 1).macs_forward == counted_by_hooks(module, (2, 13, 13))


@pytest.mark.parametrize(
    ("name", "macs_forward", "num_parameters"),
    [("resnet-20", 40_813_184, 272_474), ("densenet-40", 72_365_352, 176_122)],
)
def test_the_zoo_has_the_sizes_that_are_published(name, macs_forward, num_parameters):
    graph = load_model(name)[0]
    plan = plan_widths(graph)
    found = cost(graph, plan, full_vector(plan), 1)
    assert (found.macs_forward, found.num_parameters) == (macs_forward, num_parameters)


@pytest.mark.parametrize("name", ZOO)
def test_parameters_are_those_of_a_real_cut(name):
    graph = load_model(name)[0]
    plan = plan_widths(graph)
    weights = {key: np.zeros(shape, np.float32) for key, shape in graph.parameters.items()}
    for keep in (0.75, 0.3, 0.01):
        vector = uniform_vector(plan, keep)
        sub = cut(plan, weights, sample(plan, vector, 0, 0))
        assert cost(graph, plan, vector, 1).num_parameters == sum(array.size for array in sub.values())


def test_many_vectors_at_once_cost_the_same_as_one_by_one():
    graph = load_model("densenet-40")[0]
    plan = plan_widths(graph)
    rng = np.random.default_rng(0)
    sizes = np.array(full_vector(plan))
    vectors = rng.integers(1, sizes + 1, (5, len(sizes)))
    many = CostModel(graph, plan, 16).costs(vectors)
    for place, vector in enumerate(vectors.tolist()):
        one = cost(graph, plan, tuple(vector), 16)
        assert one.macs_training == many.macs_training[place]
        assert one.memory_bytes == many.memory_bytes[place]
        assert one.activation_bytes == many.activation_bytes[place]


def test_a_product_of_two_activations_has_two_gradients():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv1d(2, 4, 1, bias=False)
            self.f = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            x = self.a(x)
            weights = torch.softmax(x.transpose(1, 2) @ x, 2)  # [N, 5, 5]
            return self.f((x @ weights).mean(2))

    graph = trace_module(Attention(), (2, 5), "attention")[0]
    plan = plan_widths(graph)
    found = cost(graph, plan, full_vector(plan), 1)
    conv, product, linear = 4 * 2 * 5, 5 * 5 * 4, 3 * 4
    assert found.macs_forward == conv + 2 * product + linear
    assert found.macs_training == 2 * conv + 3 * 2 * product + 3 * linear
