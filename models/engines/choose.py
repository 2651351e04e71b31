"""Which engine computes: chosen by name, its library imported only then."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from firmware_profiles.errors import UserError
from models.engines.engine import Engine
from models.graph import ModelGraph
from models.losses import find_loss

AUTO = "auto"


def _torch(graph: ModelGraph, loss: str, num_threads: int) -> Engine:
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "engine 'torch' needs PyTorch, which is not installed here: install edgetide[torch] "
            "(on a board without a GPU take PyTorch's CPU build)"
        )
    from models.engines.torch import TorchEngine  # noqa: PLC0415  # heavy: imported when it is chosen

    return TorchEngine(graph, loss, num_threads)


def _not_built(kind: str) -> Callable[[ModelGraph, str, int], Engine]:
    def refuse(graph: ModelGraph, loss: str, num_threads: int) -> Engine:
        del graph, loss, num_threads
        raise UserError(f"engine {kind!r} is not built yet: choose torch (install edgetide[torch]) or auto")

    return refuse


ENGINES: dict[str, Callable[[ModelGraph, str, int], Engine]] = {
    "torch": _torch,
    "onnx": _not_built("onnx"),
    "ort-training": _not_built("ort-training"),
}
"""Engine name -> its maker, from (graph, loss, number of threads)."""

ENGINE_NAMES: tuple[str, ...] = (AUTO, *ENGINES)


def resolve_engine(kind: str) -> str:
    """The engine's own name: what auto stands for here."""
    return "torch" if kind == AUTO else kind


def make_engine(kind: str, graph: ModelGraph, loss: str, num_threads: int) -> Engine:
    """Make the engine of a graph and a loss.

    Args:
        kind: auto, torch, onnx or ort-training; auto takes the best that is installed.
        graph: the network.
        loss: a key of `models.losses.LOSSES`.
        num_threads: threads it may compute with, 1 or more.

    Raises:
        UserError: the engine or the loss is unknown, not built yet, or its library is not installed.
    """
    if kind != AUTO and kind not in ENGINES:
        raise UserError(f"engine {kind!r} is unknown: choose one of {', '.join(ENGINE_NAMES)}")
    if num_threads < 1:
        raise UserError(f"an engine cannot compute with {num_threads} threads: give 1 or more")
    return ENGINES[resolve_engine(kind)](graph, find_loss(loss).name, num_threads)
