"""What an adapter hands over: arrays as they were read, not yet checked, and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError

MAX_BYTES = 4 << 30
"""More stored samples than this are refused before they are read: a device would not survive them."""

IMAGE_SCALE, IMAGE_OFFSET = 1 / 127.5, -1.0
"""uint8 0..255 becomes -1..1: constants, so that devices which never see each other's data agree."""

AUDIO_SCALE = 1 / 32768


@dataclass(frozen=True)
class RawPart:
    """One part of a data set as it was read.

    Attributes:
        samples: [N, *shape], uint8, int16 or float.
        labels: [N], any integral numbers.
        where: the file or folder, for error messages.
        owner: [N], who made each sample, or None.
    """

    samples: NDArray[Any]
    labels: NDArray[Any]
    where: str
    owner: NDArray[Any] | None = None


@dataclass(frozen=True)
class RawSplit:
    """A data set as an adapter read it; inputs are `samples * scale + offset`."""

    train: RawPart
    test: RawPart
    scale: float = 1.0
    offset: float = 0.0
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """Where data comes from: `PATH` or `PATH?key=value&key=value`.

    Attributes:
        path: an existing file or folder.
        seed: decides splits where the source has none of its own.
        options: what the user wrote behind the question mark.
    """

    path: Path
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)


def read_options(source: Source, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Check and convert the options of a source.

    Raises:
        UserError: an option is unknown or its value cannot be used.
    """
    return convert_options(source.options, known, str(source.path))


def convert_options(
    options: Mapping[str, str], known: Mapping[str, Callable[[str], Any]], where: str
) -> dict[str, Any]:
    """Check and convert options.

    Args:
        options: as the user wrote them.
        known: what converts each, or raises ValueError with what to give instead.
        where: whose options they are, for error messages.

    Raises:
        UserError: an option is unknown or its value cannot be used.
    """
    read: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            nearest = get_close_matches(key, known, n=1)
            raise UserError(
                f"{where}: unknown data option '{key}'"
                + (f", did you mean '{nearest[0]}'?" if nearest else "")
                + (f" This kind of data knows: {', '.join(known)}." if known else " It takes no options.")
            )
        try:
            read[key] = known[key](text)
        except ValueError as error:
            raise UserError(f"{where}: data option {key}={text}: {error}") from None
    return read


def positive_int(text: str) -> int:
    """Convert an option to an integer of 1 or more."""
    if not text.isdecimal() or not 1 <= int(text[:12]) <= 10**9:
        raise ValueError("give a whole number from 1 to 1000000000")
    return int(text)


def count(text: str) -> int:
    """Convert an option to an integer of 0 or more."""
    if not text.isdecimal() or len(text) > 10 or int(text) > 10**9:
        raise ValueError("give a whole number from 0 to 1000000000")
    return int(text)


def positive_float(text: str) -> float:
    """Convert an option to a number above 0."""
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError("give a number above 0")
    return value


def fraction(text: str) -> float:
    """Convert an option to a number between 0 and 1, both excluded."""
    value = float(text)
    if not 0 < value < 1:
        raise ValueError("give a number between 0 and 1, such as 0.2")
    return value


def names(text: str) -> tuple[str, ...]:
    """Convert an option to a tuple of distinct names."""
    split = tuple(part.strip() for part in text.split(","))
    if not all(split) or len(set(split)) != len(split):
        raise ValueError("give distinct names separated by commas")
    return split


def check_size(num_samples: int, sample_bytes: int, where: str) -> None:
    """Refuse data that would not fit, before anything is allocated for it.

    Raises:
        UserError: it needs more than MAX_BYTES.
    """
    num_bytes = num_samples * sample_bytes
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"{where}: {num_samples} samples of {sample_bytes} bytes need {num_bytes / 2**30:.1f} GiB, "
            f"more than the {MAX_BYTES >> 30} GiB a data set may have. Use a part of it or smaller samples."
        )


def image_layout(images: NDArray[Any]) -> NDArray[Any]:
    """Bring images to [N, C, H, W]: grey [N, H, W] gets a channel, [N, H, W, 1|3|4] is turned (no copy)."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in {1, 3, 4} and images.shape[1] not in {1, 3, 4}:
        return np.moveaxis(images, 3, 1)
    return images


def labels_of_names(found: list[str], given: tuple[str, ...] | None, where: str) -> dict[str, int]:
    """Number the classes: by a given list, by their own numbers, else in alphabetical order.

    Devices that lack a class must number the others alike, so a list or numbers are the safe ways.

    Raises:
        UserError: a class that was found is not in the given list.
    """
    if given is not None:
        unknown = sorted(set(found) - set(given))
        if unknown:
            raise UserError(
                f"{where}: class '{unknown[0]}' is not in the list of classes "
                f"({', '.join(given[:8])}{', …' if len(given) > 8 else ''}). Add it or remove its samples."
            )
        return {name: number for number, name in enumerate(given)}
    if all(name.isdecimal() and len(name) <= 6 for name in found):
        return {name: int(name) for name in found}
    return {name: number for number, name in enumerate(sorted(set(found)))}
