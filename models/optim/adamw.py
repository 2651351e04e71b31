"""AdamW on sub-networks: each entry's moments are corrected by how often that entry was updated.

With k updates of an entry, gradients g_1 … g_k of it, and t steps in all,

    m_k = b1 m_(k-1) + (1 - b1) g_k        v_k = b2 v_(k-1) + (1 - b2) g_k^2
    w  -= rate (m_k / (1 - b1^k)) / (sqrt(v_k / (1 - b2^k)) + epsilon) + rate decay w

the sums of the coefficients in m_k and v_k are 1 - b1^k and 1 - b2^k: of the entry's own k. Dividing by
those of t > k would make the step of an entry that was mostly dropped (1 - b1^k) / sqrt(1 - b2^k) times
too large once t is large: 3.2 times at k = 1 and 6.6 times at k = 11, with the usual betas. With nothing
dropped k = t, and this is `torch.optim.AdamW`.

What is stored are m / (1 - b1) and v / (1 - b2), plain decaying sums, which saves two passes over them.

References:
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv 1711.05101,
    algorithm 2. Counting by entry is ours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.optim.settings import OptimizerSettings
from models.subnet import Array

_NEGLIGIBLE = 1e-9
"""A correction this close to 1 is 1 in float32."""


class Corrections:
    """The bias corrections by count, for 1 <= count <= limit; beyond, they stay the same.

    Args:
        betas: of the settings.

    Attributes:
        limit: the count from which on nothing is left to correct.
    """

    def __init__(self, betas: tuple[float, float]) -> None:
        self.limit = math.ceil(math.log(_NEGLIGIBLE) / math.log(max(*betas, 0.5)))
        counts = np.arange(self.limit + 1)
        counts[0] = 1  # nothing asks for the correction of an entry that was never updated
        first, second = ((1 - beta) / (1 - beta**counts) for beta in betas)
        self._first = first.astype(np.float32)
        self._root = np.sqrt(second).astype(np.float32)

    def of(self, count: int | Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the sum of gradients, and the root of the sum of squares, are to be multiplied with."""
        index = count if isinstance(count, int) else count.astype(np.intp)
        return self._first[index], self._root[index]


def step_adamw(
    settings: OptimizerSettings,
    rate: float,
    values: Array,
    first: Array,
    second: Array,
    gradient: tuple[Array, Array],
    corrections: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """One tensor's kept entries, in place.

    Args:
        settings: betas, epsilon and weight decay.
        rate: the learning rate of this step.
        values: weights.
        first: decaying sum of the gradients.
        second: of their squares.
        gradient: the gradient, and a view of it against which the corrections broadcast; overwritten.
        corrections: of this step, from `Corrections.of`.
    """
    work, view = gradient
    first *= np.float32(settings.betas[0])
    first += work
    np.square(work, out=work)
    second *= np.float32(settings.betas[1])
    second += work
    np.sqrt(second, out=work)
    view *= corrections[1]
    work += np.float32(settings.epsilon)
    np.divide(first, work, out=work)
    view *= corrections[0] * np.float32(rate)
    if settings.weight_decay:
        values *= np.float32(1.0 - rate * settings.weight_decay)
    values -= work
