"""Mini-batches: shuffled indices without end, the same for the same seed on every machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def shuffled_batches(
    num_samples: int, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of one mini-batch after another, for ever.

    Each pass over the samples has an order of its own; what does not fill a batch at the end of a pass
    begins the next one, so all batches have one size and no sample is seen more often than another.
    Step s is the same whether one begins at 0 or resumes there.

    Args:
        num_samples: 1 or more.
        batch_size: 1 or more; where there are fewer samples a batch has all of them.
        seed: decides the order, 0 or more.
        first_step: the step to begin with.

    Yields:
        int64 [min(batch_size, num_samples)].

    Raises:
        ValueError: there is nothing to draw from.
    """
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"cannot draw batches of {batch_size} from {num_samples} samples")
    batch_size = min(batch_size, num_samples)
    num_pass, position = divmod(first_step * batch_size, num_samples)
    order = _order(num_samples, seed, num_pass)
    while True:
        indices = order[position : position + batch_size]
        position += batch_size
        if position > num_samples:
            num_pass, position = num_pass + 1, position - num_samples
            order = _order(num_samples, seed, num_pass)
            indices = np.concatenate([indices, order[:position]])
        yield indices.copy()


def _order(num_samples: int, seed: int, num_pass: int) -> NDArray[np.int64]:
    """Rank raw Philox words: NumPy guarantees this stream, not that of `permutation`."""
    words = np.random.Philox(key=[seed, num_pass]).random_raw(num_samples)
    return np.argsort(words, kind="stable").astype(np.int64)
