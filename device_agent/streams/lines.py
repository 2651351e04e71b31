"""Cuts a flow of bytes into lines of bounded length."""

from __future__ import annotations


class LineCutter:
    """Takes chunks, gives whole lines.

    Args:
        most_bytes: of a line; of a longer one only the first most_bytes + 1 are kept, so that it shows.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._begun = bytearray()

    def cut(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk, without their ends."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._append(end)
            lines.append(bytes(self._begun))
            self._begun.clear()
        self._append(rest)
        return lines

    def last(self) -> bytes:
        """What came after the last end of a line."""
        rest = bytes(self._begun)
        self._begun.clear()
        return rest

    def _append(self, part: bytes) -> None:
        self._begun += part[: self._most_bytes + 1 - len(self._begun)]
