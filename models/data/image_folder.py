"""Folders of images by class. Pillow is imported when the first image is read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.class_folders import ClassFile, find_files, has_files
from models.data.raw import (
    IMAGE_OFFSET,
    IMAGE_SCALE,
    RawPart,
    RawSplit,
    Source,
    check_size,
    fraction,
    positive_int,
    read_options,
)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
_MAX_PIXELS = 64 << 20  # of one file, before it is decoded


def has_images(folder: Path) -> bool:
    """Tell whether a folder holds class folders with images."""
    return has_files(folder, SUFFIXES)


def read_image_folder(source: Source) -> RawSplit:
    """Read <class>/<image> or train/<class>/<image> and test/<class>/<image> as uint8 [N, C, H, W].

    Options: `size=32` (side length to scale to), `colour=grey|rgb`, `test=0.2` (share held out).

    Raises:
        UserError: pillow is missing, an image is damaged, or the images differ in size and no size is given.
    """
    options = read_options(source, {"size": positive_int, "colour": _colour, "test": fraction})
    found = find_files(source.path, SUFFIXES, source.seed, options.get("test", 0.2))
    first = (found.train or found.test)[0].path
    mode = options.get("colour") or _mode_of(first)
    size = options.get("size")
    train = _read_all(found.train, mode, size, source)
    test = _read_all(found.test, mode, size, source)
    return RawSplit(
        RawPart(*train, str(source.path)),
        RawPart(*test, str(source.path)),
        IMAGE_SCALE,
        IMAGE_OFFSET,
        found.class_names,
    )


def _read_all(
    files: Sequence[ClassFile], mode: str, size: int | None, source: Source
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = np.array([file.label for file in files], np.int64)
    images: NDArray[np.uint8] | None = None
    for row, file in enumerate(files):
        image = _read(file.path, mode, size)
        if images is None:
            check_size(len(files), image.size, str(source.path))
            images = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            height, width = image.shape[1:]
            raise UserError(
                f"{file.path}: {width}x{height} pixels, the first image has "
                f"{images.shape[3]}x{images.shape[2]}. Add ?size=32 to the path to scale all of them."
            )
        images[row] = image
    return (np.empty((0, 1, 1, 1), np.uint8) if images is None else images), labels


def _open(path: Path) -> Any:
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError:
        raise UserError(
            "Reading images needs pillow, which is not installed: install edgetide[images]."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow warns of odd metadata; the pixels decide
        try:
            with Image.open(path) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise UserError(
                        f"{path}: {image.width}x{image.height} pixels are too many. Scale it down."
                    )
                return ImageOps.exif_transpose(image.convert(image.mode))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path}: not a readable image ({error}). Replace the file or remove it."
            ) from None


def _read(path: Path, mode: str, size: int | None) -> NDArray[np.uint8]:
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path}: more than 8 bits a pixel. Store it with 8 bits.")
    image = image.convert(mode)
    if size is not None:
        image = image.resize((size, size))
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _mode_of(path: Path) -> str:
    return "L" if _open(path).mode in {"1", "L", "LA"} else "RGB"


def _colour(text: str) -> str:
    modes = {"grey": "L", "rgb": "RGB"}
    if text not in modes:
        raise ValueError("give grey or rgb")
    return modes[text]
