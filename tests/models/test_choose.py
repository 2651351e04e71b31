"""Which engine is taken, by what is installed; and that looking costs nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from firmware_profiles.errors import UserError
from models.engines import choose, gpu
from models.engines.choose import make_engine, resolve_engine
from models.graph import ModelGraph, Node, validate
from models.losses import LossSettings

GRAPH = validate(
    ModelGraph("tiny", "x", (3,), "y", (Node("Gemm", ("x", "w"), "y", {}),), {"w": (2, 3)}, {}, {}, {})
)


@pytest.fixture
def install(monkeypatch):
    """A function that says what is installed: torch or not, which build of onnxruntime, a GPU or not."""

    def say(*, torch=False, onnxruntime="none", has_gpu=False):
        real = importlib.util.find_spec
        hidden = () if torch else ("torch",)
        monkeypatch.setattr(choose, "find_spec", lambda name: None if name in hidden else real(name))
        monkeypatch.setattr(choose, "onnxruntime_kind", lambda: onnxruntime)
        monkeypatch.setattr(choose, "torch_has_gpu", lambda: has_gpu)

    return say


@pytest.mark.parametrize(
    ("here", "taken"),
    [
        ({"torch": True, "onnxruntime": "plain", "has_gpu": True}, "torch"),
        ({"torch": True, "onnxruntime": "plain"}, "onnx"),
        ({"onnxruntime": "plain", "has_gpu": True}, "onnx"),
        ({"torch": True, "onnxruntime": "training"}, "torch"),
        ({"torch": True}, "torch"),
        ({"torch": True, "onnxruntime": "both"}, "torch"),
        ({"onnxruntime": "training"}, "ort-training"),
    ],
    ids=str,
)
def test_auto_takes_the_best_that_is_installed(install, here, taken):
    install(**here)
    assert resolve_engine("auto") == taken


def test_auto_without_a_gpu_leaves_one_alone(install):
    install(torch=True, onnxruntime="plain", has_gpu=True)
    assert resolve_engine("auto", gpu=False) == "onnx"


def test_where_nothing_is_installed_numpy_trains(install):
    install()
    assert resolve_engine("auto") == "numpy"


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("torch", r"PyTorch, which is not installed here: install edgetide\[torch\]"),
        ("onnx", "engine 'onnx' needs onnxruntime"),
        ("ort-training", "engine 'ort-training' needs onnxruntime-training-cpu"),
    ],
)
def test_an_engine_that_is_not_installed_says_what_to_install(install, kind, advice):
    install()
    with pytest.raises(UserError, match=advice):
        make_engine(kind, GRAPH, LossSettings(), 1)


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'tensorflow' is unknown: choose one of auto, torch"):
        make_engine("tensorflow", GRAPH, LossSettings(), 1)


def test_a_device_without_the_onnx_package_needs_a_bundle_with_its_graphs(install, monkeypatch):
    install(onnxruntime="plain")
    monkeypatch.setitem(sys.modules, "models.gradients.build", None)
    with pytest.raises(UserError, match=r"no training graph for tiny.*install edgetide\[coordinator\]"):
        make_engine("onnx", GRAPH, LossSettings(), 1)


def test_choosing_an_engine_imports_no_library():
    code = (
        "import sys; from models.engines.choose import resolve_engine; resolve_engine('auto'); "
        "print([name for name in ('torch', 'onnxruntime', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- whether there is a GPU


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A file system with the driver of a Jetson and torch's CUDA build; parts can be taken away."""
    sign, library = tmp_path / "dev/nvgpu", tmp_path / "torch/lib/libtorch_cuda.so"
    for path in (sign, library):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    spec = SimpleNamespace(origin=str(tmp_path / "torch/__init__.py"))
    monkeypatch.setattr(gpu, "find_spec", lambda _name: spec)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return SimpleNamespace(root=tmp_path, sign=sign, library=library)


def test_a_board_with_driver_and_cuda_build_has_a_gpu(board):
    assert gpu.torch_has_gpu(board.root)


@pytest.mark.parametrize("missing", ["sign", "library"])
def test_without_driver_or_cuda_build_there_is_none(board, missing):
    getattr(board, missing).unlink()
    assert not gpu.torch_has_gpu(board.root)


def test_a_gpu_that_is_hidden_from_the_process_is_none(board, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu.torch_has_gpu(board.root)


def test_without_torch_there_is_no_gpu_to_use(board, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda _name: None)
    assert not gpu.torch_has_gpu(board.root)
