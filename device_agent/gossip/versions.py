"""Versions of a set that both sides have, so that one of them can be told as what changed since another.

Both sides of a link keep the newest ones, since answers come later than the next tellings, and beside them
the base: the one that changes are told of, until they are told of a newer one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Kept = TypeVar("Kept")

MOST_VERSIONS = 32
"""Kept of one neighbour beside the base: as many may be told before the answer to the first comes."""

MOST_BYTES = 128 * 2**10
"""That they take, beside the newest."""


class Versions(Generic[Kept]):
    """The newest versions of one set, and the base.

    Args:
        num_bytes: that a version takes.
    """

    def __init__(self, num_bytes: Callable[[Kept], int]) -> None:
        self._num_bytes = num_bytes
        self._kept: dict[int, Kept] = {}
        self._base: int | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def base(self) -> Kept | None:
        """What changes are told of; None: nothing is."""
        return None if self._base is None else self._kept[self._base]

    def get(self, version: int) -> Kept | None:
        """A version, if it is kept."""
        return self._kept.get(version)

    def add(self, version: int, one: Kept) -> None:
        """One more, with a number higher than those before; the oldest go."""
        self._kept[version] = one
        num_bytes = 0
        for place, number in enumerate(sorted(self._kept, reverse=True)):
            num_bytes += self._num_bytes(self._kept[number])
            is_one_too_many = place >= MOST_VERSIONS or num_bytes > MOST_BYTES
            if place and is_one_too_many and number != self._base:
                del self._kept[number]

    def rely_on(self, version: int) -> None:
        """Changes are told of this version from now on; one that is not kept, or older, changes nothing."""
        if version not in self._kept or (self._base is not None and version < self._base):
            return
        self._base = version
        for number in [one for one in self._kept if one < version]:
            del self._kept[number]

    def forget_base(self) -> None:
        """The other side has not got it."""
        self._base = None
