"""Data sets: plain arrays that stay as small as they were stored, made float32 batch by batch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data import csv_windows, idx, image_folder, npz, wav_folder
from models.data.raw import RawPart, RawSplit, Source

SHIPPED = {
    "fashion-mnist-small": Path(__file__).parent
    / "shipped"
    / "fashion-mnist-small-train-images-idx3-ubyte.xz"
}
DEFAULT_DATA = "fashion-mnist-small"

MAX_CLASSES = 65536


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples. What a network gets is `samples * scale + offset` in float32.

    Attributes:
        samples: [N, *shape] as stored: uint8, int16 or float32.
        labels: int64 [N], each in 0..num_classes-1.
        num_classes: number of classes, also of those that have no sample here.
        scale: factor on a stored value.
        offset: added after the factor.
        owner: int64 [N], who made each sample, or None.

    Raises:
        ValueError: lengths, labels or values do not make a data set.
    """

    samples: NDArray[Any]
    labels: NDArray[np.int64]
    num_classes: int
    scale: float = 1.0
    offset: float = 0.0
    owner: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.samples.dtype not in {np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32)}:
            raise ValueError(f"samples are {self.samples.dtype}, not uint8, int16 or float32")
        if self.samples.ndim < 2 or 0 in self.samples.shape[1:]:
            raise ValueError(f"samples have shape {list(self.samples.shape)}, which holds no features")
        if len(self.labels) != len(self.samples):
            raise ValueError(f"{len(self.samples)} samples have {len(self.labels)} labels")
        if self.owner is not None and len(self.owner) != len(self.samples):
            raise ValueError(f"{len(self.samples)} samples have {len(self.owner)} owners")
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
        if bad.size:
            raise ValueError(
                f"label {self.labels[bad[0]]} of sample {bad[0]} is not in 0..{self.num_classes - 1}"
            )
        if self.samples.dtype.kind == "f":
            for start in range(0, len(self.samples), 1024):  # in blocks: no second copy of the data
                finite = np.isfinite(self.samples[start : start + 1024])
                if not finite.all():
                    row = start + int(np.argwhere(~finite)[0][0])
                    raise ValueError(f"sample {row} holds a value that is not a finite float32 number")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.samples.shape[1:]

    def batch(self, indices: NDArray[np.int64] | slice) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Make a mini-batch.

        Args:
            indices: which samples, or a slice.

        Returns:
            inputs float32 [n, *shape], C-contiguous, normalised; labels int64 [n].
        """
        inputs = np.array(self.samples[indices], dtype=np.float32, order="C")
        inputs *= np.float32(self.scale)
        inputs += np.float32(self.offset)
        return inputs, self.labels[indices]

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """Copy some samples out, so that the whole can be let go (a device's shard)."""
        return replace(
            self,
            samples=np.ascontiguousarray(self.samples[indices]),
            labels=self.labels[indices],
            owner=None if self.owner is None else self.owner[indices],
        )


@dataclass(frozen=True, eq=False)
class DataSplit:
    """A data set in two parts.

    Attributes:
        train: what devices learn from.
        test: what nothing is chosen by.
        name: as the user gave it.
        class_names: a name for each class, or None where they are numbers.
    """

    train: Dataset
    test: Dataset
    name: str
    class_names: tuple[str, ...] | None = None


def load_data(name_or_path: str, seed: int = 0) -> DataSplit:
    """Load a data set by name or path.

    Args:
        name_or_path: a shipped name (`fashion-mnist-small`), idx files or their folder, an npz file, a
            CSV file, a folder of images or WAV files by class; options follow a question mark, such as
            `walk.csv?window=64&stride=32`.
        seed: decides the split where the source has none of its own.

    Raises:
        UserError: it is not there, cannot be read, or is no usable data set.
    """
    if name_or_path in SHIPPED:
        raw = idx.read_idx(Source(SHIPPED[name_or_path], seed))
        return _checked(raw, name_or_path)
    source = source_of(name_or_path, seed)
    with reading(source.path):
        raw = _adapter(source.path)(source)
    return _checked(raw, name_or_path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say what is wrong where samples cannot be read.

    Raises:
        UserError: they do not fit into memory, or the system refuses.
    """
    try:
        yield
    except MemoryError:
        raise UserError(f"{path}: the data does not fit into memory. Use a part of it.") from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(
            f"{error.filename or path}: cannot be read: {reason}. Check that it is whole and readable."
        ) from error


def match(data: DataSplit, input_shape: tuple[int, ...], num_classes: int) -> DataSplit:
    """Fit data to a model's input, adding or removing axes of length 1 only.

    Args:
        data: what was loaded.
        input_shape: the model's input, the batch axis left out.
        num_classes: the model's class outputs.

    Raises:
        UserError: the model cannot learn this data.
    """
    if without_ones(data.train.shape) != without_ones(input_shape):
        raise UserError(
            f"{data.name}: samples have shape {list(data.train.shape)}, the model takes {list(input_shape)}. "
            "Choose another model or bring the data to this shape."
        )
    if data.train.num_classes > num_classes:
        raise UserError(
            f"{data.name}: {data.train.num_classes} classes, the model tells {num_classes} apart. "
            "Choose a model with more class outputs."
        )

    def fitted(part: Dataset) -> Dataset:
        samples = part.samples.reshape(len(part), *input_shape)
        return replace(part, samples=samples, num_classes=num_classes)

    return replace(data, train=fitted(data.train), test=fitted(data.test))


def fingerprint(name_or_path: str) -> str:
    """Digest names, sizes and modification times, cheap enough to poll: it changes when files do.

    A file that is still being written changes it again; load when two polls agree.

    Raises:
        UserError: there is no such file or folder.
    """
    if name_or_path in SHIPPED:
        return name_or_path
    path = source_of(name_or_path, 0).path
    digest = hashlib.blake2b(digest_size=16)
    for name, size, modified_ns in sorted(_files(path)):
        digest.update(f"{name}\0{size}\0{modified_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, int, int]]:
    if path.is_file():
        info = path.stat()
        return [(path.name, info.st_size, info.st_mtime_ns)]
    found: list[tuple[str, int, int]] = []
    for folder, _, file_names in os.walk(path):
        for name in file_names:
            try:
                info = (Path(folder) / name).stat()
            except OSError:  # removed while we looked: the next poll sees it gone
                continue
            found.append((f"{folder}/{name}", info.st_size, info.st_mtime_ns))
    return found


def source_of(text: str, seed: int) -> Source:
    """Split what the user gave into a path that exists and options.

    Raises:
        UserError: there is no such file or folder, or the options are not written as options.
    """
    path, options = _existing(text), ""
    if path is None and "?" in text:
        head, _, options = text.rpartition("?")
        path = _existing(head)
    if path is None:
        nearest = get_close_matches(text, SHIPPED, n=1)
        raise UserError(
            f"There is no data '{text}': neither a file or folder nor a shipped name ({', '.join(SHIPPED)})."
            + (f" Did you mean '{nearest[0]}'?" if nearest else " Check the path.")
        )
    try:
        pairs = parse_qsl(options, keep_blank_values=True, strict_parsing=True) if options else []
    except ValueError:
        raise UserError(f"'{text}': data options are written ?key=value&key=value.") from None
    return Source(path, seed, dict(pairs))


def _existing(text: str) -> Path | None:
    if not text:  # Path("") would be the folder one stands in
        return None
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null character, an unknown ~user
        return None


def _adapter(path: Path) -> Callable[[Source], RawSplit]:
    if path.is_dir():
        for is_kind, adapter in (
            (idx.has_idx, idx.read_idx),
            (wav_folder.has_wav, wav_folder.read_wav_folder),
            (image_folder.has_images, image_folder.read_image_folder),
        ):
            if is_kind(path):
                return adapter
        raise UserError(
            f"{path}: holds neither idx files (train-images-idx3-ubyte) nor a folder of images or WAV files "
            "for each class. Sort them as <class>/<file> or train/<class>/<file> and test/<class>/<file>."
        )
    name = path.name.lower()
    if name.endswith(".npz"):
        return npz.read_npz
    if csv_windows.is_csv(path):
        return csv_windows.read_csv
    if idx.is_idx(path.name):
        return idx.read_idx
    raise UserError(
        f"{path}: not a kind of data edgetide reads. It reads .npz, .csv, .csv.gz, idx files, and folders of "
        "images or WAV files by class."
    )


def _checked(raw: RawSplit, name: str) -> DataSplit:
    """Turn what an adapter read into a data set, or say what is wrong with it."""
    train_labels, test_labels = checked_labels(raw.train), checked_labels(raw.test)
    num_classes = num_classes_of(raw.class_names, train_labels, test_labels)
    check_unlike(train_labels, raw.train.where)
    if raw.train.samples.shape[1:] != raw.test.samples.shape[1:]:
        raise UserError(
            f"{raw.test.where}: test samples have shape {list(raw.test.samples.shape[1:])}, training samples "
            f"{list(raw.train.samples.shape[1:])}. Bring both to one shape."
        )
    return DataSplit(
        dataset_of(raw.train, train_labels, num_classes, raw.scale, raw.offset),
        dataset_of(raw.test, test_labels, num_classes, raw.scale, raw.offset),
        name,
        raw.class_names,
    )


def num_classes_of(class_names: tuple[str, ...] | None, *labels: NDArray[np.int64]) -> int:
    """Number of classes: those with a name, and those that labels [N] show."""
    return max(len(class_names or ()), *(int(part.max()) + 1 for part in labels))


def check_unlike(labels: NDArray[np.int64], where: str) -> None:
    """Refuse labels [N] that are all the same.

    Raises:
        UserError: they are.
    """
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"{where}: every sample has label {labels[0]}; there is nothing to tell apart. "
            "Add samples of another class."
        )


def dataset_of(
    part: RawPart, labels: NDArray[np.int64], num_classes: int, scale: float = 1.0, offset: float = 0.0
) -> Dataset:
    """Make a data set of a part and its checked labels [N].

    Raises:
        UserError: the samples are no numbers, or not finite.
    """
    samples = part.samples
    if samples.dtype.kind not in "fbui":
        raise UserError(f"{part.where}: samples are {samples.dtype}, not numbers. Convert them to float32.")
    if samples.dtype not in {np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32)}:
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
            samples = samples.astype(np.float32)
    owner = None if part.owner is None else part.owner.astype(np.int64)
    try:
        return Dataset(samples, labels, num_classes, scale, offset, owner)
    except ValueError as error:
        raise UserError(f"{part.where}: {error}. Correct the file or leave these samples out.") from None


def checked_labels(part: RawPart) -> NDArray[np.int64]:
    """The labels of a part, [N].

    Raises:
        UserError: there are none, or they are no class numbers.
    """
    if len(part.samples) == 0 or len(part.labels) == 0:
        raise UserError(f"{part.where}: holds no samples. Both a training and a test part need some.")
    if part.labels.ndim != 1:
        raise UserError(
            f"{part.where}: labels have shape {list(part.labels.shape)}; give one class number a sample."
        )
    if part.labels.dtype.kind not in "biuf":
        raise UserError(f"{part.where}: labels are {part.labels.dtype}; give class numbers 0, 1, 2, …")
    if part.labels.dtype.kind == "f" and not np.array_equal(part.labels, np.floor(part.labels)):
        raise UserError(f"{part.where}: labels hold fractions or NaN; give class numbers 0, 1, 2, …")
    lowest, highest = part.labels.min(), part.labels.max()
    if lowest < 0 or highest >= MAX_CLASSES:
        raise UserError(
            f"{part.where}: labels go from {lowest} to {highest}, allowed is 0..{MAX_CLASSES - 1}. "
            "Number the classes 0, 1, 2, …"
        )
    return part.labels.astype(np.int64)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What two shapes have in common that differ in axes of length 1 only."""
    return tuple(length for length in shape if length != 1)
