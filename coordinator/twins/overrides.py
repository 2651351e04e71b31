"""`--set key=value`: changes to a scenario from the command line, checked like the file itself."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from firmware_profiles.errors import UserError
from firmware_profiles.fit import Entry, Misfit, check
from firmware_profiles.strict import parse_strict

StructT = TypeVar("StructT", bound=msgspec.Struct)


class _Value(msgspec.Struct):
    value: Any


def apply_overrides(struct: StructT, overrides: list[str]) -> StructT:
    """Return the struct with the overrides applied, in order, and checked when all are.

    Args:
        struct: what the file said.
        overrides: `dotted.key=value`; a number in the key chooses from a list, `*` all of it; the value
            is YAML, so `{kind: steps, points: [[0, 1]]}` works.

    Raises:
        UserError: a key or a value does not fit; the nearest valid key is offered.
    """
    if not overrides:
        return struct
    tree = _tree(struct)
    for text in overrides:
        _override(tree, text)
    try:
        return check(_entry(tree), type(struct))
    except Misfit as error:
        _blame_one(struct, overrides)
        raise UserError(f"--set {' '.join(overrides)}: {error}") from None


def _tree(struct: msgspec.Struct) -> Any:
    return msgspec.json.decode(msgspec.json.encode(struct))


def _override(tree: Any, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: write key=value, such as rounds=3")
    parsed = parse_strict(f"value: {value}", f"--set {key}", _Value).value
    _put(tree, key.split("."), parsed, text)


def _blame_one(struct: msgspec.Struct, overrides: list[str]) -> None:
    """Raise for the first override that does not fit by itself; what does not fit together has none."""
    for text in overrides:
        tree = _tree(struct)
        _override(tree, text)
        try:
            check(_entry(tree), type(struct))
        except Misfit as error:
            raise UserError(f"--set {text}: {error}") from None


def _put(tree: Any, path: list[str], value: Any, text: str) -> None:
    """Put a value in its place; keys that do not exist are for `check` to refuse."""
    head, *rest = path
    if isinstance(tree, list):
        for index in _indices(head, len(tree), text):
            if rest:
                tree[index] = {} if not isinstance(tree[index], (dict, list)) else tree[index]
                _put(tree[index], rest, value, text)
            else:
                tree[index] = value
    elif rest:
        if not isinstance(tree.get(head), (dict, list)):
            tree[head] = {}
        _put(tree[head], rest, value, text)
    else:
        tree[head] = value


def _indices(head: str, length: int, text: str) -> range:
    if head == "*":
        return range(length)
    if not head.isdecimal() or int(head) >= length:
        raise UserError(
            f"--set {text}: {head!r} is not a place in a list of {length}: use 0 to {length - 1}, or *"
        )
    return range(int(head), int(head) + 1)


def _entry(value: Any) -> Entry:
    if isinstance(value, dict):
        return Entry(0, {str(key): _entry(item) for key, item in value.items()})
    if isinstance(value, list):
        return Entry(0, [_entry(item) for item in value])
    return Entry(0, value)
