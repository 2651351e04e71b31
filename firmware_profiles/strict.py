"""Strict YAML for files written by people: profiles, policies, scenarios, tables.

A file either fits its struct exactly or is refused with one line that names file, line and key.
Scalars follow the YAML 1.2 core schema (PyYAML's own 1.1 rules read `no` as false, `22:00` as 1320
and `1e6` as text). Anchors, aliases and tags are refused: nothing here needs them, bombs do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import yaml

from firmware_profiles.errors import UserError
from firmware_profiles.fit import Entry, Misfit, check, join

MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 32
_MAX_EVENTS = 200_000
_MAX_NUMBER_LENGTH = 40
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Content = TypeVar("Content")


class Fault(NamedTuple):
    """What is wrong with a value whose parts all have the right types.

    Attributes:
        key: of the part, such as `entries[3].vector[0]`; "" is the whole.
        message: what is wrong, and what to do.
    """

    key: str
    message: str

    def __str__(self) -> str:
        """In one line."""
        return f'key "{self.key}": {self.message}' if self.key else self.message


def _no_fault(_value: object) -> Fault | None:
    return None


class _Place(NamedTuple):
    source: str
    line: int
    key: str = ""

    def refuse(self, message: str) -> NoReturn:
        where = f'key "{self.key}": ' if self.key else ""
        raise UserError(f"{self.source}:{self.line}: {where}{message}")


def load_strict(
    path: str | Path, kind: type[Content], find_fault: Callable[[Content], Fault | None] = _no_fault
) -> Content:
    """Read a YAML file into its struct; the arguments are those of `parse_strict`.

    Raises:
        UserError: the file cannot be read, or does not fit (see `parse_strict`).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; check the path and its permissions"
        ) from error
    try:
        text = content[:MAX_BYTES].decode("utf-8") if len(content) <= MAX_BYTES else "\0" * (MAX_BYTES + 1)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from error
    return parse_strict(text, str(path), kind, find_fault)


def parse_strict(
    text: str, source: str, kind: type[Content], find_fault: Callable[[Content], Fault | None] = _no_fault
) -> Content:
    """Parse YAML text into its struct, or say what does not fit.

    Args:
        text: one YAML document, at most 1 MiB.
        source: what to call it in messages, such as its path.
        kind: the struct, or other type, that the whole document must fit.
        find_fault: says what is wrong with values that fit their types, such as their order.

    Raises:
        UserError: too big, not YAML, uses aliases or tags, a key is unknown, missing or given
            twice, or a value has the wrong type or range. Names source, line and key.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise UserError(f"{source}:1: is larger than {MAX_BYTES} bytes, which no file of this kind needs")
    try:
        _refuse_bombs(text, source)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _Place(source, mark.line + 1 if mark else 1).refuse(
            f"is not valid YAML: {error.problem or error.context}"
        )
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        _Place(source, line).refuse(f"is not valid YAML: {error.reason}")
    except (yaml.YAMLError, UnicodeEncodeError):
        _Place(source, 1).refuse("is not valid YAML text; save the file as UTF-8")
    if root is None:
        _Place(source, 1).refuse("is empty; write {} where every default is meant")
    entry = _entry(root, source)
    try:
        value = check(entry, kind)
    except Misfit as error:
        raise UserError(f"{source}:{error.line}: {error}") from None
    if fault := find_fault(value):
        raise UserError(f"{source}:{_line_of(entry, fault.key)}: {fault}")
    return value


def _refuse_bombs(text: str, source: str) -> None:
    depth = documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        place = _Place(source, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            place.refuse("anchors (&) and aliases (*) are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            place.refuse(f"the tag {event.tag!r} is not allowed; write the plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            place.refuse("a second document starts here; one file holds one document")
        if depth > _MAX_DEPTH or count > _MAX_EVENTS:
            place.refuse(f"is nested deeper than {_MAX_DEPTH} levels or has more than {_MAX_EVENTS} values")


def _line_of(entry: Entry, key: str) -> int:
    """The line of a key, or of the innermost part of it that the file has."""
    for part in re.findall(r"[^.\[\]]+", key):
        if isinstance(entry.value, list) and int(part) < len(entry.value):
            entry = entry.value[int(part)]
        elif isinstance(entry.value, dict) and part in entry.value:
            entry = entry.value[part]
        else:
            break
    return entry.line


def _entry(node: yaml.Node, source: str, path: str = "") -> Entry:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Entry(line, [_entry(item, source, f"{path}[{i}]") for i, item in enumerate(node.value)])
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            place = _Place(source, key_node.start_mark.line + 1, path)
            if not isinstance(key_node, yaml.ScalarNode):
                place.refuse("a key must be plain text")
            key = key_node.value
            key_path = join(path, key)
            if key in entries:
                place._replace(key=key_path).refuse(
                    f"is given twice, first in line {entries[key].line}; keep one"
                )
            entries[key] = _entry(value_node, source, key_path)._replace(line=place.line)
        return Entry(line, entries)
    plain = not getattr(node, "style", None)  # None in Python, "" from libyaml
    return Entry(line, _scalar(node.value, _Place(source, line, path)) if plain else node.value)


def _scalar(text: str, place: _Place) -> str | float | bool | None:
    """The value of an unquoted scalar; int counts as float for the type checker."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NOT_FINITE.fullmatch(text):
        place.refuse(f"{text} is not a finite number")
    is_int = _INT.fullmatch(text)
    if not is_int and not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MAX_NUMBER_LENGTH:
        place.refuse(f"a number of {len(text)} characters; quote it if it is text")
    number = int(text, 16 if text.startswith("0x") else 10) if is_int else float(text)
    if not math.isfinite(number):
        place.refuse(f"{text} is too large for a number")
    return number
