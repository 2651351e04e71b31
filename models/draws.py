"""Which channels a vector keeps: random, ordered, rolling, or by importance.

A draw depends on portable arithmetic only (raw words of a Philox counter, integers), so that a coordinator
with other libraries replays what a device trained.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from models.random_draw import RandomDraw
from models.subnet import Array, DropoutVector, Indices, Subnet, check_vector, ordered_subnet
from models.subnet_settings import SubnetSettings
from models.widths import WidthPlan

Draw = Callable[[DropoutVector, int], Subnet]
"""(vector, mini-batch of the order) -> the sub-network."""

_LARGEST = 2.0**7  # of a weight's magnitude; more counts as this
_UNITS = 2.0**30  # of a squared weight, so that sums are those of integers


def make_draw(
    settings: SubnetSettings,
    plan: WidthPlan,
    *,
    seed: int,
    round_number: int,
    weights: Mapping[str, Array] | None,
) -> Draw:
    """Make the draw of one order.

    Args:
        settings: the method's.
        plan: the width groups.
        seed: of the order, 0 <= seed < 2**64.
        round_number: of the order, 1 or more.
        weights: full tensors at the order's start; only `importance` reads them, once.

    Raises:
        ValueError: `importance` was given no weights.
    """
    if settings.draw == "ordered":
        return _of_vector(lambda vector: ordered_subnet(plan, vector))
    if settings.draw == "rolling":
        return _of_vector(lambda vector: rolling_subnet(plan, vector, round_number))
    if settings.draw == "importance":
        if weights is None:
            raise ValueError("a draw by importance wants the weights that the order starts from")
        ranking = importance_ranking(plan, weights)
        return _of_vector(lambda vector: _first_of(plan, vector, ranking))

    draw: Draw = RandomDraw(plan, seed)
    if settings.core_fraction:
        draw = partial(_core_draw, plan, seed, settings.core_fraction)
    return _of_vector(lambda vector: draw(vector, 0)) if settings.draw == "random-per-order" else draw


def _of_vector(subnet: Callable[[DropoutVector], Subnet]) -> Draw:
    """A draw that is the same at every mini-batch; what cuts work out of a sub-network is kept with it."""
    known = functools.cache(subnet)
    return lambda vector, _step: known(vector)


def _core_draw(plan: WidthPlan, seed: int, core_fraction: float, vector: DropoutVector, step: int) -> Subnet:
    return core_sample(plan, vector, seed, step, core_fraction)


def portable_fraction(purpose: str, seed: int, step: int) -> float:
    """A number in [0, 1) that is the same everywhere, evenly drawn over seeds and steps.

    Args:
        purpose: numbers of different purposes are independent.
        seed: of the order.
        step: mini-batch of the order.
    """
    word = hashlib.sha256(f"{purpose}/{seed}/{step}".encode()).digest()
    return (int.from_bytes(word[:8], "big") >> 11) * 2.0**-53


def rolling_subnet(plan: WidthPlan, vector: DropoutVector, round_number: int) -> Subnet:
    """Keep a window of channels that moves on by one a round and wraps round.

    References:
        Alam et al., FedRolex, NeurIPS 2022, arXiv 2212.01548: in round j a client keeps the channels
        i, i+1, ... modulo C that follow i = j mod C.
    """
    check_vector(plan, vector)
    kept = []
    for group, num_kept in zip(plan.groups, vector, strict=True):
        window = (round_number - 1 + np.arange(num_kept, dtype=np.int64)) % group.num_channels
        window.sort()
        kept.append(window)
    return Subnet(tuple(kept))


def core_sample(plan: WidthPlan, vector: DropoutVector, seed: int, step: int, core_fraction: float) -> Subnet:
    """Keep the first channels, `core_fraction` of those kept (rounded), and draw the others from the rest.

    The rest is ranked by the words that `models.subnet.sample` ranks all channels by.
    """
    check_vector(plan, vector)
    num_words = sum(group.num_channels for group in plan.groups)
    words = np.random.Philox(key=np.array((seed, step), np.uint64)).random_raw(num_words)
    kept, start = [], 0
    for group, num_kept in zip(plan.groups, vector, strict=True):
        core = round(core_fraction * num_kept)
        rest = words[start + core : start + group.num_channels].argsort(kind="stable")[: num_kept - core]
        rest.sort()
        kept.append(np.concatenate([np.arange(core, dtype=np.int64), core + rest]))
        start += group.num_channels
    return Subnet(tuple(kept))


def importance_ranking(plan: WidthPlan, weights: Mapping[str, Array]) -> tuple[Indices, ...]:
    """For each width group its channels, those of the largest L2 norm first; equal ones by their index.

    A channel's norm is that of the filters that make it: the entries along axis 0 of every tensor of two or
    more axes, so that a channel which a residual sum joins counts with all its filters. Squares are rounded
    to 2**-30 and added as integers: the ranking is the same on every machine.

    References:
        After Wu et al., FIARSE, NeurIPS 2024, arXiv 2407.19389. FIARSE masks single parameters whose
        magnitude is below a threshold and moves the mask while it trains; here whole channels are kept, by
        their norms when the order starts, because only whole channels save time without sparse kernels.
    """
    totals = [np.zeros(group.num_channels, np.int64) for group in plan.groups]
    for name, axes in plan.axes.items():
        if name not in weights or len(axes) < 2:
            continue
        wide = np.minimum(np.abs(weights[name].astype(np.float64)), _LARGEST)
        units = np.rint(np.square(wide) * _UNITS).astype(np.int64)
        rows, start = units.reshape(len(units), -1).sum(axis=1), 0
        for segment in axes[0]:
            end = start + segment.num_channels * segment.repeat
            if segment.group is not None:
                totals[segment.group] += rows[start:end].reshape(segment.num_channels, -1).sum(axis=1)
            start = end
    return tuple((-total).argsort(kind="stable") for total in totals)


def _first_of(plan: WidthPlan, vector: DropoutVector, ranking: tuple[Indices, ...]) -> Subnet:
    check_vector(plan, vector)
    return Subnet(tuple(np.sort(ranked[:num_kept]) for ranked, num_kept in zip(ranking, vector, strict=True)))
