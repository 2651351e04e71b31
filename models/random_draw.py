"""The random draw of an order: for a device one mini-batch at a time, for whoever replays it many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.subnet import DropoutVector, Subnet, check_vector, full_vector, sample
from models.widths import WidthPlan


@dataclass(frozen=True)
class RandomDraw:
    """Channels drawn anew for each mini-batch, by `models.subnet.sample`.

    Attributes:
        plan: the width groups.
        seed: of the order, 0 <= seed < 2**64.
    """

    plan: WidthPlan
    seed: int

    def __call__(self, vector: DropoutVector, step: int) -> Subnet:
        """The sub-network of one mini-batch."""
        return sample(self.plan, vector, self.seed, step)

    def replay(self, vectors: Sequence[DropoutVector], first_step: int) -> NDArray[np.bool_]:
        """What consecutive mini-batches kept; the same as calling for each, several times faster.

        Args:
            vectors: one for each mini-batch.
            first_step: mini-batch of the order that the first vector is for.

        Returns:
            [mini-batches, channels of all groups one after another], true where kept.

        Raises:
            UserError: a vector does not fit the plan.
        """
        for vector in set(vectors):
            check_vector(self.plan, vector)
        sizes = full_vector(self.plan)
        kept = np.ones((len(vectors), sum(sizes)), bool)
        drawn = [row for row, vector in enumerate(vectors) if vector != sizes]
        if not drawn:
            return kept
        words = _words(self.seed, [first_step + row for row in drawn], sum(sizes))
        num_kept = np.array([vectors[row] for row in drawn])
        for group, end in enumerate(np.cumsum(sizes)):
            columns = slice(end - sizes[group], end)
            kept[drawn, columns] = first_ranked(words[:, columns], num_kept[:, group])
        return kept


def first_ranked(words: NDArray[np.uint64], num_first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """In each row its smallest words; of equal ones the first.

    Args:
        words: [rows, columns].
        num_first: for each row how many, 1 to the number of columns.
    """
    upper = (words >> np.uint64(32)).astype(np.uint32)  # half as long to sort, and nearly always enough
    rows, ranked = np.arange(len(words)), np.sort(upper, axis=1)
    last = ranked[rows, num_first - 1]
    is_first = upper <= last[:, None]
    after = ranked[rows, np.minimum(num_first, words.shape[1] - 1)]
    for row in np.flatnonzero((after == last) & (num_first < words.shape[1])):  # equal at the border
        is_first[row] = False
        is_first[row, words[row].argsort(kind="stable")[: num_first[row]]] = True
    return is_first


def _words(seed: int, steps: Sequence[int], num_words: int) -> NDArray[np.uint64]:
    """Row by row the first words of the Philox counters keyed by (seed, step)."""
    generator = np.random.Philox(key=np.array((seed, 0), np.uint64))
    state = generator.state
    words = np.empty((len(steps), num_words), np.uint64)
    for row, step in enumerate(steps):
        state["state"]["key"][1] = step
        generator.state = state  # ten times faster than another generator
        words[row] = generator.random_raw(num_words)
    return words
