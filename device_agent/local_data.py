"""The device's own samples: a data set or its shard, loaded again when the files change."""

from __future__ import annotations

import re
from dataclasses import dataclass

from firmware_profiles.errors import UserError
from models.data.dataset import Dataset, fingerprint, load_data
from models.data.live import empty_dataset, parse_live
from models.data.partition import partition


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which samples belong to this device.

    Attributes:
        source: name or path, as `models.data.dataset.load_data` takes it, or a live source, as
            `models.data.live.parse_live` does.
        shard: (index, count): this device's part of `count` parts, or None for all samples. A live source is
            each device's own, whole.
        scheme: how the parts are made, such as "iid", "dirichlet:0.3", "shards:2", "owner".
        seed: decides the split and the parts.
    """

    source: str
    shard: tuple[int, int] | None = None
    scheme: str = "iid"
    seed: int = 0


def parse_shard(text: str) -> tuple[int, int]:
    """Parse "2/4" (the third of four parts).

    Raises:
        UserError: it is not INDEX/COUNT with 0 <= INDEX < COUNT.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard {text!r} is not INDEX/COUNT with 0 <= INDEX < COUNT, such as 0/4")
    return int(found[1]), int(found[2])


class LocalData:
    """Loads the samples, and again when `refresh` finds the files changed.

    `release`, `refresh` and what is told of the data belong to one thread; `dataset` may be read on another.

    Args:
        config: which samples.

    Attributes:
        live: where samples come from while they are made; None: they are stored.
        num_samples, shape, num_classes: of the data set when it was loaded last.

    Raises:
        UserError: they cannot be loaded.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self.live = parse_live(config.source)
        self._loaded = self._last_seen = "" if self.live else fingerprint(config.source)
        self._dataset: Dataset | None = self._load()
        self.num_samples, self.shape, self.num_classes = _facts(self._dataset)

    @property
    def dataset(self) -> Dataset:
        """The training samples at this moment; of a live source none, for ever.

        Raises:
            UserError: they were released, and cannot be loaded any more.
        """
        dataset = self._dataset
        if dataset is None:
            dataset = self._dataset = self._load()
        return dataset

    def release(self) -> None:
        """Free their memory until they are asked for: a stream reads the files itself, without scaling."""
        if not self.live:
            self._dataset = None

    def refresh(self) -> bool:
        """Load again if the files changed and have come to rest; returns whether they did.

        Files that are still being copied look different at each call: they are waited for. Samples that were
        released are counted anew, and stay released.

        Raises:
            UserError: the changed files cannot be loaded; samples that are in memory stay as they were.
        """
        if self.live:
            return False
        last, self._last_seen = self._last_seen, fingerprint(self._config.source)
        if self._last_seen == self._loaded or self._last_seen != last:
            return False
        self._loaded = self._last_seen
        dataset = self._load()
        self.num_samples, self.shape, self.num_classes = _facts(dataset)
        if self._dataset is not None:
            self._dataset = dataset
        return True

    def _load(self) -> Dataset:
        return empty_dataset(self.live) if self.live else _training_samples(self._config)


def _facts(dataset: Dataset) -> tuple[int, tuple[int, ...], int]:
    return len(dataset), dataset.shape, dataset.num_classes


def _training_samples(config: DataConfig) -> Dataset:
    train = load_data(config.source, config.seed).train
    if config.shard is None:
        return train
    index, count = config.shard
    return train.take(partition(train, config.scheme, count, config.seed)[index])
