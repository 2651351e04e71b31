"""What a search measured, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from models.subnet import DropoutVector


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: its number in the study, from 0.
        vector: kept channels of each width group.
        macs: training MACs of one sample.
        gain: held-out accuracy that a short training gained, a fraction.
    """

    number: int
    vector: DropoutVector
    macs: int
    gain: float


@dataclass(frozen=True)
class StudyTrials:
    """What a study holds.

    Attributes:
        name: of the study.
        groups: names of the width groups.
        trials: measured to the end, by number.
        num_hopeless: trials that were given up early.
    """

    name: str
    groups: tuple[str, ...]
    trials: tuple[Trial, ...]
    num_hopeless: int = 0
