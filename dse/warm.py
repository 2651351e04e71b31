"""Warm starts: networks that have learned a little, which all measurements share.

A warm start is the mean of the weights over the last mini-batches. Those after a single mini-batch jump about, and
averaging devices would then gain accuracy whatever they train: vectors that do no good would seem to do some.

Warm starts follow from the settings alone, so any worker makes the same ones; those of one machine share a folder,
and a digest tells a machine that computes something else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dse.objectives import Bench, held_out_accuracy, seed_of, train
from firmware_profiles.errors import PeerError, UserError
from models.subnet import Array, full_vector
from models.weights import check_against, digest, load, save


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A network that has learned a little.

    References:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control and
        Optimization 30(4), 1992: the average of the last iterates is steadier than the last one.

    Attributes:
        weights: float32, never changed.
        accuracy: on the held-out samples, a fraction.
        stage: index of its stage.
        repeat: which of the independent trainings it comes from.
    """

    weights: Mapping[str, Array]
    accuracy: float
    stage: int
    repeat: int


def warm_starts(
    bench: Bench,
    repeats: Sequence[int],
    folder: Path | None = None,
    key: str = "",
    on_repeat: Callable[[int], None] = lambda _num_done: None,
) -> list[WarmStart]:
    """Train the full network from its initial weights, or read what was trained before.

    Args:
        bench: what is measured on.
        repeats: independent trainings.
        folder: where they are kept, None for nowhere.
        key: names what they follow from.
        on_repeat: told how many trainings are done.

    Returns:
        One for each repeat and stage, by repeat, then by stage.
    """
    starts: list[WarmStart] = []
    for num_done, repeat in enumerate(repeats):
        on_repeat(num_done)
        paths = [_path(folder, key, bench, repeat, steps) for steps in bench.settings.stages]
        kept = [_read(bench, path) for path in paths]
        weights = [one for one in kept if one is not None]
        if len(weights) < len(paths):
            weights = list(_train(bench, repeat))
            for path, trained in zip(paths, weights, strict=True):
                _write(path, trained)
        starts += [
            WarmStart(values, held_out_accuracy(bench, values), stage, repeat)
            for stage, values in enumerate(weights)
        ]
    on_repeat(len(repeats))
    return starts


def checksum(starts: Sequence[WarmStart]) -> str:
    """A digest of all weights, in order: machines of one study must have the same."""
    return hashlib.sha256("".join(digest(start.weights) for start in starts).encode()).hexdigest()[:16]


def _train(bench: Bench, repeat: int) -> list[dict[str, Array]]:
    settings = bench.settings
    seed = seed_of(settings.seed, repeat, "warm")
    full = full_vector(bench.plan)
    return train(bench, bench.initial, full, settings.stages, seed, num_averaged=settings.num_steps)


def _path(folder: Path | None, key: str, bench: Bench, repeat: int, steps: int) -> Path | None:
    if folder is None:
        return None
    follows_from = f"{key} {digest(bench.initial)} {repeat} {steps}"
    return folder / f"{hashlib.sha256(follows_from.encode()).hexdigest()[:24]}.safetensors"


def _read(bench: Bench, path: Path | None) -> dict[str, Array] | None:
    """What is kept there; a file that is damaged or missing is made anew."""
    if path is None or not path.is_file():
        return None
    try:
        weights = load(path)
        check_against(weights, bench.graph.parameters)
    except (UserError, PeerError):
        return None
    return weights


def _write(path: Path | None, weights: Mapping[str, Array]) -> None:
    """Keep it if that can be done: without it every worker trains its own."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, weights)
