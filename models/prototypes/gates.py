"""Whether a prototype set is worth sending to a peer, given what is known of the peer's.

Two gates. `paper` is the one of the reference: a fixed distance from the last set RECEIVED from the peer.
`calibrated` asks whether the own set differs from what the peer last ACKNOWLEDGED by more than two samples of
one source differ, at this number of prototypes and features: the two are pooled and split at random many
times, and the gate opens where the distance is among the alpha largest. So it opens for nothing new in about
alpha of the cases, however many prototypes and features there are; prototypes in both sets make it open less.

Its distance is the Jensen-Shannon distance of two kernel density estimates, evaluated at the prototypes
themselves: with P and Q the sets and M their mixture, JSD = 1/2 KL(P|M) + 1/2 KL(Q|M), and a mean over the
prototypes of P and Q estimates each (which is what drawing from P and Q would do). One kernel matrix of all
pooled prototypes serves every split, as one product of matrices.

References:
    Fernandez-Pineiro et al., arXiv 2411.09267: the gate `paper`.
    Phipson and Smyth, "Permutation P-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9 (1), 2010:
    the observed split counts as one of those drawn, which keeps alpha exact for any number of them.
    Gretton et al., "A kernel two-sample test", JMLR 13, 2012: a bandwidth of the median distance.
    Aitchison and Aitken, "Multivariate binary discrimination by the kernel method", Biometrika 63 (3), 1976:
    the kernel of the label, which knows no order of classes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.prototypes import density
from models.prototypes.prototype_set import PrototypeSet, joined
from models.prototypes.standard import shares_of, squared_distances, standardised
from models.subnet import Array

PAPER_THRESHOLD = 0.5

_OTHER_LABEL = 0.25
"""What the kernel is between prototypes of two classes, in units of what it is within one."""

_WIDTH = 0.25
"""Variance of the kernel, in mean squared distances. With the one above the best of 4 x 4 pairs where one
feature, all features or the labels of 30 to 100 prototypes moved; alpha holds with any."""


@dataclass(frozen=True)
class Decision:
    """What a gate said.

    Attributes:
        is_open: send. reason: why, for a person.
        distance: Jensen-Shannon, 0 to 1; None: there was nothing to compare.
        threshold: the distance above which this gate opens; None: none was used.
    """

    is_open: bool
    reason: str
    distance: float | None = None
    threshold: float | None = None


def paper(
    own: PrototypeSet,
    received: PrototypeSet | None,
    *,
    seed: int,
    threshold: float = PAPER_THRESHOLD,
    max_points: int = density.MAX_POINTS,
) -> Decision:
    """The gate of the reference: open where the distance in units of the data is above a fixed threshold.

    Args:
        own: the set that would be sent.
        received: the last set that came from the peer; None: none has.
        seed: of the points that the distance is estimated at.
        threshold: 0 to 1.
        max_points: the most such points.
    """
    if not len(own):
        return Decision(is_open=False, reason="no prototypes to send")
    if received is None:
        return Decision(is_open=True, reason="nothing received from the peer yet")
    found = density.distance(own, received, seed=seed, max_points=max_points)
    reason = "far from" if found > threshold else "close to"
    return Decision(found > threshold, f"{reason} what the peer sent", found, threshold)


def calibrated(
    own: PrototypeSet,
    acknowledged: PrototypeSet | None,
    *,
    alpha: float = 0.05,
    num_splits: int = 99,
    seed: int = 0,
) -> Decision:
    """Open where the sets differ by more than chance: a test at the level alpha for any size and dimension.

    A peer that acknowledged fewer than half as many prototypes is sent to: the test would say how little it
    knows, not that nothing is new. So is one where there are too few prototypes for the test to ever open,
    if they are other ones at all.

    Args:
        own: n prototypes.
        acknowledged: m, the own ones that the peer last said it has; None: none.
        alpha: how often it opens where there is nothing new, 0 to 1.
        num_splits: random splits of the pooled set; alpha (num_splits + 1) should be whole.
        seed: of the splits.

    Raises:
        ValueError: alpha can never be reached with so few splits.
    """
    num_largest = math.floor(alpha * (num_splits + 1) + 1e-9)
    if not 1 <= num_largest <= num_splits:
        raise ValueError(f"alpha {alpha} needs at least {math.ceil(1 / max(alpha, 1e-9)) - 1} splits")
    if not len(own):
        return Decision(is_open=False, reason="no prototypes to send")
    if acknowledged is None or 2 * len(acknowledged) < len(own):
        return Decision(is_open=True, reason="the peer has acknowledged fewer than half as many")
    pooled = joined([own, acknowledged])
    weights = np.concatenate([_relative(own.weights), _relative(acknowledged.weights)])
    splits = _splits(len(own), len(acknowledged), num_splits, seed)
    found = _divergences(_kernel(pooled, weights), weights, splits)
    distances = np.sqrt(np.clip(found, 0.0, 1.0))
    observed, chance = float(distances[0]), np.sort(distances[1:])
    if math.comb(len(pooled), len(own)) < 2 / alpha:  # a split and its mirror image say the same
        return Decision(observed > 0, "too few prototypes to tell chance from change", observed)
    threshold = float(chance[num_splits - num_largest])
    is_open = observed > threshold
    reason = "differs from" if is_open else "within chance of"
    return Decision(is_open, f"{reason} what the peer has acknowledged", observed, threshold)


def _relative(weights: Array) -> Array:
    """Weights of the mean 1, so that the sets count by their sizes and their prototypes can change sides."""
    return (shares_of(weights) * len(weights)).astype(np.float32)


def _kernel(pooled: PrototypeSet, weights: Array) -> Array:
    """Float32 [n, n]: Gaussian of the standardised features, times the kernel of the labels.

    The variance of the Gaussian is a share of the mean squared distance, which is 2 for each feature that
    varies. Scott's bandwidth falls below the distance of the nearest pair in many dimensions, where every
    prototype would be alone and every split equally far.
    """
    rows = standardised(pooled.vectors, weights).astype(np.float32)
    num_varying = max(1, int(np.count_nonzero(rows.any(axis=0))))
    kernel = squared_distances(rows, rows)
    kernel *= -0.5 / (2 * num_varying * _WIDTH)
    np.exp(kernel, out=kernel)
    kernel *= np.where(pooled.labels[:, None] == pooled.labels, np.float32(1), np.float32(_OTHER_LABEL))
    return kernel


@functools.lru_cache(maxsize=8)
def _splits(num_own: int, num_other: int, num_splits: int, seed: int) -> NDArray[np.bool_]:
    """Bool [n, 1 + splits]: which are on the own side, as observed in column 0, then at random."""
    random = np.random.default_rng(seed)
    ranks = random.random((num_splits, num_own + num_other), np.float32).argsort(axis=1, kind="stable")
    sides = np.empty((num_own + num_other, 1 + num_splits), bool)
    sides[:, 0] = np.arange(len(sides)) < num_own
    sides[:, 1:] = (ranks < num_own).T
    sides.setflags(write=False)
    return sides


def _divergences(kernel: Array, weights: Array, sides: NDArray[np.bool_]) -> Array:
    """The divergence to base 2 of the two sides of each split.

    Args:
        kernel: float32 [n, n].
        weights: float32 [n], >= 0.
        sides: bool [n, splits], true on one side.

    Returns:
        [splits]. Since each density is evaluated where it has its own kernels, somewhat above the true one.
    """
    total = weights.sum()
    own = weights[:, None] * sides
    totals = own.sum(axis=0)
    p = kernel @ own
    q = (kernel @ weights)[:, None] - p
    with np.errstate(divide="ignore", invalid="ignore"):
        p /= totals
        q /= total - totals
        ratio = np.where(sides, p, q)
        p += q
        ratio /= p
        np.fmax(ratio, np.float32(1e-12), out=ratio)  # where rounding left nothing of a small weight
        logs = np.log2(ratio, out=ratio)
        logs *= weights[:, None]
        of_own = np.einsum("ns,ns->s", logs, sides)
        found = 1 + (of_own / totals + (logs.sum(axis=0) - of_own) / (total - totals)) / 2
    return np.nan_to_num(found)  # a side without weight says nothing
