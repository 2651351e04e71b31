"""Content that devices may fetch by digest, held in memory while somebody may still want it."""

from __future__ import annotations

from collections import OrderedDict

from device_agent.wire.codec import refer
from device_agent.wire.messages import BlobRef


class Blobs:
    """The newest contents, the least recently put or asked for dropped first.

    Args:
        max_contents: how many are kept; an order in hand refers to two of them.
    """

    def __init__(self, max_contents: int = 12) -> None:
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._max_contents = max_contents

    def put(self, content: bytes) -> BlobRef:
        """Keep content and return how to name it; small content travels inside the reference."""
        ref = refer(content)
        self._contents[ref.digest] = content
        self._contents.move_to_end(ref.digest)
        while len(self._contents) > self._max_contents:
            self._contents.popitem(last=False)
        return ref

    def get(self, digest: str) -> bytes | None:
        """The content, or None if it is not held (any more)."""
        if digest in self._contents:
            self._contents.move_to_end(digest)
        return self._contents.get(digest)
