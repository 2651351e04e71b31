"""Seconds of a mini-batch as a function of its cost, fitted to measured steps.

    core_seconds = fixed + per_mac * MACs of the mini-batch + per_activation_byte * its activation bytes

No coefficient is negative. Errors are relative, so that narrow sub-networks count as much as wide ones,
and a measurement that stands far off counts less (Huber's weights, found by iteration).

MACs alone mispredict: operators that move memory take time by the bytes they touch, and starting an
operator takes time whatever its size. Kernels that take CHANNEL_BLOCKS channels at once compute a whole
block whatever of it is kept, so their MACs are counted with channels filled up to it.

References:
    Lawson and Hanson, Solving Least Squares Problems, chapter 23 (non-negative least squares); here all
    subsets of three terms are tried. Huber, Robust Statistics, chapter 7.8 (weights by iteration).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.cost import CostModel
from models.subnet import DropoutVector

CHANNEL_BLOCKS = {"torch": 8, "numpy": 8}
"""By engine, 1 for others. Measured on x86-64 with AVX-512 over random vectors, on a busy machine: the worst
error with 1 and with 8 is 0.34 and 0.23 (torch, ResNet-20), 0.29 and 0.17 (numpy, the default CNN), but
0.08 and 0.20 (onnx, ResNet-20). Small networks gain nothing by it."""

_ROUNDS = 10
_HUBER = 1.345  # 95 % of least squares' efficiency where errors are normal
_LEAST_SPREAD = 0.01  # of relative errors: closer than that nothing is far off
_TO_NORMAL = 1.4826  # median absolute deviation to standard deviation

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepCoefficients:
    """What a mini-batch takes of one core; all 0 or more.

    Attributes:
        core_seconds_per_step: whatever the sub-network.
        core_seconds_per_mac: for each training MAC of the mini-batch.
        core_seconds_per_activation_byte: for each byte of the mini-batch that the backward pass reads.
        channel_block: multiple that channels are filled up to before MACs are counted.
    """

    core_seconds_per_step: float
    core_seconds_per_mac: float
    core_seconds_per_activation_byte: float
    channel_block: int = 1

    def predict(self, model: CostModel, vectors: Sequence[DropoutVector]) -> Floats:
        """Seconds of one core for a mini-batch of each vector, float64 [n].

        Args:
            model: the costs of the network, for the batch size that is meant.
            vectors: n that fit the network.
        """
        return _terms(model, vectors, self.channel_block) @ np.array(
            (
                self.core_seconds_per_step,
                self.core_seconds_per_mac,
                self.core_seconds_per_activation_byte,
            )
        )


@dataclass(frozen=True, kw_only=True)
class StepFit:
    """Coefficients, and how well they predict.

    Attributes:
        coefficients: fitted to all measurements.
        left_out_errors: relative error of each measurement as predicted without it, float64 [n];
            predicted over measured, less 1.
    """

    coefficients: StepCoefficients
    left_out_errors: Floats


def fit(
    model: CostModel, vectors: Sequence[DropoutVector], core_seconds: Sequence[float], channel_block: int = 1
) -> StepFit:
    """Fit the coefficients to measured mini-batches.

    Args:
        model: the costs of the network, for the batch size of the measurements.
        vectors: what was measured, n different ones; from 4 on errors mean something.
        core_seconds: of each, above 0.
        channel_block: see StepCoefficients.

    Raises:
        ValueError: nothing was measured, or seconds are not above 0.
    """
    seconds = np.asarray(core_seconds, np.float64)
    if not seconds.size or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise ValueError(f"a fit needs measured seconds above 0, not {list(core_seconds)}")
    terms = _terms(model, vectors, channel_block)
    errors = np.zeros(len(seconds))
    if len(seconds) > 1:
        for index in range(len(seconds)):
            others = np.arange(len(seconds)) != index
            found = _robust(terms[others], seconds[others])
            errors[index] = terms[index] @ found / seconds[index] - 1
    fixed, per_mac, per_byte = (float(value) for value in _robust(terms, seconds))
    return StepFit(
        coefficients=StepCoefficients(
            core_seconds_per_step=fixed,
            core_seconds_per_mac=per_mac,
            core_seconds_per_activation_byte=per_byte,
            channel_block=channel_block,
        ),
        left_out_errors=errors,
    )


def relative_errors(predicted: Floats, measured: Floats) -> Floats:
    """How far predictions are off, as shares of what was measured; 0 or more, float64 [n]."""
    return np.abs(predicted / measured - 1)


def _terms(model: CostModel, vectors: Sequence[DropoutVector], channel_block: int) -> Floats:
    """What the coefficients multiply: float64 [n, 3]."""
    costs = model.costs(vectors, channel_block)
    return np.stack(
        [
            np.ones(len(vectors)),
            model.batch_size * costs.macs_training.astype(np.float64),
            model.batch_size * costs.activation_bytes.astype(np.float64),
        ],
        axis=1,
    )


def _robust(terms: Floats, seconds: Floats) -> Floats:
    """Coefficients of least relative errors, those of measurements far off limited."""
    relative, weights = terms / seconds[:, None], np.ones(len(seconds))
    found = _non_negative(relative, weights)
    for _ in range(_ROUNDS):
        errors = np.abs(relative @ found - 1)
        limit = _HUBER * max(_LEAST_SPREAD, _TO_NORMAL * float(np.median(errors)))
        weights = np.minimum(1.0, limit / np.maximum(errors, 1e-12))
        found = _non_negative(relative, weights)
    return found


def _non_negative(relative: Floats, weights: Floats) -> Floats:
    """Minimise the weighted squares of `relative @ x - 1` over x >= 0, by trying every set of terms."""
    scale = relative.max(axis=0)
    rows = np.sqrt(weights)
    best, least = np.zeros(relative.shape[1]), float(weights.sum())
    for count in range(1, relative.shape[1] + 1):
        for chosen in itertools.combinations(range(relative.shape[1]), count):
            columns = list(chosen)
            matrix = relative[:, columns] / scale[columns]
            found, *_ = np.linalg.lstsq(matrix * rows[:, None], rows, rcond=None)
            left = float((weights * (matrix @ found - 1) ** 2).sum())
            if (found >= 0).all() and left < least - 1e-12:
                best, least = np.zeros(relative.shape[1]), left
                best[columns] = found / scale[columns]
    return best
