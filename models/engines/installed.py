"""Which builds of onnxruntime are installed, told without importing one.

The ordinary builds and those for training are the same module, `onnxruntime`: installed together, the
later one overwrites files of the earlier, and uninstalling either leaves holes in the other.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Literal

RuntimeKind = Literal["none", "plain", "training", "both"]

_PLAIN = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)
_TRAINING = ("onnxruntime-training-cpu", "onnxruntime-training")
_NEWEST_PYTHON = (3, 12)  # that the last training build has wheels for
_EXTRAS = {"plain": "edgetide[onnx]", "training": "edgetide[ort-training]"}


def onnxruntime_kind(path: Sequence[str] | None = None) -> RuntimeKind:
    """Which builds are installed: the ordinary one, the one for training, both, or none.

    Args:
        path: folders to look for installed packages in; None for those Python imports from.
    """
    plain, training = _versions(_PLAIN, path), _versions(_TRAINING, path)
    if plain and training:
        return "both"
    return "plain" if plain else "training" if training else "none"


def explain_onnxruntime(wanted: Literal["plain", "training"], path: Sequence[str] | None = None) -> str:
    """Say which builds are installed, and what to do to have the wanted one.

    Args:
        wanted: the build that an engine computes with.
        path: as for `onnxruntime_kind`.

    Returns:
        A clause for behind "engine X needs ".
    """
    name = _PLAIN[0] if wanted == "plain" else _TRAINING[0]
    if wanted == "training" and not _has_training_wheel():
        return (
            f"{name}, which has no wheel for {platform.machine()} with Python {platform.python_version()}, "
            "only for x86_64 with Python 3.10 to 3.12: use engine onnx"
        )
    found = _versions(_PLAIN + _TRAINING, path)
    if not found:
        return f"{name}, and no build of it is installed here: pip install '{_EXTRAS[wanted]}'"
    here = f"{name}, and {' and '.join(found)} {'are' if len(found) > 1 else 'is'} installed here"
    if onnxruntime_kind(path) == wanted:
        return f"{here}, but damaged: {_afresh(found, wanted)}"
    return (
        f"{here}. Ordinary and training builds are one module and overwrite each other's files: make an "
        f"environment of its own for {_EXTRAS[wanted]}, or here: {_afresh(found, wanted)}"
    )


def _afresh(found: Sequence[str], wanted: str) -> str:
    names = " ".join(entry.partition(" ")[0] for entry in found)
    return f"pip uninstall {names}, then pip install '{_EXTRAS[wanted]}'"


def _has_training_wheel() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and sys.version_info[:2] <= _NEWEST_PYTHON


def _versions(names: Sequence[str], path: Sequence[str] | None) -> list[str]:
    """Those that are installed, each with its version behind its name."""
    where: dict[str, Any] = {} if path is None else {"path": list(path)}
    found = []
    for name in names:
        for distribution in metadata.distributions(name=name, **where):
            found.append(f"{name} {distribution.version}")
            break  # a second one lies behind the first on the path
    return found
