"""What changed in a prototype set since a peer last acknowledged it.

Each prototype has a serial, and never changes under it: one that moved gets a new one. Its holder counts them
up and takes none twice in one epoch. A set is named by its version, a digest of the epoch and the serials; a
delta names the version it is made for and the one it leads to, so that whoever holds another refuses it and
asks for the whole, and an acknowledgement says in one number what is held.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError
from models.prototypes.prototype_set import PrototypeSet, joined

Serials = NDArray[np.uint32]


@dataclass(frozen=True)
class NumberedSet:
    """Prototypes with names.

    Attributes:
        epoch: who counts again from 0 (after a restart) takes a new one, 0 <= epoch < 2^64.
        serials: uint32 [n], no two alike. prototypes: n, one for each.
    """

    epoch: int
    serials: Serials
    prototypes: PrototypeSet

    def __post_init__(self) -> None:
        if len(self.serials) != len(self.prototypes) or len(np.unique(self.serials)) != len(self.serials):
            raise ValueError(
                f"{len(self.serials)} serials for {len(self.prototypes)} prototypes: each needs its own"
            )

    def version(self) -> int:
        """What `version_of` says of it."""
        return version_of(self.epoch, self.serials)


@dataclass(frozen=True)
class Delta:
    """How to make one set of another.

    Attributes:
        base: version of the set that it is for; None: for any, since it brings the whole.
        result: version of the set that it makes.
        added: new prototypes, in the epoch of the result.
        dropped: uint32 [k], serials of the base that are no more.
    """

    base: int | None
    result: int
    added: NumberedSet
    dropped: Serials


def version_of(epoch: int, serials: Serials) -> int:
    """48 bits that name the set of these serials, in whatever order."""
    content = struct.pack("<Q", epoch) + np.sort(serials).astype("<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "little")


def delta(own: NumberedSet, acknowledged: Serials | None) -> Delta:
    """What brings a peer from the serials it acknowledged to the own set.

    Args:
        own: the set now.
        acknowledged: uint32 [m] of the same epoch; None: nothing in it, so the whole is sent.
    """
    if acknowledged is None:
        return Delta(None, own.version(), own, np.empty(0, np.uint32))
    new = np.flatnonzero(~np.isin(own.serials, acknowledged))
    added = NumberedSet(own.epoch, own.serials[new], own.prototypes[new])
    dropped = np.setdiff1d(acknowledged, own.serials).astype(np.uint32)
    return Delta(version_of(own.epoch, acknowledged), own.version(), added, dropped)


def applied(held: NumberedSet | None, change: Delta) -> NumberedSet:
    """The set that a change leads to: those kept, in their order, then the new ones.

    Args:
        held: what is held of that peer; None: nothing.
        change: from a peer, its `added` already a valid set.

    Raises:
        PeerError: it is for another set than the one held (ask for the whole), or not what it says it is.
    """
    if change.base is None:
        found = change.added
    elif held is None or change.base != held.version():
        held_version = "nothing" if held is None else f"version {held.version():012x}"
        raise PeerError(
            f"prototypes came as a change of version {change.base:012x}, {held_version} is held: "
            "ask for the whole set"
        )
    else:
        found = _changed(held, change)
    if found.version() != change.result:
        raise PeerError(
            f"prototypes make version {found.version():012x}, they were to make {change.result:012x}: "
            "ask for the whole set"
        )
    return found


def _changed(held: NumberedSet, change: Delta) -> NumberedSet:
    kept = np.flatnonzero(~np.isin(held.serials, change.dropped))
    if len(held.serials) - len(kept) != len(change.dropped):
        raise PeerError(
            f"of {len(change.dropped)} prototypes to drop {len(held.serials) - len(kept)} are held"
        )
    if np.isin(change.added.serials, held.serials[kept]).any():
        raise PeerError("prototypes came anew under serials that are held already")
    return NumberedSet(
        change.added.epoch,
        np.concatenate([held.serials[kept], change.added.serials]),
        joined([held.prototypes[kept], change.added.prototypes]),
    )
