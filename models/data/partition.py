"""Partitions: which device gets which samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.dataset import Dataset

Parts = list[NDArray[np.int64]]
Weights = NDArray[np.float64]
"""[num_devices]: how much of the whole each device ought to get, relative to the others."""

MIN_SAMPLES = 2
"""A Dirichlet draw leaves no device with fewer samples than this."""


def partition(dataset: Dataset, scheme: str, num_devices: int, seed: int) -> Parts:
    """Give every sample to exactly one device; no device stays empty.

    Args:
        dataset: what is shared out.
        scheme: `iid`, `dirichlet:ALPHA` (label skew; small is skewed), `shards:K` (K runs of one label
            for each device), `classes:K` (samples of exactly K classes for each device), `owner` (the
            owners' samples stay together).
        num_devices: 1 or more.
        seed: decides every draw.

    Returns:
        For each device its sample indices, int64, ascending.

    Raises:
        UserError: the scheme is unknown or cannot serve that many devices.
    """
    parts = _share_out(dataset, scheme, np.ones(max(num_devices, 0)), seed)
    return [np.sort(part).astype(np.int64) for part in parts]


def partition_by_labels(
    dataset: Dataset, scheme: str, labels: Sequence[Sequence[int] | None], seed: int
) -> Parts:
    """As `partition`, with labels of which some devices hold all samples.

    Samples of a label that devices list are shared out by the scheme among these alone, all others among
    all devices, so that every device comes as near to the same number of samples as it can. In a
    Dirichlet draw that makes a device's parameter `alpha` times the share it ought to get.

    Args:
        dataset: what is shared out.
        scheme: see `partition`; not `owner`, whose samples stay together.
        labels: for each device those it lists, or None.
        seed: decides every draw.

    Returns:
        For each device its sample indices, int64, ascending.

    Raises:
        UserError: as `partition`; a listed label has no samples, or nothing is left for some device.
    """
    if not any(labels):
        return partition(dataset, scheme, len(labels), seed)
    if scheme.partition(":")[0] == "owner":
        raise UserError("labels go with the partitions iid, dirichlet:ALPHA and shards:K, not with owner.")
    parts: list[list[NDArray[np.int64]]] = [[] for _ in labels]
    for number, (members, samples) in enumerate(_pools(dataset, labels)):
        sizes = np.array([sum(map(len, parts[device])) for device in members])
        devices, weights = _levelled(np.array(members), sizes, len(samples))
        shared = _share_out(dataset.take(samples), scheme, weights, (seed, number))
        for device, part in zip(devices, shared, strict=True):
            parts[device].append(samples[part])
    poor = next((device for device, part in enumerate(parts) if not part), None)
    if poor is not None:
        raise UserError(
            f"device {poor + 1} of {len(labels)} gets no samples: others list every label that has any. "
            "List fewer labels, or some for all devices."
        )
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


def _pools(
    dataset: Dataset, labels: Sequence[Sequence[int] | None]
) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """(devices, samples) of labels that the same devices list; last what nobody lists, for all devices."""
    holders: dict[int, tuple[int, ...]] = {}
    for label in sorted({label for listed in labels for label in listed or ()}):
        holders[label] = tuple(index for index, listed in enumerate(labels) if label in (listed or ()))
        if not np.any(dataset.labels == label):
            raise UserError(f"label {label} is listed, and the data has no sample of it.")
    pools = [
        (
            members,
            np.flatnonzero(np.isin(dataset.labels, [one for one in holders if holders[one] == members])),
        )
        for members in dict.fromkeys(holders.values())
    ]
    rest = np.flatnonzero(~np.isin(dataset.labels, list(holders)))
    return [*pools, (tuple(range(len(labels))), rest)] if len(rest) else pools


def _levelled(
    members: NDArray[np.int64], sizes: NDArray[np.int64], num_samples: int
) -> tuple[NDArray[np.int64], Weights]:
    """Who gets how much of a pool, so that the members' sizes come as level as they can.

    Those with nothing yet always take part, others where the level leaves them at least MIN_SAMPLES.
    """
    order = np.argsort(sizes, kind="stable")
    rising = sizes[order]
    counts = np.arange(1, len(rising) + 1)
    levels = (num_samples + np.cumsum(rising)) / counts  # if the first 1, 2, … members share it
    takes_part = (rising == 0) | (levels - rising >= MIN_SAMPLES)
    last = int(np.flatnonzero(takes_part)[-1]) if takes_part.any() else 0
    chosen = np.sort(order[: last + 1])
    missing = np.maximum(levels[last] - sizes[chosen], 1e-3)
    return members[chosen], missing / missing.mean()


def _share_out(dataset: Dataset, scheme: str, weights: Weights, seed: int | tuple[int, ...]) -> Parts:
    num_devices = len(weights)
    name, _, argument = scheme.partition(":")
    if name not in _SCHEMES:
        nearest = get_close_matches(name, _SCHEMES, n=1)
        raise UserError(
            f"Unknown partition '{scheme}'"
            + (f", did you mean '{nearest[0]}'?" if nearest else ".")
            + " Give iid, dirichlet:ALPHA, shards:K, classes:K or owner."
        )
    if num_devices < 1 or len(dataset) < num_devices * (MIN_SAMPLES if name == "dirichlet" else 1):
        raise UserError(
            f"{len(dataset)} samples cannot be shared out to {num_devices} devices by '{scheme}'. "
            "Use fewer devices or more data."
        )
    return _SCHEMES[name](dataset, argument, weights, np.random.default_rng(seed))


def _sizes(weights: Weights, num_samples: int) -> NDArray[np.int64]:
    """Whole numbers in the weights' proportions, by largest remainder; none of them 0 if there are enough."""
    exact = weights * (num_samples / weights.sum())
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    remainders = np.argsort(-(exact - sizes).round(9), kind="stable")
    sizes[remainders[: num_samples - sizes.sum()]] += 1
    for empty in np.flatnonzero(sizes == 0):
        if (largest := int(np.argmax(sizes))) != empty and sizes[largest] > 1:
            sizes[largest] -= 1
            sizes[empty] += 1
    return sizes


def _cut(items: NDArray[np.int64], sizes: NDArray[np.int64]) -> Parts:
    return np.split(items, np.cumsum(sizes)[:-1])


def _iid(dataset: Dataset, argument: str, weights: Weights, rng: np.random.Generator) -> Parts:
    _no_argument("iid", argument)
    return _cut(rng.permutation(len(dataset)), _sizes(weights, len(dataset)))


def _dirichlet(dataset: Dataset, argument: str, weights: Weights, rng: np.random.Generator) -> Parts:
    """Each class is shared out in proportions drawn from Dir(alpha).

    References:
        Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual
        classification", arXiv 1909.06335 (there per device; per class is the common variant).
    """
    alpha = _float(argument)
    if alpha is None or not 1e-3 <= alpha <= 1e6:
        raise UserError(
            f"partition 'dirichlet:{argument}': give an alpha from 0.001 to 1000000, such as dirichlet:0.3."
        )
    piles: list[list[int]] = [[] for _ in weights]
    for label in np.unique(dataset.labels):
        members = rng.permutation(np.flatnonzero(dataset.labels == label))
        shares = rng.dirichlet(alpha * weights)
        ends = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for pile, piece in zip(piles, np.split(members, ends), strict=True):
            pile.extend(piece.tolist())
    for pile in piles:  # small alphas leave some devices with nothing: the largest give
        while len(pile) < MIN_SAMPLES:
            largest = max(piles, key=len)
            pile.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.array(pile, np.int64) for pile in piles]


