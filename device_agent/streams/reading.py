"""Reads one event of a live stream: a line of values, or a JSON object. Nothing of it is trusted."""

from __future__ import annotations

import csv
from collections import OrderedDict
from typing import Annotated

import msgspec
import numpy as np

from device_agent.streams.stream import Sample
from firmware_profiles.errors import PeerError
from models.data.live import LiveSource
from models.prototypes.scaling import LARGEST
from models.subnet import Array

MAX_EVENT_BYTES = 64 << 10
"""An event of more is refused."""

MOST_IDS = 100_000
"""Ids that are remembered, the latest: whose label comes after so many others is not learned."""

_QUOTED = 40  # characters of what is wrong that an error repeats


class _Event(msgspec.Struct):
    """An event in JSON; other fields are ignored."""

    x: list[float] | None = None
    y: str | int | float | None = None
    id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class GivenIds:
    """What a source calls its samples, and their numbers here; the oldest are forgotten.

    Args:
        most: remembered at a time.
    """

    def __init__(self, most: int = MOST_IDS) -> None:
        self._numbers: OrderedDict[int, int] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._numbers)

    def give(self, given: int, number: int) -> None:
        """From now on the id means this sample; an id that is given again means the newer one."""
        self._numbers[given] = number
        self._numbers.move_to_end(given)
        if len(self._numbers) > self._most:
            self._numbers.popitem(last=False)

    def number_of(self, given: int) -> int:
        """The number of the sample.

        Raises:
            PeerError: the id means none.
        """
        number = self._numbers.get(given)
        if number is None:
            raise PeerError(f"id {given} names no sample that is remembered")
        return number


def read_event(payload: bytes | str, source: LiveSource, next_number: int, given_ids: GivenIds) -> Sample:
    """Read a line `f1,…,fd[,label]`, or {"x": [f1, …, fd], "y": label, "id": id}; y and id may be missing.

    {"id": id, "y": label} is the label of an earlier sample. An empty label, or null, comes later or never.

    Args:
        payload: the text, in UTF-8.
        source: says how many features and which classes there are.
        next_number: of the sample, if it is one; a label has its sample's.
        given_ids: learns the id of a sample, and knows the sample of a label.

    Raises:
        PeerError: it is too large or no such text, has another number of features, one that is not finite or
            too large, an unknown class, or an id of no sample.
    """
    text = _text(payload)
    if not text.startswith("{"):
        return _of_line(text, source, next_number)
    try:
        event = msgspec.json.decode(text, type=_Event)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise PeerError(f"not an event in JSON: {_short(str(error), 120)}") from None
    label = None if event.y is None else _class(str(event.y), source)
    if event.x is not None:
        sample = Sample(next_number, _vector(event.x, source), label)
        if event.id is not None:
            given_ids.give(event.id, next_number)
        return sample
    if event.id is None or label is None:
        raise PeerError('an event in JSON has "x", or "id" and "y"')
    return Sample(given_ids.number_of(event.id), None, label)


def _text(payload: bytes | str) -> str:
    if len(payload) > MAX_EVENT_BYTES:
        raise PeerError(f"larger than the {MAX_EVENT_BYTES >> 10} KiB of an event")
    try:
        text = payload.decode("utf-8") if isinstance(payload, bytes) else payload
    except UnicodeDecodeError:
        raise PeerError("not text in UTF-8") from None
    text = text.strip().removeprefix("\ufeff")
    if not text:
        raise PeerError("empty")
    return text


def _of_line(text: str, source: LiveSource, number: int) -> Sample:
    if "\n" in text or "\r" in text:
        raise PeerError("more than one line")
    try:
        cells = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise PeerError(f"not a line of comma separated values: {error}") from None
    label = ""
    if len(cells) == source.num_features + 1:
        label = cells.pop(0 if source.label_first else -1).strip()
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise PeerError(f"not a line of numbers: {_short(str(error), 80)}") from None
    return Sample(number, _vector(values, source), _class(label, source) if label else None)


def _vector(values: list[float], source: LiveSource) -> Array:
    """The features, float32 [d]."""
    if len(values) != source.num_features:
        raise PeerError(f"{len(values)} features instead of {source.num_features}")
    wide = np.array(values, np.float64)
    usable = np.abs(wide) <= LARGEST  # not "above": of nan neither is true
    if not usable.all():
        bad = int(np.flatnonzero(~usable)[0])
        raise PeerError(f"feature {bad} is {wide[bad]}, not finite or beyond {LARGEST:g}")
    return wide.astype(np.float32)


def _class(text: str, source: LiveSource) -> int:
    number = source.class_number(text)
    if number is None:
        known = _short(", ".join(source.class_names), 80)
        raise PeerError(f"class {_short(repr(text))} is none of {known}")
    return number


def _short(text: str, most: int = _QUOTED) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
