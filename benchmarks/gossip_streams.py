"""Streams of the gossip study, by name and seed."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gossip_fleet import Network, NodeStream
from benchmarks.gossip_images import image_features
from benchmarks.prepare_data import PARTS_PER_SPEAKER
from firmware_profiles.errors import UserError
from models.subnet import Array, Indices

PERIOD_S = 0.1
"""Between two samples of a node. All nodes have theirs at almost the same time: nobody is told the future."""

ELEC_FILE = "elec/elec.csv.gz"
DIGITS_FILE = "digits.npz"

ELEC_WINDOW, ELEC_FIRST = 4000, 5000
"""A seed is a window of so many samples; those before the first were looked at while settings were chosen."""

LOSSLESS = Network()

ROTATION = 500
"""Samples of a node, in which both classes turn once around."""


@dataclass(frozen=True)
class Site:
    """A fleet and what it sees.

    Attributes:
        streams: one a node. num_classes: of all.
        judged: nodes whose predictions count: all but liars.
    """

    streams: tuple[NodeStream, ...]
    num_classes: int
    judged: tuple[int, ...]

    def cut(self, most: int | None) -> Site:
        """The first samples of each node; None: all."""
        rows = slice(most)
        streams = (
            replace(one, vectors=one.vectors[rows], labels=one.labels[rows], times_s=one.times_s[rows])
            for one in self.streams
        )
        return replace(self, streams=tuple(streams))

    def in_ranges(self) -> Site:
        """All features from 0 to 1, by the ranges of all nodes' samples; those that are stay as they are."""
        every = np.concatenate([one.vectors for one in self.streams])
        low, high = every.min(axis=0), every.max(axis=0)
        keeps = (low >= 0.0) & (high <= 1.0)
        low, widths = np.where(keeps, 0.0, low), np.where(keeps, 1.0, high - low)
        return replace(
            self,
            streams=tuple(
                replace(one, vectors=((one.vectors - low) / widths).astype(np.float32))
                for one in self.streams
            ),
        )


def _site(parts: list[tuple[Array, Indices]], num_classes: int, delay: int = 0) -> Site:
    streams = tuple(
        NodeStream(x, y, np.arange(len(y), dtype=np.float64) * PERIOD_S + index * 1e-4, delay)
        for index, (x, y) in enumerate(parts)
    )
    return Site(streams, num_classes, tuple(range(len(streams))))


def read_elec(folder: Path) -> tuple[Array, Indices]:
    """Elec2 in time order: float32 [45312, 6] and classes, 1 for UP.

    Raises:
        UserError: the file is not there.

    References:
        Harries, SPLICE-2 comparative evaluation: electricity pricing, UNSW, 1999.
    """
    path = folder / ELEC_FILE
    if not path.exists():
        raise UserError(f"{path} is not there: say by --data where Elec2 is, or leave its streams out")
    with gzip.open(path, "rt", newline="") as file:
        rows = [row for row in csv.reader(file) if _is_number(row[0])]
    names = sorted({row[-1] for row in rows})
    x = np.array([[float(cell) for cell in row[:-1]] for row in rows], np.float32)
    return x, np.array([names.index(row[-1]) for row in rows], np.int64)


def elec(folder: Path, num_nodes: int, seed: int, delay: int = 0) -> Site:
    """A window of the stream, dealt out sample by sample."""
    x, y = read_elec(folder)
    rows = np.arange(ELEC_FIRST + seed * ELEC_WINDOW, ELEC_FIRST + (seed + 1) * ELEC_WINDOW)
    if rows[-1] >= len(y):
        raise UserError(f"Elec2 has windows for seeds 0 to {(len(y) - ELEC_FIRST) // ELEC_WINDOW - 1}")
    return _site(
        [(x[rows[index::num_nodes]], y[rows[index::num_nodes]]) for index in range(num_nodes)], 2, delay
    )


def elec_first(folder: Path, num_nodes: int, seed: int) -> Site:
    """The first 5000 samples, as in the paper; the seed draws nothing of the stream."""
    del seed
    x, y = read_elec(folder)
    return _site([(x[index:5000:num_nodes], y[index:5000:num_nodes]) for index in range(num_nodes)], 2)


def elec_blocks(folder: Path, num_nodes: int, seed: int) -> Site:
    """A block of 9000 following samples for each of five nodes; the seed draws nothing of the stream."""
    del seed
    x, y = read_elec(folder)
    size = len(y) // num_nodes // 1000 * 1000
    return _site([(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]) for i in range(num_nodes)], 2)


