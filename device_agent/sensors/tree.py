"""Reading the small text files of a kernel's tree; what cannot be read is None."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024
T = TypeVar("T")


class Tree:
    """A root folder such as "/", and which of its files are unreadable at the moment.

    A file that is not there is silence: boards differ. A file that is there and cannot be read or
    understood is logged when that begins, not at every reading.
    """

    def __init__(self, root: str | Path = "/") -> None:
        self.root = Path(root)
        self._unusable: set[str] = set()

    def text(self, path: str) -> str | None:
        """The file's text without surrounding blanks and NULs, or None."""
        return self.value(path, str)

    def value(self, path: str, parse: Callable[[str], T | None]) -> T | None:
        """The file's parsed content, or None if it is absent, unreadable or garbled."""
        try:
            text = _read(self.root / path).decode("utf-8", "replace").strip("\0 \t\r\n")
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except OSError as error:  # Jetson's idle zones answer EAGAIN, others EIO or EINVAL
            self._note(path, f"cannot be read: {error.strerror}")
            return None
        value = parse(text)
        self._note(path, f"cannot be understood: {text[:60]!r}" if value is None else None)
        return value

    def paths(self, pattern: str) -> list[str]:
        """Paths below the root that match a glob pattern, sorted."""
        try:
            return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))
        except OSError:
            return []

    def _note(self, path: str, trouble: str | None) -> None:
        if trouble is None:
            self._unusable.discard(path)
        elif path not in self._unusable:
            self._unusable.add(path)
            logger.warning("sensor file unusable, its value is unknown: %s %s", self.root / path, trouble)


def _read(path: Path) -> bytes:
    # os.read, because file objects turn a driver's EAGAIN into a TypeError.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parts, size = [], 0
        while size < MAX_BYTES and (part := os.read(descriptor, MAX_BYTES - size)):
            parts.append(part)
            size += len(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def parse_int(text: str) -> int | None:
    """A decimal integer of a plausible size, or None."""
    if len(text) > 20 or not text.lstrip("+-").isdecimal() or not text.isascii():
        return None
    try:
        return int(text)
    except ValueError:
        return None
