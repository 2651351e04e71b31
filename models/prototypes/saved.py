"""State as arrays: a copy to keep, and copied back into place.

Parts of a learner hand out the arrays they live in, by name. What comes back is checked against these, so
that the state of another learner is refused before anything has changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


def joined(parts: Mapping[str, Arrays]) -> dict[str, NDArray[np.generic]]:
    """The arrays of all parts, as `part.name`."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def copied(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """A copy of each."""
    return {name: array.copy() for name, array in arrays.items()}


def check(arrays: Arrays, found: Arrays) -> None:
    """Refuse a state that is not of these arrays.

    Raises:
        ValueError: an array is missing, has another shape or type, or is not finite.
    """
    for name, array in arrays.items():
        if name not in found:
            raise ValueError(f"a saved state has no {name!r}; it is of another kind of learner")
        value = found[name]
        if value.shape != array.shape or value.dtype != array.dtype:
            raise ValueError(
                f"{name!r} of a saved state is {value.dtype} {list(value.shape)}, this learner's "
                f"{array.dtype} {list(array.shape)}: it was saved with other settings"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"{name!r} of a saved state is not finite")


def check_range(found: Arrays, name: str, least: int, most: int) -> None:
    """Refuse whole numbers of a saved state that point nowhere.

    Raises:
        ValueError: one is below `least` or above `most`.
    """
    values = np.asarray(found[name], np.int64)
    if values.size and not least <= values.min() <= values.max() <= most:
        raise ValueError(f"{name!r} of a saved state has values that are not {least} to {most}")


def copy_back(arrays: Arrays, found: Arrays) -> None:
    """Take the values on."""
    for name, array in arrays.items():
        array[...] = found[name]