def _shards(dataset: Dataset, argument: str, weights: Weights, rng: np.random.Generator) -> Parts:
    """Samples sorted by label are cut into equal runs; each device gets `k` of them.

    References:
        McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
        arXiv 1602.05629, section 3.
    """
    most = len(dataset) // len(weights)
    if not argument.isdecimal() or not 1 <= int(argument[:9]) <= most:
        raise UserError(
            f"partition 'shards:{argument}': give a whole number from 1 to {most}, such as shards:2."
        )
    per_device = int(argument)
    shuffled = rng.permutation(len(dataset))
    by_label = shuffled[np.argsort(dataset.labels[shuffled], kind="stable")]
    dealt = rng.permutation(len(weights) * per_device).reshape(len(weights), per_device)
    of_runs = np.empty(dealt.size)
    of_runs[dealt] = weights[:, None]
    runs = _cut(by_label, _sizes(of_runs, len(dataset)))
    return [np.concatenate([runs[run] for run in mine]) for mine in dealt]


def _classes(dataset: Dataset, argument: str, weights: Weights, rng: np.random.Generator) -> Parts:
    """Each device holds samples of exactly `k` classes; a class is dealt among those that hold it.

    The classes are held by as nearly the same number of devices as it goes.
    """
    labels, of_label = np.unique(dataset.labels, return_counts=True)
    if not argument.isdecimal() or not 1 <= int(argument[:9]) <= len(labels):
        raise UserError(
            f"partition 'classes:{argument}': give a whole number from 1 to {len(labels)}, such as classes:2."
        )
    held = np.zeros((len(weights), len(labels)), bool)
    for device in range(len(weights)):
        rarest = np.lexsort((rng.random(len(labels)), held.sum(axis=0)))
        held[device, rarest[: int(argument)]] = True
    holders = held.sum(axis=0)
    if not holders.all():
        raise UserError(
            f"partition 'classes:{argument}': {len(weights)} devices hold {int(argument) * len(weights)} "
            f"classes in all, the data has {len(labels)}. Give more classes or more devices."
        )
    if (poor := np.flatnonzero(holders > of_label)).size:
        raise UserError(
            f"partition 'classes:{argument}': {holders[poor[0]]} devices hold class {labels[poor[0]]}, "
            f"which has {of_label[poor[0]]} samples. Use fewer devices or more data."
        )
    parts: list[list[NDArray[np.int64]]] = [[] for _ in weights]
    for index, label in enumerate(labels):
        members = np.flatnonzero(held[:, index])
        samples = rng.permutation(np.flatnonzero(dataset.labels == label))
        for device, part in zip(members, _cut(samples, _sizes(weights[members], len(samples))), strict=True):
            parts[device].append(part)
    return [np.concatenate(part) for part in parts]


def _by_owner(dataset: Dataset, argument: str, weights: Weights, rng: np.random.Generator) -> Parts:
    num_devices = len(weights)
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
        raise UserError(f"partition '{name}:{argument}': '{name}' takes no argument.")


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_SCHEMES: dict[str, Callable[[Dataset, str, Weights, np.random.Generator], Parts]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
    "classes": _classes,
    "owner": _by_owner,
}
