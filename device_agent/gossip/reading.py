"""Reads prototypes that a neighbour told, so that a learner can use whatever is let through."""

from __future__ import annotations

import numpy as np

from firmware_profiles.errors import PeerError
from models.prototypes.changes import unpack_change
from models.prototypes.packing import unpack
from models.prototypes.prototype_set import PrototypeSet, check
from models.prototypes.scaling import LARGEST
from models.prototypes.units import Units

ROUNDED = 1 + 2**-9
"""By what factor a value may have grown on the way."""


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
    return _checked(unpack(packed, num_features, num_classes, units), num_features, num_classes)


def read_change(packed: bytes, base: PrototypeSet, num_classes: int) -> PrototypeSet:
    """The prototypes that a message makes of others.

    Args:
        packed: the bytes, untrusted.
        base: what they change.
        num_classes: C.

    Raises:
        PeerError: it cannot be read, or has values that no learner takes.
    """
    return _checked(unpack_change(packed, base, num_classes), base.vectors.shape[1], num_classes)


def _checked(told: PrototypeSet, num_features: int, num_classes: int) -> PrototypeSet:
    # A rounding may lead past the largest value that a learner takes.
    is_largest = np.abs(told.vectors) <= ROUNDED * LARGEST
    vectors = np.where(is_largest, np.clip(told.vectors, -LARGEST, LARGEST), told.vectors).astype(np.float32)
    told = PrototypeSet(vectors, told.labels, told.weights, told.ages)
    try:
        check(told, num_features, num_classes)
    except ValueError as error:
        raise PeerError(str(error)) from error
    return told
