"""Which place each peer has in arrays of a bounded number of peers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

_PAIRS = msgspec.json.Decoder(list[tuple[str, int]])


class PeerTable:
    """Names of peers and their places, 0 to `most` - 1.

    Args:
        most: peers that have a place at the same time.
        places: to begin with, the longest silent first.
    """

    def __init__(self, most: int, places: Iterable[tuple[str, int]] = ()) -> None:
        self._most = most
        self._places = OrderedDict(places)  # the longest silent first

    def __contains__(self, peer: str) -> bool:
        return peer in self._places

    def places(self) -> dict[str, int]:
        """By name, in order of names."""
        return dict(sorted(self._places.items()))

    def longest_silent(self) -> str | None:
        """Who has to make room for a new peer; None while there is room."""
        return next(iter(self._places)) if len(self._places) == self._most else None

    def heard(self, peer: str) -> int:
        """The place of a peer that speaks; a new one, for whom there is room, gets one."""
        if peer not in self._places:
            self._places[peer] = min(set(range(self._most)) - set(self._places.values()))
        self._places.move_to_end(peer)
        return self._places[peer]

    def drop(self, peer: str) -> int | None:
        """Give up a peer's place; what it was, None if it had none."""
        return self._places.pop(peer, None)

    def saved(self) -> NDArray[np.uint8]:
        """The table as bytes."""
        return np.frombuffer(msgspec.json.encode(list(self._places.items())), np.uint8).copy()


def of_saved(content: NDArray[np.generic], most: int) -> PeerTable:
    """A table from `PeerTable.saved`.

    Raises:
        ValueError: it is not one, or of more peers.
    """
    try:
        pairs = _PAIRS.decode(content.tobytes())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError("the peers of a saved state are not readable") from error
    places = {place for _, place in pairs}
    if not len(places) == len(dict(pairs)) == len(pairs) or not places <= set(range(most)):
        raise ValueError(f"the peers of a saved state are no table of at most {most} peers")
    return PeerTable(most, pairs)
