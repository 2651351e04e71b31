"""Torch modules to graphs, in this process and from a user's files in a child."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from firmware_profiles.errors import UserError
from models.trace import slug, trace_module, trace_reference

FILE = Path(__file__).parents[1] / "fixtures" / "user_networks.py"
USER = runpy.run_path(str(FILE))


def test_a_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2)).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    trace_module(module, (1, 6, 6), "net")
    assert not module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_the_moments_given_are_the_modules_own():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))
    module[1].running_mean += 5
    _, weights = trace_module(module, (1, 6, 6), "net")
    np.testing.assert_array_equal(weights["1.mean"], np.full(3, 5, np.float32))


def test_batch_norm_without_running_statistics_is_taken():
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(48, 2)
    )
    graph, _ = trace_module(module, (1, 6, 6), "net")
    assert graph.statistics == {"1.mean": (3,), "1.var": (3,)}
    assert module[1].running_mean is None


def test_a_norm_used_twice_has_moments_for_each_use():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.f = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x):
            return self.f(self.n(torch.relu(self.n(self.a(x)))).mean((2, 3)))

    graph, _ = trace_module(Twice(), (1, 4, 4), "net")
    assert list(graph.statistics) == ["n.mean", "n.var", "n.use2.mean", "n.use2.var"]


def test_a_buffer_is_a_constant_not_a_parameter():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.5, 0.25]).view(2, 1, 1))
            self.a, self.f = nn.Conv2d(2, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            return self.f(self.a(x - self.mean).mean((2, 3)))

    graph, weights = trace_module(Normalised(), (2, 4, 4), "net")
    assert [constant.values for constant in graph.constants.values()] == [(0.5, 0.25)]
    assert set(weights) == set(graph.parameters) == {"a.weight", "a.bias", "f.weight", "f.bias"}


def test_the_same_module_traced_twice_has_the_same_digest():
    from models.graph import digest

    assert digest(trace_module(USER["Branches"](), (2, 13, 13), "b")[0]) == digest(
        trace_module(USER["Branches"](), (2, 13, 13), "b")[0]
    )


def test_what_is_no_module_is_refused():
    with pytest.raises(UserError, match="a dict is not a torch"):
        trace_module({}, (1, 6, 6), "net")


def test_a_file_is_traced_in_a_child_with_its_lines_as_places():
    graph, weights = trace_reference(f"{FILE}:Branches", (2, 13, 13))
    assert graph.name == "branches"
    assert set(weights) == set(graph.parameters) | set(graph.statistics)
    line = next(
        number for number, text in enumerate(FILE.read_text().splitlines(), 1) if "self.stem(x)" in text
    )
    assert graph.nodes[0].place == f"stem (user_networks.py:{line})"


def test_a_function_in_a_package_named_like_ours_may_make_the_module(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "own.py").write_text(FILE.read_text())
    code = (
        "from models.trace import trace_reference as t; print(t('models.own:tiny', (1, 6, 6))[0].num_classes)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); import models.trace; {code}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout.strip() == "3", done.stderr


@pytest.mark.parametrize(
    ("attribute", "shape", "message"),
    [
        ("Gelu", (1, 6, 6), r"Erf.*ReLU"),
        ("Fourier", (1, 6, 6), "fft_fft"),
        ("Tiny", (3, 6, 6), r"samples of shape \(3, 6, 6\).*user_networks\.py:\d+"),
        ("Image", (1, 6, 6), r"\[batch, classes\]"),
    ],
)
def test_a_network_outside_the_set_is_refused_with_the_reason(attribute, shape, message):
    with pytest.raises(UserError, match=message):
        trace_module(USER[attribute](), shape, "net")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Missing", "has no Missing; its networks are: Branches"),
        ("NeedsArguments", "without arguments"),
        ("NOT_A_MODULE", "NOT_A_MODULE.*int"),
        ("exits", "SystemExit"),
    ],
)
def test_a_name_that_makes_no_network_is_refused_with_the_reason(attribute, message):
    with pytest.raises(UserError, match=message):
        trace_reference(f"{FILE}:{attribute}", (1, 6, 6))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("net.py", "pkg.mod:Name"),
        ("./absent.py:Net", "no file"),
        ("absent_package.net:Net", "no module absent_package"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(reference, message):
    with pytest.raises(UserError, match=message):
        trace_reference(reference, (1, 6, 6))


def test_a_file_with_an_error_names_its_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import torch\n\nnothing.here\n")
    with pytest.raises(UserError, match=r"NameError.*broken\.py:3"):
        trace_reference(f"{path}:Net", (1, 6, 6))


def test_a_child_that_hangs_is_ended(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import threading\nthreading.Event().wait()\n")
    with pytest.raises(UserError, match="over 2 s"):
        trace_reference(f"{path}:Net", (1, 6, 6), timeout_s=2)


@pytest.mark.parametrize(
    ("name", "expected"), [("MyNet_2", "my-net-2"), ("resnet20", "resnet20"), ("__", "model")]
)
def test_names_of_classes_become_names_of_models(name, expected):
    assert slug(name) == expected
