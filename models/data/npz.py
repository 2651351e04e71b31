"""NumPy archives with x_train, y_train, x_test, y_test and optionally owner_train."""

from __future__ import annotations

import math
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.raw import (
    AUDIO_SCALE,
    IMAGE_OFFSET,
    IMAGE_SCALE,
    RawPart,
    RawSplit,
    Source,
    check_size,
    image_layout,
    read_options,
)

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(source: Source) -> RawSplit:
    """Read an npz archive; pickled content is never opened.

    uint8 samples are taken as images, int16 as sound, floats as they are.

    Raises:
        UserError: it is damaged, a key is missing, or an array is no plain array of numbers.
    """
    read_options(source, {})
    try:
        with zipfile.ZipFile(source.path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
            missing = [key for key in _KEYS if key not in members]
            if missing:
                present = ", ".join(sorted(members)) or "nothing"
                raise UserError(
                    f"{source.path}: no array '{missing[0]}' in it, only {present}. "
                    f"It needs {', '.join(_KEYS)}."
                )
            arrays = {key: _array(archive, key, source) for key in _KEYS}
            owner = _array(archive, "owner_train", source) if "owner_train" in members else None
    except zipfile.BadZipFile as error:
        raise UserError(f"{source.path}: not a whole npz file ({error}). Write or copy it again.") from None
    if owner is not None and (owner.ndim != 1 or owner.dtype.kind not in "iu"):
        raise UserError(f"{source.path}: owner_train must be one whole number a sample.")
    scale, offset = 1.0, 0.0
    x_train, x_test = arrays["x_train"], arrays["x_test"]
    if x_train.dtype != x_test.dtype:
        raise UserError(
            f"{source.path}: x_train is {x_train.dtype}, x_test is {x_test.dtype}. Store both in one type."
        )
    if x_train.dtype == np.uint8:
        scale, offset = IMAGE_SCALE, IMAGE_OFFSET
        x_train, x_test = image_layout(x_train), image_layout(x_test)
    elif x_train.dtype == np.int16:
        scale = AUDIO_SCALE
    return RawSplit(
        RawPart(x_train, arrays["y_train"], f"{source.path} (x_train, y_train)", owner),
        RawPart(x_test, arrays["y_test"], f"{source.path} (x_test, y_test)"),
        scale,
        offset,
    )


def _array(archive: zipfile.ZipFile, key: str, source: Source) -> NDArray[Any]:
    where = f"{source.path}: array '{key}'"
    try:
        with archive.open(f"{key}.npy") as file:  # the header first: nothing is allocated on its word alone
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.hasobject:
            raise UserError(f"{where} holds Python objects, which are never opened. Store plain numbers.")
        if not shape:
            raise UserError(f"{where} is a single number. Store one entry a sample.")
        check_size(shape[0], dtype.itemsize * math.prod(shape[1:]), where)
        if dtype.itemsize * math.prod(shape) > archive.getinfo(f"{key}.npy").file_size:
            raise UserError(f"{where} is shorter than its header says. Write the file again.")
        with archive.open(f"{key}.npy") as file:
            return npy.read_array(file, allow_pickle=False)
    except (
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        zlib.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise UserError(f"{where} cannot be read ({error}). Write the file again with numpy.savez.") from None
