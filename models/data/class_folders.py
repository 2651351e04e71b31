"""Files sorted into one folder for each class, with or without train/ and test/ above them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from firmware_profiles.errors import UserError
from models.data.raw import labels_of_names

CLASSES_FILE = "classes.txt"
"""One class name a line: numbers the classes alike on every device."""

MAX_FILES = 1_000_000


class ClassFile(NamedTuple):
    """One sample's file and its class number."""

    path: Path
    label: int


class ClassFolders(NamedTuple):
    """What was found: the files of both parts, and the class names in the order of their numbers."""

    train: tuple[ClassFile, ...]
    test: tuple[ClassFile, ...]
    class_names: tuple[str, ...] | None


def has_files(folder: Path, suffixes: frozenset[str]) -> bool:
    """Tell whether a folder holds class folders with such files."""
    return any(
        next(_files(class_folder, suffixes), None) is not None
        for part in _parts(folder)
        for class_folder in _folders(part)
    )


def find_files(folder: Path, suffixes: frozenset[str], seed: int, test_fraction: float) -> ClassFolders:
    """List the files by class.

    Without train/ and test/ a file's own name decides its part (a hash with the seed), so it stays there
    when others are added and nothing that was tested on is ever trained on.

    Args:
        folder: holds <class>/<file>, or train/<class>/<file> and test/<class>/<file>.
        suffixes: of the files that count, in lower case with the dot.
        seed: decides the split.
        test_fraction: share of the files that goes to the test part.

    Raises:
        UserError: no class has such files, or there are too many.
    """
    parts = _parts(folder)
    found = [
        (part.name, class_folder.name, file)
        for part in parts
        for class_folder in _folders(part)
        for file in _files(class_folder, suffixes)
    ]
    if not found:
        raise UserError(f"{folder}: no class folder in it holds {', '.join(sorted(suffixes))} files.")
    if len(found) > MAX_FILES:
        raise UserError(f"{folder}: {len(found)} files are more than the {MAX_FILES} that are read.")
    given = _given_classes(folder)
    numbers = labels_of_names([name for _, name, _ in found], given, str(folder))
    files = [(part, ClassFile(file, numbers[name])) for part, name, file in found]
    names = tuple(sorted(numbers, key=lambda name: numbers[name]))
    class_names = None if given is None and all(name.isdecimal() for name in names) else names
    if len(parts) == 2:
        train = tuple(file for part, file in files if part == "train")
        test = tuple(file for part, file in files if part != "train")
        return ClassFolders(train, test, class_names)
    ranked = sorted((_draw(folder, file.path, seed), file) for _, file in files)
    num_test = sum(draw < test_fraction for draw, _ in ranked)
    num_test = min(max(num_test, 1), len(ranked) - 1)
    return ClassFolders(
        tuple(file for _, file in ranked[num_test:]),
        tuple(file for _, file in ranked[:num_test]),
        class_names,
    )


def _parts(folder: Path) -> list[Path]:
    train = folder / "train"
    test = next((part for name in ("test", "val") if (part := folder / name).is_dir()), None)
    return [train, test] if train.is_dir() and test is not None else [folder]


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in suffixes and not entry.name.startswith(".") and entry.is_file():
            yield entry


def _given_classes(folder: Path) -> tuple[str, ...] | None:
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text. Write one class name a line.") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        raise UserError(f"{path}: a class is named twice. Write each class once, one a line.")
    return names


def _draw(folder: Path, file: Path, seed: int) -> float:
    """A number in [0, 1) that only this file's place and the seed decide."""
    text = f"{seed}\0{file.relative_to(folder).as_posix()}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
