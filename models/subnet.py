"""Dropout vectors and the sub-networks drawn from them; cut and scatter as inverse functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.widths import Segment, WidthPlan

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

DropoutVector = tuple[int, ...]
"""Kept channels of each width group, 1 <= kept <= num_channels (the integers behind the dropout rates)."""


@dataclass(frozen=True, eq=False)
class Subnet:
    """Which channels of each width group a sub-network keeps.

    Attributes:
        kept: for each width group the sorted kept channel indices, int64 [kept_g].
    """

    kept: tuple[Indices, ...]
    _found: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    """Indices already worked out for this sub-network: cut, optimiser and scatter need the same ones."""


class KeptRows(NamedTuple):
    """The kept entries of a tensor, as rows of the tensor reshaped to [num_rows, row].

    Attributes:
        rows: kept rows, rising, int64; None if all are kept.
        row: entries in one row.
        shape: shape of the kept entries as a dense tensor.
    """

    rows: Indices | None
    row: int
    shape: tuple[int, ...]


def full_vector(plan: WidthPlan) -> DropoutVector:
    """The vector that drops nothing."""
    return tuple(group.num_channels for group in plan.groups)


def full_subnet(plan: WidthPlan) -> Subnet:
    """The sub-network that keeps everything."""
    return Subnet(tuple(np.arange(group.num_channels, dtype=np.int64) for group in plan.groups))


def ordered_subnet(plan: WidthPlan, vector: DropoutVector) -> Subnet:
    """The sub-network that keeps the first channels of each group."""
    check_vector(plan, vector)
    return Subnet(tuple(np.arange(kept, dtype=np.int64) for kept in vector))


def uniform_vector(plan: WidthPlan, keep_fraction: float) -> DropoutVector:
    """The vector that keeps the same share of every group, rounded, and at least one channel."""
    if not 0 < keep_fraction <= 1:
        raise UserError(f"a keep fraction of {keep_fraction} is outside 0 < keep <= 1")
    return tuple(max(1, round(group.num_channels * keep_fraction)) for group in plan.groups)


def check_vector(plan: WidthPlan, vector: Sequence[int]) -> DropoutVector:
    """The vector itself, if it fits the plan.

    Raises:
        UserError: it has another number of entries, or keeps none or too many channels of a group.
    """
    if len(vector) != len(plan.groups):
        raise UserError(
            f"the vector has {len(vector)} entries; the network has {len(plan.groups)} width groups"
        )
    for kept, group in zip(vector, plan.groups, strict=True):
        if type(kept) is not int or not 1 <= kept <= group.num_channels:
            raise UserError(
                f"the vector keeps {kept} channels of {group.name}; it has 1 to {group.num_channels}"
            )
    return tuple(vector)


def sample(plan: WidthPlan, vector: DropoutVector, seed: int, step: int) -> Subnet:
    """Draw a sub-network: `vector[g]` channels of each group, uniformly without replacement.

    The draw depends on (vector, seed, step) only and on no library's sampling routine: it ranks the
    raw 64-bit words of a Philox counter keyed by (seed, step), whose stream NumPy guarantees. So a
    coordinator with another NumPy can replay what a device trained.

    Args:
        plan: the width groups.
        vector: kept channels of each group.
        seed: of the order, 0 <= seed < 2**64.
        step: mini-batch of the order, 0 <= step < 2**64.
    """
    check_vector(plan, vector)
    words = np.random.Philox(key=np.array((seed, step), np.uint64)).random_raw(sum(full_vector(plan)))
    kept, start = [], 0
    for group, num_kept in zip(plan.groups, vector, strict=True):
        end = start + group.num_channels
        if num_kept == group.num_channels:
            kept.append(np.arange(num_kept))
        else:
            # stable: equal words (one draw in 2**50) keep their order on every platform
            drawn = words[start:end].argsort(kind="stable")[:num_kept]
            drawn.sort()
            kept.append(drawn)
        start = end
    return Subnet(tuple(kept))


def kept_indices(plan: WidthPlan, name: str, subnet: Subnet) -> tuple[Indices | None, ...]:
    """For each axis of a tensor the kept indices, rising; None where the whole axis is kept."""
    made = []
    for axis in plan.axes[name]:
        channels, repeat = _axis_indices(axis, subnet)
        if channels is not None and repeat > 1:
            channels = (channels[:, None] * repeat + np.arange(repeat)).ravel()
        made.append(channels)
    return tuple(made)


def kept_rows(plan: WidthPlan, name: str, subnet: Subnet) -> KeptRows:
    """The kept entries of a tensor as rows; gathering rows is the fastest way to cut and scatter."""
    found = subnet._found.get(name)  # noqa: SLF001 (the cache is this module's)
    if found is None or found[0] is not plan:
        found = (plan, _work_out_rows(plan.axes[name], subnet))
        subnet._found[name] = found  # noqa: SLF001 (as above)
    return found[1]


def cut(plan: WidthPlan, weights: Mapping[str, Array], subnet: Subnet) -> dict[str, Array]:
    """Copy the kept entries of every tensor into dense, contiguous, smaller tensors.

    Args:
        plan: the width groups.
        weights: full tensors by name, any of the plan's parameters and statistics (or momenta,
            which have the parameters' names and shapes).
        subnet: what to keep.
    """
    made = {}
    for name, full in weights.items():
        rows, row, shape = kept_rows(plan, name, subnet)
        if rows is None:
            made[name] = full.copy()
        else:
            made[name] = full.reshape(-1, row).take(rows, axis=0).reshape(shape)
    return made


def scatter(plan: WidthPlan, into: Mapping[str, Array], sub: Mapping[str, Array], subnet: Subnet) -> None:
    """Write a sub-network's tensors back to the kept entries of the full ones, in place.

    Args:
        plan: the width groups.
        into: full tensors by name, C-contiguous; those that `sub` lacks stay as they are.
        sub: dense tensors by name, in the shapes `cut` makes.
        subnet: what was kept.

    Raises:
        ValueError: a tensor of `sub` has another shape, or one of `into` cannot be written in place.
    """
    for name, dense in sub.items():
        rows, row, shape = kept_rows(plan, name, subnet)
        full = into[name]
        if dense.shape != shape or dense.dtype != full.dtype or not full.flags.c_contiguous:
            raise ValueError(
                f"{name}: {dense.dtype} {dense.shape} cannot be scattered as {full.dtype} {shape} in place"
            )
        if rows is None:
            full[...] = dense
        else:
            _rows_of(full, row).put(rows, _rows_of(dense, row))


def _rows_of(array: NDArray[Any], row: int) -> NDArray[Any]:
    """A contiguous array as a flat view of rows, each one item: NumPy moves an item in one copy."""
    return array.reshape(-1) if row == 1 else array.reshape(-1).view(_row_type(row * array.itemsize))


@functools.cache
def _row_type(num_bytes: int) -> np.dtype[Any]:
    return np.dtype((np.void, num_bytes))


def _work_out_rows(axes: tuple[tuple[Segment, ...], ...], subnet: Subnet) -> KeptRows:
    shape: list[int] = []
    rows: Indices | None = None
    row = 1
    for axis in axes:
        size = sum(segment.num_channels * segment.repeat for segment in axis)
        channels, repeat = _axis_indices(axis, subnet)
        if channels is None:
            shape.append(size)
            row *= size
            continue
        shape.append(len(channels) * repeat)
        if rows is not None and row > 1:
            rows = _outer(rows, row, np.arange(row))
        elif rows is None and row > 1:
            rows = np.arange(row)  # every entry of the axes before this one is kept
        rows = channels if rows is None else _outer(rows, size // repeat, channels)
        row = repeat
    return KeptRows(rows, row, tuple(shape))


def _outer(rows: Indices, width: int, columns: Indices) -> Indices:
    return (rows[:, None] * width + columns).ravel()


def _axis_indices(axis: tuple[Segment, ...], subnet: Subnet) -> tuple[Indices | None, int]:
    """Kept channels of an axis (None: all of them) and how many entries each of them has."""
    if len(axis) == 1:
        (segment,) = axis
        if segment.group is None or len(subnet.kept[segment.group]) == segment.num_channels:
            return None, 1
        return subnet.kept[segment.group], segment.repeat
    found = subnet._found.get(axis)  # noqa: SLF001 (the cache is this module's)
    if found is None:
        found = _concatenated(axis, subnet)
        subnet._found[axis] = found  # noqa: SLF001 (as above)
    return found


def _concatenated(axis: tuple[Segment, ...], subnet: Subnet) -> tuple[Indices | None, int]:
    repeats = {segment.repeat for segment in axis}
    repeat = math.gcd(*repeats)
    parts, start, is_whole = [], 0, True
    for segment in axis:
        finer = segment.repeat // repeat
        kept = np.arange(segment.num_channels) if segment.group is None else subnet.kept[segment.group]
        is_whole = is_whole and len(kept) == segment.num_channels
        parts.append(start + (kept if finer == 1 else _outer(kept, finer, np.arange(finer))))
        start += segment.num_channels * finer
    return (None, 1) if is_whole else (np.concatenate(parts), repeat)
