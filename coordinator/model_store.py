"""The model store: a directory of safetensors files, each named by the SHA-256 of its bytes.

A file is complete or absent, also after a power cut, and `sha256sum` checks it by hand. Any
safetensors reader opens it; which of its tensors are batch-norm statistics stands in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from firmware_profiles.errors import WorldError
from models.subnet import Array

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".safetensors"
_UNFINISHED = ".unfinished"
_CORRUPT = ".corrupt"
_HEADER_LENGTH_BYTES = 8


class StoredModel(NamedTuple):
    """What one file holds.

    Attributes:
        weights: parameters, float32, by name.
        statistics: batch-norm moments, float32, by name; empty where there are none.
    """

    weights: dict[str, Array]
    statistics: dict[str, Array]


class ModelStore:
    """Weights by digest.

    Args:
        directory: made if it is missing. One process writes to it.

    Raises:
        WorldError: the directory cannot be made or read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for left_over in directory.glob(f"*{_UNFINISHED}"):
                left_over.unlink(missing_ok=True)
        except OSError as error:
            raise WorldError(
                f"model store {directory} cannot be used: {error}; choose another folder"
            ) from error

    def put(self, weights: Mapping[str, Array], statistics: Mapping[str, Array] | None = None) -> str:
        """Store a model durably and return its digest. The same content always has the same digest.

        Raises:
            WorldError: the disk is full or refuses.
        """
        moments = dict(statistics or {})
        if both := weights.keys() & moments.keys():
            raise ValueError(f"{sorted(both)} are both weights and statistics")
        tensors = {name: np.asarray(value, order="C") for name, value in {**weights, **moments}.items()}
        # One metadata key: with several their order would not be fixed, and neither would the digest.
        content = safetensors.numpy.save(tensors, metadata={"statistics": json.dumps(sorted(moments))})
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if path.exists() and _digest_of(path) == digest:
            return digest
        unfinished = path.with_suffix(_UNFINISHED)
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            _sync_directory(self.directory)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise WorldError(f"model {path} cannot be written: {error}; free some disk space") from error
        return digest

    def get(self, digest: str) -> StoredModel:
        """Read a model back.

        Raises:
            WorldError: it is not there, cannot be read, or was damaged; a damaged file is moved aside.
        """
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise WorldError(
                f"model {digest[:12]} is not in {self.directory}; "
                f"restore the file from a backup, or start anew with --fresh"
            ) from None
        except OSError as error:
            raise WorldError(f"model {path} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            aside = path.with_suffix(_CORRUPT)
            path.replace(aside)
            raise WorldError(
                f"model {path} was damaged on disk (its content has another digest) and is now {aside.name}; "
                f"restore it from a backup, or start anew with --fresh"
            )
        header_length = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
        header = json.loads(content[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + header_length])
        moments = set(json.loads(header["__metadata__"]["statistics"]))
        # Copies: the reader's arrays are read-only views of `content`.
        tensors = {name: np.array(value) for name, value in safetensors.numpy.load(content).items()}
        return StoredModel(
            {name: value for name, value in tensors.items() if name not in moments},
            {name: value for name, value in tensors.items() if name in moments},
        )

    def digests(self) -> set[str]:
        """Every model that is there."""
        return {path.stem for path in self.directory.glob(f"*{_SUFFIX}") if _DIGEST.fullmatch(path.stem)}

    def prune(self, keep: Collection[str]) -> int:
        """Delete all models but these, and return how many went. Damaged files stay for inspection."""
        gone = self.digests() - set(keep)
        for digest in gone:
            self._path(digest).unlink(missing_ok=True)
        return len(gone)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 digest in lower-case hexadecimal")
        return self.directory / f"{digest}{_SUFFIX}"


def _digest_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _sync_directory(directory: Path) -> None:
    """Make a rename durable: the name lives in the directory, not in the file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
