"""Chunks of unfinished downloads on disk, so that a killed process resumes."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from device_agent.wire.chunks import CHUNK_BYTES

_log = logging.getLogger(__name__)

_NAME_DIGITS = 64  # of a SHA-256 in hex


class PartialFolder:
    """A PartialStore: one folder per content, one file per chunk, renamed into place when complete.

    Nothing is synced: a chunk torn by a power cut has the wrong length or spoils the digest, and is
    then fetched again. Trouble with the disk is logged and costs the resuming, never the download.

    Args:
        path: folder of its own, made if missing; what else lies there is left alone.
        max_bytes: beyond this, the content begun longest ago is forgotten.
    """

    def __init__(self, path: Path, *, max_bytes: int = 256 * 2**20) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._failing = False
        self._sizes_bytes: dict[str, int] = {}  # oldest first
        with self._tolerate("open"):
            path.mkdir(parents=True, exist_ok=True)
            folders = [
                entry for entry in path.iterdir() if entry.is_dir() and len(entry.name) == _NAME_DIGITS
            ]
            for folder in sorted(folders, key=lambda entry: entry.stat().st_mtime):
                self._sizes_bytes[folder.name] = sum(file.stat().st_size for file in folder.iterdir())
        self._make_room(0)

    def load(self, digest: str) -> dict[int, bytes]:
        """Return the chunks kept of this content by index."""
        chunks: dict[int, bytes] = {}
        if digest in self._sizes_bytes:
            with self._tolerate("load"):
                for file in sorted((self._path / digest).iterdir()):
                    if file.name.isdecimal() and file.stat().st_size <= CHUNK_BYTES:
                        chunks[int(file.name)] = file.read_bytes()
        return chunks

    def save(self, digest: str, index: int, data: bytes) -> None:
        """Keep a chunk, at the expense of older content if need be."""
        self._make_room(len(data))
        with self._tolerate("save"):
            folder = self._path / digest
            folder.mkdir(exist_ok=True)
            torn = folder / f"{index}.part"
            torn.write_bytes(data)
            torn.replace(folder / str(index))
            self._sizes_bytes[digest] = self._sizes_bytes.get(digest, 0) + len(data)
            self._failing = False

    def forget(self, digest: str) -> None:
        """Forget all chunks of this content."""
        if self._sizes_bytes.pop(digest, None) is not None:
            shutil.rmtree(self._path / digest, ignore_errors=True)

    def _make_room(self, num_bytes: int) -> None:
        while self._sizes_bytes and sum(self._sizes_bytes.values()) + num_bytes > self._max_bytes:
            self.forget(next(iter(self._sizes_bytes)))

    @contextlib.contextmanager
    def _tolerate(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failing:
                _log.warning("cannot %s partial downloads in %s: %s", what, self._path, error)
            self._failing = True
