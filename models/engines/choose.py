"""Which engine computes: chosen by name, its library imported only then."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from firmware_profiles.errors import UserError
from models.engines.engine import Engine
from models.engines.gpu import torch_has_gpu
from models.engines.installed import explain_onnxruntime, onnxruntime_kind
from models.gradients.artifacts import Artifacts
from models.graph import ModelGraph
from models.losses import LossSettings, find_loss

AUTO = "auto"


@dataclass(frozen=True)
class EngineKind:
    """An engine that can be chosen.

    Attributes:
        module: that defines it. Importing it loads its library.
        class_name: in that module.
        wants_artifacts: whether it computes with ONNX files made ahead, which it is given then.
        is_installed: looks for its library, and imports nothing.
        missing: what it needs and what to do, where it is not there.
    """

    module: str
    class_name: str
    wants_artifacts: bool
    is_installed: Callable[[], bool]
    missing: Callable[[], str]


ENGINES: dict[str, EngineKind] = {
    "torch": EngineKind(
        "models.engines.torch",
        "TorchEngine",
        wants_artifacts=False,
        is_installed=lambda: find_spec("torch") is not None,
        missing=lambda: (
            "PyTorch, which is not installed here: install edgetide[torch] "
            "(on a board without a GPU take PyTorch's CPU build)"
        ),
    ),
    "onnx": EngineKind(
        "models.engines.onnx",
        "OnnxEngine",
        wants_artifacts=True,
        is_installed=lambda: onnxruntime_kind() == "plain",
        missing=lambda: explain_onnxruntime("plain"),
    ),
    "ort-training": EngineKind(
        "models.engines.ort_training",
        "OrtTrainingEngine",
        wants_artifacts=True,
        is_installed=lambda: onnxruntime_kind() == "training",
        missing=lambda: explain_onnxruntime("training"),
    ),
    "numpy": EngineKind(
        "models.engines.numpy.engine",
        "NumpyEngine",
        wants_artifacts=False,
        is_installed=lambda: True,
        missing=lambda: "nothing but edgetide itself",
    ),
}
"""Engines by name."""

ENGINE_NAMES: tuple[str, ...] = (AUTO, *ENGINES)

_BEST_FIRST = ("onnx", "torch", "ort-training", "numpy")
"""What auto takes where torch has no GPU."""


def resolve_engine(kind: str, *, gpu: bool = True) -> str:
    """The engine's own name: what auto stands for here. Imports no library.

    Args:
        kind: a name of ENGINE_NAMES.
        gpu: whether auto may take a GPU. On a GPU sums depend on chance.

    Raises:
        UserError: the engine is unknown, or its library is not installed.
    """
    if kind == AUTO:
        return _best(gpu=gpu)
    if kind not in ENGINES:
        raise UserError(f"engine {kind!r} is unknown: choose one of {', '.join(ENGINE_NAMES)}")
    if not ENGINES[kind].is_installed():
        raise UserError(f"engine {kind!r} needs {ENGINES[kind].missing()}")
    return kind


def _best(*, gpu: bool) -> str:
    installed = [kind for kind in _BEST_FIRST if ENGINES[kind].is_installed()]
    return "torch" if gpu and "torch" in installed and torch_has_gpu() else installed[0]


def load_engine(kind: str) -> None:
    """Import what an engine computes with: it takes seconds on a board.

    Raises:
        UserError: it is unknown or not installed.
        ImportError: its library is damaged.
    """
    importlib.import_module(ENGINES[resolve_engine(kind)].module)


def make_engine(
    kind: str, graph: ModelGraph, loss: LossSettings, num_threads: int, artifacts: Artifacts | None = None
) -> Engine:
    """Make the engine of a graph and a loss.

    Args:
        kind: auto, torch, onnx, ort-training or numpy; auto takes the best that is installed.
        graph: the network.
        loss: which loss, and its settings.
        num_threads: threads it may compute with, 1 or more.
        artifacts: ONNX files of this graph and loss. Engines that compute with them make them where they
            are None; that needs the package onnx, which a device does not have.

    Raises:
        UserError: the engine or the loss is unknown, or a library is not installed.
    """
    if num_threads < 1:
        raise UserError(f"an engine cannot compute with {num_threads} threads: give 1 or more")
    find_loss(loss.name)
    name = resolve_engine(kind)
    chosen = ENGINES[name]
    make = getattr(importlib.import_module(chosen.module), chosen.class_name)
    if not chosen.wants_artifacts:
        return make(graph, loss, num_threads)
    return make(graph, loss, num_threads, artifacts or _build_artifacts(name, graph, loss))


def _build_artifacts(name: str, graph: ModelGraph, loss: LossSettings) -> Artifacts:
    try:
        from models.gradients.build import build_artifacts  # noqa: PLC0415 - it imports onnx, which is optional
    except ImportError as error:
        raise UserError(
            f"engine {name!r} was given no training graph for {graph.name}, and cannot make one without the "
            f"package onnx: install edgetide[coordinator], or let a coordinator make the bundle ({error})"
        ) from error
    return build_artifacts(graph, loss)
