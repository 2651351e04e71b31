"""When measuring a vector is not worth going on: a race against those measured already.

A vector is measured part by part, each of them one stage of one repeat. All vectors share warm starts,
mini-batches and draws part by part, so two of them are compared by their paired differences: what a part
brings everybody drops out. A race ends for a vector as soon as, with all the luck the noise of a part
allows, its gain would stay below that of one that takes no more of anything.

References:
    Maron and Moore, "Hoeffding races", NIPS 1993; Birattari et al., "A racing algorithm for configuring
    metaheuristics", GECCO 2002: candidates are dropped by paired comparison as measurements come in.
    Bounding the stages that a vector has not seen by the best gain seen there is a choice of ours. Optuna's
    own pruners know one objective only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_RECORDS = 8
"""Vectors measured to the end before any race is stopped: the noise is told by them."""

NUM_DEVIATIONS = 2.0
"""Standard errors by which a vector must be behind."""


class Record(NamedTuple):
    """A vector that was measured, to the end or as far as those it is compared with.

    Attributes:
        resources: what it takes: the minimised objectives.
        gains: for each part, repeat by repeat and stage by stage.
    """

    resources: tuple[float, ...]
    gains: tuple[float, ...]


def part_noise(records: Sequence[Record], num_stages: int) -> float | None:
    """Standard deviation of one part's gain about what vector and part explain, or None if unknown.

    The residual of an additive model of each stage, gain = vector + repeat + noise. It takes two repeats.
    """
    if len(records) < MIN_RECORDS:
        return None
    gains = np.array([record.gains for record in records]).reshape(len(records), -1, num_stages)
    num_repeats = gains.shape[1]
    if num_repeats < 2:
        return None
    means = gains.mean(axis=1, keepdims=True)
    residuals = gains - means - gains.mean(axis=0, keepdims=True) + gains.mean(axis=(0, 1), keepdims=True)
    freedom = num_stages * (len(records) - 1) * (num_repeats - 1)
    return math.sqrt(float((residuals**2).sum()) / freedom)


def is_hopeless(
    resources: tuple[float, ...],
    gains: Sequence[float],
    records: Sequence[Record],
    num_stages: int,
    noise: float | None,
) -> bool:
    """Whether a vector measured in part would clearly end behind another one.

    Args:
        resources: what the vector takes: the minimised objectives.
        gains: of its parts so far, repeat by repeat and stage by stage.
        records: vectors measured on the same parts at least.
        num_stages: stages of a repeat.
        noise: from `part_noise`.
    """
    if noise is None or not gains:
        return False
    rivals = [one.gains for one in records if _takes_no_more(one.resources, resources)]
    # Not training takes nothing and gains nothing, for certain.
    behind_nothing = _behind((0.0,) * _num_parts(records), gains, rivals, num_stages, noise)
    return behind_nothing > 0 or any(
        _behind(rival, gains, rivals, num_stages, noise * math.sqrt(2)) > 0 for rival in rivals
    )


def _behind(
    rival: Sequence[float],
    gains: Sequence[float],
    rivals: Sequence[Sequence[float]],
    num_stages: int,
    noise: float,
) -> float:
    """How far the vector's mean gain is behind the rival's at least, `noise` being that of a difference."""
    total, variance = 0.0, 0.0
    for stage in range(num_stages):
        measured = range(stage, len(gains), num_stages)
        if measured:
            total += sum(rival[part] - gains[part] for part in measured) / len(measured)
            variance += noise**2 / len(measured)
        else:
            parts = range(stage, len(rival), num_stages)
            best = max((_mean(one, parts) for one in rivals), default=math.inf)
            total += min(0.0, _mean(rival, parts) - best)
            variance += noise**2 / len(parts)
    return (total - NUM_DEVIATIONS * math.sqrt(variance)) / num_stages


def _mean(gains: Sequence[float], parts: range) -> float:
    return sum(gains[part] for part in parts) / len(parts)


def _num_parts(records: Sequence[Record]) -> int:
    return len(records[0].gains) if records else 0


def _takes_no_more(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
