"""Width groups found from the graph."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.trace import trace_module
from models.widths import Segment, plan_widths
from models.zoo import load_model

USER = runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "user_networks.py"))


class Net(nn.Module):
    """Parts by name and a forward function."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def plan_of(forward, shape=(2, 6, 6), **parts):
    return plan_widths(trace_module(Net(forward, **parts), shape, "net")[0])


def groups(plan):
    return [(group.name, group.num_channels) for group in plan.groups]


def conv(num_in, num_out, **options):
    return nn.Conv2d(num_in, num_out, 3, padding=1, **options)


def head(num_in):
    return nn.Linear(num_in, 3)


def mean(x):
    return x.mean((2, 3))


def test_input_channels_and_class_scores_never_shrink():
    plan = plan_of(lambda n, x: n.f(mean(n.a(x))), a=conv(2, 4), f=head(4))
    assert groups(plan) == [("a.weight", 4)]
    assert plan.axes["a.weight"][:2] == ((Segment(0, 4),), (Segment(None, 2),))
    assert plan.axes["f.weight"] == ((Segment(None, 3),), (Segment(0, 4),))
    assert plan.axes["f.bias"] == ((Segment(None, 3),),)


def test_a_flatten_repeats_each_channel_by_its_area():
    plan = plan_of(lambda n, x: n.f(n.a(x).flatten(1)), a=conv(2, 4), f=head(4 * 36))
    assert plan.axes["f.weight"][1] == (Segment(0, 4, 36),)


def test_a_residual_sum_ties_its_branches():
    plan = plan_of(
        lambda n, x: n.f(mean(n.b(functional.relu(n.a(x))) + n.a(x))), a=conv(2, 4), b=conv(4, 4), f=head(4)
    )
    assert groups(plan) == [("a.weight", 4)]
    assert plan.axes["b.weight"][:2] == ((Segment(0, 4),), (Segment(0, 4),))


def test_a_concat_lists_its_parts():
    plan = plan_of(
        lambda n, x: n.f(mean(torch.cat([n.a(x), x, n.b(x)], 1))), a=conv(2, 4), b=conv(2, 3), f=head(9)
    )
    assert plan.axes["f.weight"][1] == (Segment(0, 4), Segment(None, 2), Segment(1, 3))


def test_a_sum_of_runs_that_do_not_line_up_never_shrinks():
    plan = plan_of(
        lambda n, x: n.f(mean(torch.cat([n.a(x), n.b(x)], 1) + n.c(x))),
        a=conv(2, 4), b=conv(2, 2), c=conv(2, 6), f=head(6),
    )  # fmt: skip
    assert groups(plan) == []


def test_a_depthwise_convolution_follows_its_input():
    plan = plan_of(
        lambda n, x: n.f(mean(n.p(n.d(n.a(x))))),
        a=conv(2, 4), d=conv(4, 8, groups=4), p=conv(8, 5), f=head(5),
    )  # fmt: skip
    assert groups(plan) == [("a.weight", 4), ("p.weight", 5)]
    assert plan.axes["d.weight"][:2] == ((Segment(0, 4, 2),), (Segment(None, 1),))
    assert plan.axes["d.bias"] == ((Segment(0, 4, 2),),)
    assert plan.axes["p.weight"][1] == (Segment(0, 4, 2),)


def test_another_grouped_convolution_pins_its_channels():
    plan = plan_of(
        lambda n, x: n.f(mean(n.b(n.g(n.a(x))))),
        a=conv(2, 4), g=conv(4, 6, groups=2), b=conv(6, 5), f=head(5),
    )  # fmt: skip
    assert groups(plan) == [("b.weight", 5)]


def test_batch_norm_and_its_moments_follow_their_channels():
    plan = plan_of(lambda n, x: n.f(mean(n.n(n.a(x)))), a=conv(2, 4), n=nn.BatchNorm2d(4), f=head(4))
    for name in ("n.weight", "n.bias", "n.mean", "n.var"):
        assert plan.axes[name] == ((Segment(0, 4),),)


def test_a_parameter_for_each_channel_follows_its_channels():
    plan = plan_of(
        lambda n, x: n.f(mean(n.a(x) * n.s)), a=conv(2, 4), s=nn.Parameter(torch.ones(4, 1, 1)), f=head(4)
    )
    assert plan.axes["s"][0] == (Segment(0, 4),)


def test_a_constant_for_each_channel_pins_them():
    plan = plan_of(lambda n, x: n.f(mean(n.a(x) * torch.arange(4.0)[:, None, None])), a=conv(2, 4), f=head(4))
    assert groups(plan) == []


def test_one_number_for_all_channels_pins_nothing():
    plan = plan_of(lambda n, x: n.f(mean(n.a(x) * 2 + 1)), a=conv(2, 4), f=head(4))
    assert groups(plan) == [("a.weight", 4)]


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: torch.softmax(x, 1),
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: x.transpose(1, 2).relu().transpose(1, 2),
        lambda x: x.reshape(x.size(0), 2, 2, 6, 6).reshape(x.size(0), 4, 6, 6),
    ],
)
def test_what_mixes_channels_by_position_pins_them(mix):
    plan = plan_of(lambda n, x: n.f(mean(mix(n.a(x)))), a=conv(2, 4), f=head(4))
    assert groups(plan) == []


def test_softmax_over_space_pins_nothing():
    plan = plan_of(lambda n, x: n.f(mean(torch.softmax(n.a(x), 3))), a=conv(2, 4), f=head(4))
    assert groups(plan) == [("a.weight", 4)]


def test_a_layer_used_twice_has_one_group():
    plan = plan_of(lambda n, x: n.f(mean(n.b(n.b(n.a(x))))), a=conv(2, 4), b=conv(4, 4), f=head(4))
    assert groups(plan) == [("a.weight", 4)]


def test_one_channel_is_no_group():
    plan = plan_of(lambda n, x: n.f(mean(n.a(x))), a=conv(2, 1), f=head(1))
    assert groups(plan) == []


def test_a_dense_network_has_a_group_for_each_growth():
    plan = plan_widths(load_model("densenet-40")[0])
    assert groups(plan)[:4] == [
        ("0.weight", 24),
        ("1.conv1.weight", 48),
        ("1.conv2.weight", 12),
        ("2.conv1.weight", 48),
    ]
    assert plan.axes["2.conv1.weight"][1] == (Segment(0, 24), Segment(2, 12))


def test_a_residual_network_ties_each_stage():
    plan = plan_widths(load_model("resnet-20")[0])
    assert [size for _, size in groups(plan)] == [16] * 4 + [32] * 4 + [64] * 4
    assert plan.axes["6.shortcut.0.weight"][:2] == ((Segment(5, 32),), (Segment(0, 16),))
    assert plan.axes["8.conv2.weight"][0] == (Segment(5, 32),)


def test_every_tensor_has_an_entry_for_every_axis():
    graph = trace_module(USER["Branches"](), (2, 13, 13), "branches")[0]
    plan = plan_widths(graph)
    for name, shape in {**graph.parameters, **graph.statistics}.items():
        sizes = [sum(segment.num_channels * segment.repeat for segment in axis) for axis in plan.axes[name]]
        assert tuple(sizes) == shape
