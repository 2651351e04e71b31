"""What decides a run's outcome, as one digest: the same digest, the same result.

Files that a scenario names count by what they hold, not by where they lie or when they were written.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from coordinator.twins.scenario import Scenario
from models.data.idx import is_idx
from models.engines.choose import resolve_engine

_DISTRIBUTIONS = {
    "onnx": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "ort-training": ("onnxruntime-training-cpu", "onnxruntime-training"),
    "torch": ("torch",),
    "numpy": (),
}
"""Engine -> packages of which the installed one computes, besides NumPy."""

_BLOCK_BYTES = 2**20


def digest_of(settings: Scenario, contents: dict[str, str] | None = None) -> str:
    """Digest a scenario as it is run: all its values, the seed, the engine and the versions of packages.

    Args:
        settings: its files are named by absolute paths.
        contents: path -> digest of what it holds, filled on the way, so that files are read once.

    Returns:
        SHA-256 in hex.

    Raises:
        UserError: no engine is installed, or not the one it names.
    """
    engine = resolve_engine(settings.engine, gpu=False)
    decides = {
        "scenario": _with_contents(msgspec.to_builtins(settings), {} if contents is None else contents),
        "engine": engine,
        "versions": _versions(engine),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@functools.cache
def _versions(engine: str) -> dict[str, str | None]:
    return {name: _version(name) for name in ("edgetide", "numpy", *_DISTRIBUTIONS[engine])}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _with_contents(value: Any, contents: dict[str, str]) -> Any:
    """The tree with a digest of the content in place of each absolute path."""
    if isinstance(value, dict):
        return {key: _with_contents(item, contents) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_contents(item, contents) for item in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    head, _, options = value.rpartition("?")  # of data
    path, options = (value, "") if os.path.lexists(value) else (head, options)
    if not path or not os.path.lexists(path):
        return value  # the run will say what is wrong with it
    if path not in contents:
        contents[path] = _content(path)
    return {"content": contents[path], "options": options}


def _content(text: str) -> str:
    """Digest a file, or names and content of all files below a folder."""
    path = Path(text)
    if path.is_file() and not is_idx(path.name):
        return _file_digest(path)
    # One idx file stands for those beside it: images, labels, training and test part.
    folder = path.parent if path.is_file() else path
    files = sorted(found for found in folder.rglob("*") if found.is_file())
    if path.is_file():
        files = [found for found in files if is_idx(found.name)]
    listed = [(str(found.relative_to(folder)), _file_digest(found)) for found in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest.hexdigest()