def elec_flipped(folder: Path, num_nodes: int, seed: int) -> Site:
    """As `elec`, but one node's labels are all wrong; it is not judged."""
    site = elec(folder, num_nodes, seed)
    liar = replace(site.streams[0], labels=1 - site.streams[0].labels)
    return Site((liar, *site.streams[1:]), 2, tuple(range(1, num_nodes)))


def rotation(folder: Path, num_nodes: int, seed: int, apart: float = 0.0) -> Site:
    """Two Gaussians (standard deviation 0.7, Bayes accuracy 0.923) that turn once around, steadily.

    Args:
        folder: of no use.
        num_nodes: of the fleet.
        seed: of the samples.
        apart: turns between one node's phase and the next one's.
    """
    del folder
    parts = []
    for node in range(num_nodes):
        rng = np.random.default_rng((seed, node))
        y = rng.integers(0, 2, ROTATION)
        angle = 2 * np.pi * (np.arange(ROTATION) / ROTATION + apart * node)
        centres = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (2 * y - 1)[:, None]
        parts.append(((centres + rng.normal(0, 0.7, (ROTATION, 2))).astype(np.float32), y))
    return _site(parts, 2)


def digits(folder: Path, num_nodes: int, seed: int) -> Site:
    """Spoken digits, a speaker a node: 8 bands x 4 parts of the time, in an order that the seed draws.

    Raises:
        UserError: the file is not there, or there are fewer speakers than nodes.
    """
    path = folder / DIGITS_FILE
    if not path.exists():
        raise UserError(f"{path} is not there: benchmarks.prepare_data makes it")
    with np.load(path) as found:
        x, y = found["x_train"], found["y_train"].astype(np.int64)
        speaker = found["owner_train"] // PARTS_PER_SPEAKER
    bands = x[:, :, :44].reshape(len(x), 8, 4, 4, 11).mean(axis=(2, 4)).reshape(len(x), 32)
    rng, parts = np.random.default_rng(seed), []
    for one in rng.permutation(6)[:num_nodes]:
        rows = rng.permutation(np.flatnonzero(speaker == one))
        parts.append((bands[rows].astype(np.float32), y[rows]))
    if len(parts) < num_nodes:
        raise UserError(f"there are 6 speakers, {num_nodes} nodes were asked for")
    return _site(parts, 10)


def images(folder: Path, num_nodes: int, seed: int) -> Site:
    """What a network makes of images of classes that it never learned, in an order that the seed draws."""
    del folder
    x, y = image_features()
    order = np.random.default_rng(seed).permutation(len(y))
    return _site([(x[order[index::num_nodes]], y[order[index::num_nodes]]) for index in range(num_nodes)], 5)


@dataclass(frozen=True)
class StreamKind:
    """How a stream of the study is made.

    Attributes:
        make: (folder, nodes, seed) -> the site. num_nodes: of it. has_seeds: there is more than one of it.
        network: between its nodes.
    """

    make: Callable[[Path, int, int], Site]
    num_nodes: int = 5
    has_seeds: bool = True
    network: Network = LOSSLESS


STREAMS: dict[str, StreamKind] = {
    "elec first": StreamKind(elec_first, has_seeds=False),
    "elec blocks": StreamKind(elec_blocks, has_seeds=False),
    "elec": StreamKind(elec),
    "elec, 30 % lost": StreamKind(elec, network=Network(loss_fraction=0.3)),
    "elec, 20 nodes": StreamKind(elec, num_nodes=20),
    "elec, a day late": StreamKind(lambda folder, nodes, seed: elec(folder, nodes, seed, delay=10)),
    "elec, one flipped": StreamKind(elec_flipped),
    "rotation": StreamKind(rotation),
    "rotation, 20 nodes": StreamKind(rotation, num_nodes=20),
    "rotation, phases apart": StreamKind(lambda folder, nodes, seed: rotation(folder, nodes, seed, 0.2)),
    "rotation, opposed": StreamKind(lambda folder, nodes, seed: rotation(folder, nodes, seed, 0.5)),
    "digits": StreamKind(digits),
    "images": StreamKind(images),
}
"""A day is 48 half-hours: of five nodes that share them each has seen about ten samples more."""


def to_arrays(site: Site) -> dict[str, NDArray[np.generic]]:
    """For a worker that knows nothing of this project."""
    arrays: dict[str, NDArray[np.generic]] = {"num_classes": np.array(site.num_classes)}
    for index, stream in enumerate(site.streams):
        arrays[f"x{index}"], arrays[f"y{index}"] = stream.vectors, stream.labels
        arrays[f"delay{index}"] = np.array(stream.label_delay)
    return arrays


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
