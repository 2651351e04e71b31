"""Fit a tree of values with line numbers to a msgspec struct, and say what does not fit where."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

_SHOWN_CHARACTERS = 60
T = TypeVar("T")


class Entry(NamedTuple):
    """A value and the line it stands in: a scalar, a list of entries or a dict of entries."""

    line: int
    value: Any


class Misfit(Exception):  # noqa: N818 - never leaves this package: `parse_strict` makes it a UserError
    """A value that does not fit; the message names its key."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def nearest(word: str, valid: Iterable[str]) -> str:
    """Offer the nearest valid word, or list them all: the end of an error message."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"valid: {', '.join(valid)}" if valid else "none is valid here"


def join(path: str, key: str) -> str:
    """The name of a key inside the value at `path`."""
    return f"{path}.{key}" if path else key


def check(entry: Entry, kind: type[T]) -> T:
    """Convert the tree to its type.

    Raises:
        Misfit: the first thing that does not fit.
    """
    return _fit(entry, kind, "")


def _fit(entry: Entry, annotation: Any, path: str) -> Any:
    # Children first: the innermost misfit knows its line, the outer conversion checks lengths and sums.
    for child, child_annotation, child_path in _children(entry, annotation, path):
        _fit(child, child_annotation, child_path)
    try:
        return msgspec.convert(_plain(entry), annotation, strict=True)
    except msgspec.ValidationError as error:
        where = f'key "{path}": ' if path else ""
        raise Misfit(
            entry.line, f"{where}{_said(str(error), annotation)}{_found(entry, annotation)}"
        ) from None


def _said(message: str, annotation: Any) -> str:
    message = message.split(" - at `$", maxsplit=1)[0].replace("`", "")
    metas = getattr(annotation, "__metadata__", ())
    described = next((meta.description for meta in metas if getattr(meta, "description", None)), None)
    if described and "regex" in message:
        return f"expected {described}"
    if message.startswith(("Expected", "Invalid")):
        message = message[:1].lower() + message[1:].replace("object", "keys with values").replace(
            "array", "list"
        )
    return message


def _found(entry: Entry, annotation: Any) -> str:
    value = entry.value
    if isinstance(value, (list, dict)):
        return ""
    shown = repr(value) if isinstance(value, str) else "nothing" if value is None else str(value)
    shown = shown.lower() if isinstance(value, bool) else shown
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
    words = [option for option in _options(annotation) if isinstance(option, str)]
    if words and isinstance(value, str):
        return f", found {shown}; {nearest(value, words)}"
    if bool in _options(annotation) and value in ("yes", "no", "on", "off"):
        return f", found {shown}; write true or false"
    return f", found {shown}"


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union and the values of a literal, one level deep; else the type itself."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(option for member in get_args(annotation) for option in _options(member))
    return get_args(annotation) if get_origin(annotation) is Literal else (annotation,)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _children(entry: Entry, annotation: Any, path: str) -> Iterable[tuple[Entry, Any, str]]:
    keys_of = _keys_of(annotation)
    if keys_of is not None and isinstance(entry.value, dict):
        kinds = {field.encode_name: field.type for field in msgspec.structs.fields(keys_of)}
        return _known(entry, kinds, path)
    for option in _options(annotation):
        kind = _bare(option)
        origin, arguments = get_origin(kind) or kind, get_args(kind)
        if isinstance(entry.value, dict):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                return _fields(entry, _by_tag(entry, annotation, kind, path), path)
            if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
                return [(item, arguments[1], join(path, key)) for key, item in entry.value.items()]
        if (
            isinstance(entry.value, list)
            and isinstance(origin, type)
            and issubclass(origin, (Sequence, set, frozenset))
        ):
            if not arguments or issubclass(origin, str):
                continue
            homogeneous = origin is not tuple or arguments[-1] is Ellipsis
            members = [arguments[0]] * len(entry.value) if homogeneous else arguments
            return [(item, kind, f"{path}[{i}]") for i, (item, kind) in enumerate(zip(entry.value, members))]  # noqa: B905 - the outer conversion reports the length
    return ()


def _keys_of(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct some of whose keys a dict holds: `Meta(extra={"keys_of": Struct})`."""
    metas = getattr(annotation, "__metadata__", ())
    return next((meta.extra["keys_of"] for meta in metas if "keys_of" in (meta.extra or {})), None)


def _known(entry: Entry, kinds: Mapping[str, Any], path: str) -> list[tuple[Entry, Any, str]]:
    """Some keys of a struct, each with its type."""
    for key, item in entry.value.items():
        if key not in kinds:
            raise Misfit(item.line, f'key "{join(path, key)}" is unknown; {nearest(key, kinds)}')
    return [(item, kinds[key], join(path, key)) for key, item in entry.value.items()]


def _by_tag(entry: Entry, annotation: Any, kind: type[msgspec.Struct], path: str) -> type[msgspec.Struct]:
    """Which struct of a tagged union is meant."""
    field = kind.__struct_config__.tag_field
    kinds = {
        option.__struct_config__.tag: option
        for option in _options(annotation)
        if isinstance(option, type) and issubclass(option, msgspec.Struct)
    }
    if field is None:
        return kind
    tag = entry.value.get(field)
    if tag is None:
        raise Misfit(entry.line, f'key "{join(path, field)}" is missing; valid: {", ".join(map(str, kinds))}')
    if tag.value not in kinds:
        offer = nearest(str(tag.value), map(str, kinds))
        raise Misfit(tag.line, f'key "{join(path, field)}": {tag.value!r} is unknown; {offer}')
    return kinds[tag.value]


def _fields(entry: Entry, kind: type[msgspec.Struct], path: str) -> list[tuple[Entry, Any, str]]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    tag_field = kind.__struct_config__.tag_field
    given: dict[str, Entry] = entry.value
    for key, item in given.items():
        if key not in fields and key != tag_field:
            absent = [name for name in fields if name not in given]
            raise Misfit(item.line, f'key "{join(path, key)}" is unknown; {nearest(key, absent or fields)}')
    for name, field in fields.items():
        if field.required and name not in given:
            raise Misfit(entry.line, f'key "{join(path, name)}" is missing; add it')
    return [(item, fields[key].type, join(path, key)) for key, item in given.items() if key in fields]


def _plain(entry: Entry) -> Any:
    value = entry.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
