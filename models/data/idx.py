"""idx files, the format of MNIST and its successors; plain, gzip or xz."""

from __future__ import annotations

import gzip
import lzma
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.raw import (
    IMAGE_OFFSET,
    IMAGE_SCALE,
    RawPart,
    RawSplit,
    Source,
    check_size,
    image_layout,
    read_options,
)

_NAME = re.compile(r"(?P<prefix>.*?)(?P<part>train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz|\.xz)?")
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(file_name: str) -> bool:
    """Tell whether a file's name is that of an idx file."""
    return _NAME.fullmatch(file_name) is not None


def has_idx(folder: Path) -> bool:
    """Tell whether a folder holds idx files."""
    return any(is_idx(entry.name) for entry in folder.iterdir())


def read_idx(source: Source) -> RawSplit:
    """Read train-images, train-labels, t10k-images and t10k-labels (or test-…) of one folder.

    Args:
        source: the folder or one of the files.

    Raises:
        UserError: a file is missing, truncated or no idx file.
    """
    read_options(source, {})
    folder, prefix = source.path, None
    if source.path.is_file():
        folder = source.path.parent
        named = _NAME.fullmatch(source.path.name)
        prefix = named["prefix"] if named else None
    parts = {"train": ("train",), "test": ("t10k", "test")}
    found = {
        (part, kind): _find(folder, prefix, names, kind)
        for part, names in parts.items()
        for kind in ("images", "labels")
    }

    def part(name: str) -> RawPart:
        images, labels = read_idx_file(found[name, "images"]), read_idx_file(found[name, "labels"])
        return RawPart(image_layout(images), labels, str(found[name, "images"]))

    train, test = part("train"), part("test")
    if train.samples.dtype == np.uint8:
        return RawSplit(train, test, IMAGE_SCALE, IMAGE_OFFSET)
    return RawSplit(train, test)


def read_idx_file(path: Path) -> NDArray[Any]:
    """Read one idx file into an array of the shape its header names.

    Raises:
        UserError: it is truncated, too long, damaged or no idx file.
    """
    try:
        with _open(path) as file:
            zeros, code, num_axes = struct.unpack(">HBB", file.read(4))
            if zeros or code not in _DTYPES or not 1 <= num_axes <= 8:
                raise UserError(f"{path}: does not start like an idx file. Download it again.")
            shape = struct.unpack(f">{num_axes}I", file.read(4 * num_axes))
            dtype = np.dtype(_DTYPES[code])
            check_size(shape[0], dtype.itemsize * math.prod(shape[1:]), str(path))
            num_bytes = dtype.itemsize * math.prod(shape)
            content = file.read(num_bytes + 1)
    except (struct.error, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{path}: truncated or damaged ({error}). Download it again.") from None
    if len(content) != num_bytes:
        amount = "more" if len(content) > num_bytes else f"only {len(content)}"
        raise UserError(
            f"{path}: the header promises {list(shape)} values, {num_bytes} bytes, the file has {amount}. "
            "Download it again."
        )
    values = np.frombuffer(content, dtype).reshape(shape)
    return values if dtype.itemsize == 1 else values.astype(dtype.newbyteorder("="))


def _open(path: Path) -> BinaryIO | gzip.GzipFile | lzma.LZMAFile:
    if path.suffix == ".gz":
        return gzip.GzipFile(path, "rb")
    if path.suffix == ".xz":
        return lzma.LZMAFile(path, "rb")
    return path.open("rb")


def _find(folder: Path, prefix: str | None, part_names: tuple[str, ...], kind: str) -> Path:
    candidates = sorted(
        (entry.name, entry)
        for entry in folder.iterdir()
        if (named := _NAME.fullmatch(entry.name))
        and named["part"] in part_names
        and named[3] == kind
        and prefix in {None, named["prefix"]}
    )
    if not candidates:
        raise UserError(
            f"{folder}: no {prefix or ''}{part_names[0]}-{kind}-idx…-ubyte[.gz] in it. "
            "The four files train-images, train-labels, t10k-images, t10k-labels belong together."
        )
    return candidates[0][1]  # plain before .gz before .xz
