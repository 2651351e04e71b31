from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.engines.choose import make_engine
from models.engines.engine import Gradients
from models.losses import LossSettings
from models.optim.optimizer import Optimizer
from models.optim.settings import OptimizerSettings
from models.step import training_step
from models.subnet import cut, full_subnet, sample, uniform_vector
from models.trace import trace_module
from models.widths import plan_widths
from models.zoo import ZOO


class GatedNet(nn.Module):
    """A module of a user's own, with what no zoo network has: gates, two branches, average pools."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 12, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(12)
        self.left = nn.Conv2d(12, 10, 1)
        self.right = nn.Conv2d(12, 10, 3, padding=1, bias=False)
        self.squeeze = nn.Linear(20, 6)
        self.excite = nn.Linear(6, 20)
        self.depth = nn.Conv2d(20, 20, 3, padding=2, dilation=2, groups=20)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(20 * 4 * 4, 5)

    def forward(self, x):
        x = functional.leaky_relu(self.norm(self.stem(x)), 0.1)
        x = torch.cat([torch.tanh(self.left(x)), functional.hardswish(self.right(x))], dim=1)
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean(dim=(2, 3))))))
        x = x * gate.unsqueeze(-1).unsqueeze(-1)
        x = functional.relu6(self.depth(x) + x)
        return self.head(torch.flatten(self.pool(x), 1))


INPUT_SHAPES = {name: entry.input_shape for name, entry in ZOO.items()} | {
    "resnet-20": (3, 16, 16),
    "vgg-8": (3, 16, 16),
    "densenet-40": (3, 8, 8),
    "dscnn-1d": (1, 1000),
    "of a user's own": (2, 16, 16),
}


@functools.cache
def traced(name):
    """(module, graph, weights) of a network, its random weights fixed."""
    torch.manual_seed(0)
    own = name == "of a user's own"
    module = GatedNet() if own else ZOO[name].make(INPUT_SHAPES[name], ZOO[name].num_classes)
    graph, _ = trace_module(module, INPUT_SHAPES[name], "own" if own else name)
    weights = {key: value.detach().numpy().copy() for key, value in module.named_parameters()}
    assert weights.keys() == graph.parameters.keys()
    return module, graph, weights


def narrowed(module, weights):
    """The same module as its author would have written it with the widths of these weights."""
    made = copy.deepcopy(module).train()
    for name, values in weights.items():
        path, _, last = name.rpartition(".")
        setattr(made.get_submodule(path), last, nn.Parameter(torch.from_numpy(values.copy())))
    for layer in made.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups > 1:
            layer.groups = len(layer.weight)
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean, layer.running_var = (
                torch.zeros(len(layer.weight)),
                torch.ones(len(layer.weight)),
            )
    return made


def batch(name, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, traced(name)[1].num_classes, 6)
    return random.standard_normal((6, *INPUT_SHAPES[name])).astype(np.float32), labels


def error(found, expected):
    """Largest difference, relative to the tensor's largest entry where that is above 1."""
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / max(1.0, np.abs(expected).max())


def assert_agree(compare):
    """The median over three mini-batches is below 1e-5.

    Where an activation is within rounding of the kink of a ReLU or a max pool, the gradient jumps: there
    even torch's two memory formats differ by 1e-3 (seen with VGG-8 on one mini-batch of many).
    """
    errors = [compare(seed) for seed in range(3)]
    assert sorted(errors)[1] <= 1e-5, errors


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("name", INPUT_SHAPES)
def test_gradients_of_a_sub_network_are_those_of_a_plain_module_of_its_width(name, keep):
    module, graph, weights = traced(name)
    plan = plan_widths(graph)
    engine = make_engine("torch", graph, LossSettings(), 1)

    def compare(seed):
        sub = cut(plan, weights, sample(plan, uniform_vector(plan, keep), seed=3, step=seed))
        inputs, labels = batch(name, seed)
        found = engine.gradients(sub, inputs, {"labels": labels})
        plain = narrowed(module, sub)
        loss = functional.cross_entropy(plain(torch.from_numpy(inputs)), torch.from_numpy(labels))
        loss.backward()
        assert found.loss == pytest.approx(loss.item(), rel=1e-5)
        return max(error(found.gradients[key], parameter.grad) for key, parameter in plain.named_parameters())

    assert_agree(compare)


