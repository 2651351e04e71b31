"""Live sources: `--data` texts that name an MQTT topic or a command instead of stored samples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from firmware_profiles.errors import UserError
from models.data.csv_windows import plain_label
from models.data.dataset import MAX_CLASSES, Dataset
from models.data.raw import convert_options, names, positive_int

MAX_FEATURES = 8192
"""A sample of so many fits into the 64 KiB that an event may have."""

DEVICE = "{device}"
"""In a topic: the id of the device."""

_EXAMPLES = {
    "mqtt": "mqtt:plant/{device}/power?features=6&classes=down,up",
    "command": "command:/opt/read-sensor --fast?features=3&classes=idle,busy",
}


@dataclass(frozen=True)
class LiveSource:
    """Where samples come from while they are made.

    Attributes:
        kind: what the target is.
        target: an MQTT topic or filter, in which {device} stands for the device's id; or a command line.
        num_features: d of a sample.
        class_names: of all classes, in the order of their numbers.
        label_first: in a line of comma separated values the label comes first, not last.
    """

    kind: Literal["mqtt", "command"]
    target: str
    num_features: int
    class_names: tuple[str, ...]
    label_first: bool = False

    @cached_property
    def class_numbers(self) -> Mapping[str, int]:
        """The number of each class by its name."""
        return {name: number for number, name in enumerate(self.class_names)}

    def class_number(self, text: str) -> int | None:
        """The class that a text means: its name or, where no name is a number, its number; None: no class.

        Numbers may be written as 1, 1.0 or 01, as in stored data.
        """
        plain = plain_label(text)
        number = self.class_numbers.get(text.strip(), self.class_numbers.get(plain))
        if number is not None or self._numbers_are_names or not re.fullmatch(r"[0-9]{1,6}", plain):
            return number
        return int(plain) if int(plain) < len(self.class_names) else None

    @cached_property
    def _numbers_are_names(self) -> bool:
        return any(name.isdecimal() for name in self.class_names)


def parse_live(text: str) -> LiveSource | None:
    """Read `mqtt:TOPIC?features=D&classes=a,b` or `command:COMMAND LINE?features=D&classes=a,b`.

    Options come after the last question mark: `features` and `classes` are needed, `label=first` says that
    lines of values begin with the label.

    Args:
        text: what the user gave as data.

    Returns:
        The source, or None where the text is of another kind.

    Raises:
        UserError: options are missing, unknown or wrong, or there is no topic or command.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _EXAMPLES:
        return None
    target, _, options_text = rest.rpartition("?") if "?" in rest else (rest, "", "")
    target = target.strip()
    _check_target(kind, target, text)
    options = _options(options_text, text, _EXAMPLES[kind])
    return LiveSource(
        "mqtt" if kind == "mqtt" else "command",
        target,
        options["features"],
        options["classes"],
        options.get("label") == "first",
    )


def empty_dataset(source: LiveSource) -> Dataset:
    """No samples, of the shape and classes that will come."""
    samples = np.zeros((0, source.num_features), np.float32)
    return Dataset(samples, np.zeros(0, np.int64), len(source.class_names))


def _check_target(kind: str, target: str, text: str) -> None:
    if kind == "command":
        try:
            words = shlex.split(target)
        except ValueError as error:
            raise UserError(f"'{text}': the command cannot be split into words: {error}. Quote it.") from None
        if not words:
            raise UserError(f"'{text}' names no command. Write {_EXAMPLES[kind]}.")
        return
    if not target:
        raise UserError(f"'{text}' names no topic. Write {_EXAMPLES[kind]}.")
    if target.startswith("//"):
        raise UserError(f"'{text}': give a topic of --broker's broker, such as {_EXAMPLES[kind]}.")
    stranger = re.search(r"[{}]", target.replace(DEVICE, ""))
    if stranger is not None:
        raise UserError(f"'{text}': of names in braces a topic may have {DEVICE} only.")


def _options(options_text: str, text: str, example: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(options_text, keep_blank_values=True, strict_parsing=True) if options_text else []
    except ValueError:
        raise UserError(f"'{text}': data options are written ?key=value&key=value.") from None
    known = {"features": _features, "classes": _classes, "label": _first_or_last}
    options = convert_options(dict(pairs), known, f"'{text}'")
    for key in ("features", "classes"):
        if key not in options:
            raise UserError(f"'{text}': data option {key}= is missing. Write it as in {example}.")
    return options


def _features(text: str) -> int:
    number = positive_int(text)
    if number > MAX_FEATURES:
        raise ValueError(f"give a whole number from 1 to {MAX_FEATURES}")
    return number


def _classes(text: str) -> tuple[str, ...]:
    found = names(text)
    if not 2 <= len(found) <= MAX_CLASSES:
        raise ValueError(f"give 2 to {MAX_CLASSES} names separated by commas")
    return found


def _first_or_last(text: str) -> str:
    if text not in {"first", "last"}:
        raise ValueError("give first or last")
    return text
