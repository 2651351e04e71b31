"""Warm starts: networks that have learned a little, which all measurements share.

They are in the state of a fleet in mid-training: made by rounds whose devices train sub-networks of several
widths and are averaged. That matters more than anything else here. Weights of one device alone jump about, so
that any averaging gains accuracy, whatever is trained; and a network that was only ever trained whole is
thrown back by the first sub-networks of any width.

Warm starts follow from the settings alone, so any worker makes the same ones; those of one machine share a
folder, and a digest tells a machine that computes something else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dse.objectives import Bench, WarmStart, fleet_round, held_out_accuracy, seed_of
from firmware_profiles.errors import PeerError, UserError
from models.subnet import Array, DropoutVector, uniform_vector
from models.weights import check_against, digest, load, save

WARM_FRACTIONS = (0.35, 0.5, 0.75, 1.0)
"""Uniform keep fractions of warm training, drawn evenly for each mini-batch."""


def warm_starts(
    bench: Bench,
    repeats: Sequence[int],
    folder: Path | None = None,
    key: str = "",
    on_repeat: Callable[[int], None] = lambda _num_done: None,
) -> list[WarmStart]:
    """Train the network from its initial weights, or read what was trained before.

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
    """The weights at each stage of one training from the initial weights."""
    settings = bench.settings
    vectors = [uniform_vector(bench.plan, fraction) for fraction in WARM_FRACTIONS]

    def any_width(seed: int, step: int) -> DropoutVector:
        return vectors[seed_of(seed, step) % len(vectors)]

    weights = dict(bench.initial)
    at_stages: list[dict[str, Array]] = []
    num_done, num_rounds = 0, 0
    for stage in settings.stages:
        while num_done < stage:
            num_steps = min(settings.num_steps, stage - num_done)
            about = ("warm", repeat, num_rounds)
            weights = fleet_round(bench, weights, any_width, num_steps, about, num_rounds + 1)
            num_done, num_rounds = num_done + num_steps, num_rounds + 1
        at_stages.append(weights)
    return at_stages


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
