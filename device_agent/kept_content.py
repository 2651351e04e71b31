"""Content that one order after another names, kept by digest so that it is fetched once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

from device_agent.wire.codec import digest_of

log = logging.getLogger(__name__)

_NAME_DIGITS = 64  # of a SHA-256 in hex
_UNFINISHED = ".unfinished"


class KeptContent:
    """The newest contents, in memory and in a folder that outlives the process.

    A file is believed only if its content has the digest that is its name. Trouble with the disk is
    logged and costs fetching again, never the order.

    Args:
        folder: of its own, made if missing; None keeps in memory only.
        max_contents: how many are kept.
    """

    def __init__(self, folder: Path | None = None, max_contents: int = 2) -> None:
        self._folder, self._max_contents = folder, max_contents
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        if folder is not None:
            _remove_unfinished(folder)

    def get(self, digest: str) -> bytes | None:
        """The content, or None if it is not here (any more)."""
        content = self._contents.get(digest)
        if content is not None:
            self._contents.move_to_end(digest)
            return content
        content = self._read(digest)
        if content is not None:
            self._remember(digest, content)
        return content

    def put(self, digest: str, content: bytes) -> None:
        """Keep content whose digest was checked, at the expense of older content."""
        self._remember(digest, content)
        if self._folder is None:
            return
        path = self._folder / digest
        unfinished = path.with_suffix(_UNFINISHED)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(content)
            unfinished.replace(path)
            self._forget_older(self._folder)
        except OSError as error:
            log.warning("content %s is fetched again after a restart: %s", digest[:12], error)

    def _remember(self, digest: str, content: bytes) -> None:
        self._contents[digest] = content
        self._contents.move_to_end(digest)
        while len(self._contents) > self._max_contents:
            self._contents.popitem(last=False)

    def _read(self, digest: str) -> bytes | None:
        if self._folder is None:
            return None
        path = self._folder / digest
        try:
            content = path.read_bytes()
            if digest_of(content) == digest:
                return content
            path.unlink()  # torn by a power cut
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("kept content %s cannot be read: %s", path, error)
        return None

    def _forget_older(self, folder: Path) -> None:
        files = [path for path in folder.iterdir() if len(path.name) == _NAME_DIGITS]
        files.sort(key=lambda path: (path.name not in self._contents, -path.stat().st_mtime))
        for path in files[self._max_contents :]:
            path.unlink(missing_ok=True)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote: nothing else would."""
    try:
        for path in folder.glob(f"*{_UNFINISHED}"):
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("unfinished content stays in %s: %s", folder, error)