@pytest.mark.parametrize("name", INPUT_SHAPES)
def test_training_steps_of_a_sub_network_are_those_of_a_plain_module_of_its_width(name):
    module, graph, original = traced(name)
    plan = plan_widths(graph)
    engine = make_engine("torch", graph, LossSettings(), 1)

    def compare(seed):
        weights = {key: values.copy() for key, values in original.items()}
        subnet = sample(plan, uniform_vector(plan, 0.5), seed=3, step=seed)
        plain = narrowed(module, cut(plan, weights, subnet))
        peer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
        optimizer = Optimizer(OptimizerSettings(learning_rate=0.02, momentum=0.9, weight_decay=1e-3))
        for number in range(3):
            inputs, labels = batch(name, 10 * seed + number)
            peer.zero_grad()
            functional.cross_entropy(plain(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
            peer.step()
            assert training_step(engine, plan, weights, optimizer, subnet, inputs, {"labels": labels}).applied
        trained = cut(plan, weights, subnet)
        return max(error(trained[key], parameter) for key, parameter in plain.named_parameters())

    assert_agree(compare)


@pytest.mark.parametrize("name", ["resnet-20", "of a user's own"])
def test_evaluation_of_a_sub_network_is_that_of_a_plain_module_with_the_same_moments(name):
    module, graph, weights = traced(name)
    plan = plan_widths(graph)
    subnet = sample(plan, uniform_vector(plan, 0.5), seed=3, step=0)
    sub, (inputs, _) = cut(plan, weights, subnet), batch(name, 0)
    engine = make_engine("torch", graph, LossSettings(), 1)
    statistics = engine.statistics(sub, batch(name, 1)[0])
    plain = narrowed(module, sub).eval()
    for key, values in statistics.items():
        path, _, last = key.rpartition(".")
        setattr(plain.get_submodule(path), f"running_{last}", torch.from_numpy(values))
    with torch.no_grad():
        expected = plain(torch.from_numpy(inputs))
    assert error(engine.outputs(sub | statistics, inputs)["logits"], expected) <= 1e-5


def test_a_step_moves_exactly_the_kept_entries():
    _, graph, before = traced("cnn-28")
    after = {key: values.copy() for key, values in before.items()}
    plan = plan_widths(graph)
    subnet = sample(plan, uniform_vector(plan, 0.5), seed=1, step=0)
    inputs, labels = batch("cnn-28", 0)
    optimizer = Optimizer(OptimizerSettings(learning_rate=0.1, weight_decay=0.1))
    engine = make_engine("torch", graph, LossSettings(), 1)
    training_step(engine, plan, after, optimizer, subnet, inputs, {"labels": labels})
    places = {key: np.arange(values.size).reshape(values.shape) for key, values in before.items()}
    for key, kept in cut(plan, places, subnet).items():
        assert np.array_equal(np.flatnonzero(after[key] != before[key]), kept.ravel()), key


def test_the_loss_falls_while_sub_networks_are_trained():
    _, graph, weights = traced("cnn-28")
    weights = {key: values.copy() for key, values in weights.items()}
    plan, (inputs, labels) = plan_widths(graph), batch("cnn-28", 0)
    engine = make_engine("torch", graph, LossSettings(), 1)
    optimizer = Optimizer(OptimizerSettings(learning_rate=0.02))
    losses = []
    for number in range(60):
        subnet = sample(plan, uniform_vector(plan, 0.75), seed=1, step=number)
        losses.append(
            training_step(engine, plan, weights, optimizer, subnet, inputs, {"labels": labels}).loss
        )
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


class BrokenEngine:
    """An engine whose mini-batch goes wrong."""

    name = "broken"

    def __init__(self, loss, gradient):
        self.loss, self.gradient = loss, gradient

    def gradients(self, weights, inputs, targets):
        made = {key: np.zeros_like(values) for key, values in weights.items()}
        next(iter(made.values())).flat[0] = self.gradient
        return Gradients(self.loss, made, {})


@pytest.mark.parametrize(("loss", "gradient"), [(np.nan, 0.0), (np.inf, 0.0), (1.0, np.nan), (1.0, -np.inf)])
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(loss, gradient):
    _, graph, weights = traced("cnn-28")
    after = {key: values.copy() for key, values in weights.items()}
    plan, (inputs, labels) = plan_widths(graph), batch("cnn-28", 0)
    optimizer = Optimizer(OptimizerSettings(weight_decay=0.1))
    engine = BrokenEngine(loss, gradient)
    result = training_step(engine, plan, after, optimizer, full_subnet(plan), inputs, {"labels": labels})
    assert not result.applied
    assert all(np.array_equal(after[key], weights[key]) for key in weights)
