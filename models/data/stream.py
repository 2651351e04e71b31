"""Stored data as a stream: everything in time order, nothing held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firmware_profiles.errors import UserError
from models.data.csv_windows import is_csv, read_csv_stream
from models.data.dataset import (
    SHIPPED,
    Dataset,
    DataSplit,
    check_unlike,
    checked_labels,
    dataset_of,
    load_data,
    num_classes_of,
    reading,
    source_of,
)
from models.data.raw import Source
from models.prototypes.scaling import LARGEST


@dataclass(frozen=True, eq=False)
class StoredStream:
    """A data set to be gone through once, each sample predicted before it is learned.

    Attributes:
        dataset: all samples in the order of time; inputs are `samples * scale + offset`.
        label_delay: own samples that come before a sample's label; 0: it comes with its sample.
        class_names: a name for each class, or None where they are numbers.
    """

    dataset: Dataset
    label_delay: int = 0
    class_names: tuple[str, ...] | None = None


def load_stream(name_or_path: str, seed: int = 0) -> StoredStream:
    """Load stored data as a stream.

    A CSV file gives all its rows in its own units: what a learner scales by, it must find on the way, for
    moments of the whole would tell it of the future. Any other kind gives its training part, then its
    test part.

    Args:
        name_or_path: as `models.data.dataset.load_data` takes it; of a CSV file the option `delay=N` says
            how many samples of a device come before a sample's label, and `test=` is refused.
        seed: decides the order of the parts where the source has none of its own.

    Raises:
        UserError: it is not there, cannot be read, or is no usable stream.
    """
    if name_or_path not in SHIPPED:
        source = source_of(name_or_path, seed)
        if source.path.is_file() and is_csv(source.path):
            return _csv(source)
    data = load_data(name_or_path, seed)
    return StoredStream(_joined(data), class_names=data.class_names)


def _csv(source: Source) -> StoredStream:
    with reading(source.path):
        read = read_csv_stream(source)
    labels = checked_labels(read.part)
    check_unlike(labels, read.part.where)
    dataset = dataset_of(read.part, labels, num_classes_of(read.class_names, labels))
    for start in range(0, len(dataset), 1024):  # in blocks: no second copy of the data
        if np.abs(dataset.samples[start : start + 1024]).max() > LARGEST:
            raise UserError(
                f"{source.path}: one of the samples from {start} on holds a value beyond {LARGEST:g}, which "
                "no learner of streams takes. Give it in a larger unit, or correct it."
            )
    return StoredStream(dataset, read.label_delay, read.class_names)


def _joined(data: DataSplit) -> Dataset:
    """Both parts, one after the other; owners only where all samples have one."""
    train, test = data.train, data.test
    owner = None
    if train.owner is not None and test.owner is not None:
        owner = np.concatenate([train.owner, test.owner])
    return Dataset(
        np.concatenate([train.samples, test.samples]),
        np.concatenate([train.labels, test.labels]),
        train.num_classes,
        train.scale,
        train.offset,
        owner,
    )
