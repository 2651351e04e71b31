"""Prototypes that a device reports, as float32 arrays between their bytes and a PrototypeSet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.prototypes.packing import unpack
from models.prototypes.prototype_set import PrototypeSet
from models.subnet import Array


def read_reported(content: bytes, num_features: int, num_classes: int) -> dict[str, Array]:
    """The arrays of a report's prototypes.

    Args:
        content: from `models.prototypes.packing.pack`, or from anywhere.
        num_features: d.
        num_classes: C.

    Raises:
        PeerError: it is not such a set.
    """
    found = unpack(content, num_features, num_classes)
    return {
        "vectors": found.vectors,
        "labels": found.labels.astype(np.float32),
        "weights": found.weights,
    }


def of_arrays(arrays: Mapping[str, Array]) -> PrototypeSet:
    """The set of `read_reported`."""
    labels = arrays["labels"].astype(np.int64)
    return PrototypeSet(arrays["vectors"], labels, arrays["weights"], np.zeros(len(labels), np.float32))
