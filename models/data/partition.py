"""Partitions: which device gets which samples."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.dataset import Dataset

Parts = list[NDArray[np.int64]]

MIN_SAMPLES = 2
"""A Dirichlet draw leaves no device with fewer samples than this."""


def partition(dataset: Dataset, scheme: str, num_devices: int, seed: int) -> Parts:
    """Give every sample to exactly one device; no device stays empty.

    Args:
        dataset: what is shared out.
        scheme: `iid`, `dirichlet:ALPHA` (label skew; small is skewed), `shards:K` (K runs of one label
            for each device), `owner` (the owners' samples stay together).
        num_devices: 1 or more.
        seed: decides every draw.

    Returns:
        For each device its sample indices, int64, ascending.

    Raises:
        UserError: the scheme is unknown or cannot serve that many devices.
    """
    name, _, argument = scheme.partition(":")
    if name not in _SCHEMES:
        nearest = get_close_matches(name, _SCHEMES, n=1)
        raise UserError(
            f"Unknown partition '{scheme}'"
            + (f", did you mean '{nearest[0]}'?" if nearest else ".")
            + " Give iid, dirichlet:ALPHA, shards:K or owner."
        )
    if num_devices < 1 or len(dataset) < num_devices * (MIN_SAMPLES if name == "dirichlet" else 1):
        raise UserError(
            f"{len(dataset)} samples cannot be shared out to {num_devices} devices by '{scheme}'. "
            "Use fewer devices or more data."
        )
    parts = _SCHEMES[name](dataset, argument, num_devices, np.random.default_rng(seed))
    return [np.sort(part).astype(np.int64) for part in parts]


def _iid(dataset: Dataset, argument: str, num_devices: int, rng: np.random.Generator) -> Parts:
    _no_argument("iid", argument)
    return np.array_split(rng.permutation(len(dataset)), num_devices)


def _dirichlet(dataset: Dataset, argument: str, num_devices: int, rng: np.random.Generator) -> Parts:
    """Each class is shared out in proportions drawn from Dir(alpha).

    References:
        Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual
        classification", arXiv 1909.06335 (there per device; per class is the common variant).
    """
    alpha = _float(argument)
    if alpha is None or not 1e-3 <= alpha <= 1e6:
        raise UserError(f"dirichlet:{argument}: give an alpha from 0.001 to 1000000, such as dirichlet:0.3.")
    piles: list[list[int]] = [[] for _ in range(num_devices)]
    for label in np.unique(dataset.labels):
        members = rng.permutation(np.flatnonzero(dataset.labels == label))
        shares = rng.dirichlet(np.full(num_devices, alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for pile, piece in zip(piles, np.split(members, ends), strict=True):
            pile.extend(piece.tolist())
    for pile in piles:  # small alphas leave some devices with nothing: the largest give
        while len(pile) < MIN_SAMPLES:
            largest = max(piles, key=len)
            pile.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.array(pile, np.int64) for pile in piles]


def _shards(dataset: Dataset, argument: str, num_devices: int, rng: np.random.Generator) -> Parts:
    """Samples sorted by label are cut into equal runs; each device gets `k` of them.

    References:
        McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
        arXiv 1602.05629, section 3.
    """
    most = len(dataset) // num_devices
    if not argument.isdecimal() or not 1 <= int(argument[:9]) <= most:
        raise UserError(f"shards:{argument}: give a whole number from 1 to {most}, such as shards:2.")
    per_device = int(argument)
    shuffled = rng.permutation(len(dataset))
    by_label = shuffled[np.argsort(dataset.labels[shuffled], kind="stable")]
    runs = np.array_split(by_label, num_devices * per_device)
    dealt = rng.permutation(len(runs)).reshape(num_devices, per_device)
    return [np.concatenate([runs[run] for run in mine]) for mine in dealt]


def _by_owner(dataset: Dataset, argument: str, num_devices: int, rng: np.random.Generator) -> Parts:
    _no_argument("owner", argument)
    if dataset.owner is None:
        raise UserError(
            "This data set does not say who owns its samples. Use iid, dirichlet:0.3 or shards:2."
        )
    owners, sizes = np.unique(dataset.owner, return_counts=True)
    if len(owners) < num_devices:
        raise UserError(
            f"{len(owners)} owners cannot be shared out to {num_devices} devices. Use fewer devices."
        )
    order = rng.permutation(len(owners))
    loads = np.zeros(num_devices, np.int64)
    device_of: dict[int, int] = {}
    for index in order[np.argsort(-sizes[order], kind="stable")]:  # largest first, to the least loaded
        device = int(np.argmin(loads))
        loads[device] += sizes[index]
        device_of[int(owners[index])] = device
    devices = np.array([device_of[int(owner)] for owner in dataset.owner])
    return [np.flatnonzero(devices == device) for device in range(num_devices)]


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise UserError(f"{name}:{argument}: '{name}' takes no argument.")


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_SCHEMES: dict[str, Callable[[Dataset, str, int, np.random.Generator], Parts]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
    "owner": _by_owner,
}
