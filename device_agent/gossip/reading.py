"""Reads prototypes that a neighbour told, so that a learner can use whatever is let through."""

from __future__ import annotations

from firmware_profiles.errors import PeerError
from models.prototypes.packing import unpack
from models.prototypes.prototype_set import PrototypeSet, check
from models.prototypes.units import Units


def read_told(packed: bytes, num_features: int, num_classes: int, units: Units | None = None) -> PrototypeSet:
    """The prototypes in a message.

    Args:
        packed: the bytes, untrusted.
        num_features: d.
        num_classes: C.
        units: of the sender, where the message does not bring its own.

    Raises:
        UnknownUnitsError: it is in others.
        PeerError: it cannot be read, or has values that no learner takes.
    """
    told = unpack(packed, num_features, num_classes, units)
    try:
        check(told, num_features, num_classes)
    except ValueError as error:
        raise PeerError(str(error)) from error
    return told
