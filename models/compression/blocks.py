"""Int8 values in blocks, each with a float32 scale: its largest magnitude / 127.

A block never spans two tensors, whose values may differ by orders of magnitude.

References:
    Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022, arXiv 2110.02861: a scale a
    block, so that an outlier costs the precision of its block alone. Here the steps are even, not dynamic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError
from models.subnet import Array

_STEPS = 127
_LARGEST_SCALE = np.float32(2.679e36)
"""127 times it is a finite float32."""


def to_blocks(
    values: Array, lengths: Sequence[int], block: int
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Round finite values to whole steps of their block's scale.

    Args:
        values: float32 [n], tensor after tensor.
        lengths: entries of each tensor, n in all.
        block: values of one scale; the last block of a tensor may have fewer.

    Returns:
        The scale of each block, and int8 [n] of -127 to 127. A block of zeros has the scale 0.
    """
    sizes = block_sizes(lengths, block)
    if not len(sizes):
        return np.empty(0, np.float32), np.empty(0, np.int8)
    largest = np.maximum.reduceat(np.abs(values), np.cumsum(sizes) - sizes)
    scales = np.minimum(largest / np.float32(_STEPS), _LARGEST_SCALE)
    steps = values / np.repeat(np.where(scales > 0, scales, np.float32(1)), sizes)
    return scales, np.clip(np.rint(steps), -_STEPS, _STEPS).astype(np.int8)


def from_blocks(
    scales: NDArray[np.float32], steps: NDArray[np.int8], lengths: Sequence[int], block: int
) -> Array:
    """Float32 [n] of the arguments and results of `to_blocks`, whose number the caller has checked.

    Raises:
        PeerError: a scale is below 0 or a value would not be finite, or a step is -128.
    """
    if not (np.isfinite(scales).all() and (scales >= 0).all() and (scales <= _LARGEST_SCALE).all()):
        raise PeerError(f"a scale of a compressed update is not a number from 0 to {_LARGEST_SCALE:g}")
    if steps.size and int(steps.min()) < -_STEPS:
        raise PeerError(f"a compressed update holds the step -128; {-_STEPS} to {_STEPS} are steps")
    return steps * np.repeat(scales, block_sizes(lengths, block))


def block_sizes(lengths: Sequence[int], block: int) -> NDArray[np.int64]:
    """Values of each block: int64 [blocks of all tensors]."""
    entries = np.asarray(lengths, np.int64)
    num_blocks = -(-entries // block)
    sizes = np.full(int(num_blocks.sum()), block, np.int64)
    filled = num_blocks > 0
    sizes[np.cumsum(num_blocks)[filled] - 1] = (entries - (num_blocks - 1) * block)[filled]
    return sizes
