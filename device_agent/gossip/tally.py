"""What a device counts in a gossip run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_agent.wire.stream_report import DriftSeen, PairAge, StreamReport
from models.prototypes.ages import AgeRecord, expected_age_s, mean_age_s, mean_peak_s
from models.prototypes.drift import Drift

MOST_DRIFTS, MOST_PAIRS = 64, 1000
"""In one report."""

COUNTED = ("told", "heard", "repeats", "unread", "missed", "bytes_sent", "bytes_received")
"""What a tally adds up."""


@dataclass
class Tally:
    """Counts since the run began on this device; see `device_agent.wire.stream_report.StreamReport`.

    Attributes:
        drifts: since the last report.
    """

    told: int = 0
    heard: int = 0
    repeats: int = 0
    unread: int = 0
    missed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    drifts: deque[DriftSeen] = field(default_factory=lambda: deque(maxlen=MOST_DRIFTS))

    def drifted(self, sample: int, drift: Drift) -> None:
        """The rate of errors changed, as was seen at this sample."""
        at = max(0, sample - drift.length)
        self.drifts.append(DriftSeen(sample=at, before=_share(drift.before), after=_share(drift.after)))

    def report(
        self,
        counts: NDArray[np.int64],
        ages: Mapping[str, PairAge],
        *,
        seen: int,
        num_left: int | None,
        is_over: bool,
    ) -> StreamReport:
        """What is told of it; drifts are told once.

        Args:
            counts: int64 [C, C], of samples by true class, then predicted one.
            ages: by neighbour.
            seen: samples of the stream in this run.
            num_left: to come, None: nobody knows.
            is_over: whether the stream is.
        """
        drifts = tuple(self.drifts)
        self.drifts.clear()
        return StreamReport(
            seen=seen,
            is_over=is_over,
            num_left=num_left,
            counts=tuple(counts.ravel().tolist()),
            drifts=drifts,
            ages=dict(ages),
            **{name: getattr(self, name) for name in COUNTED},
        )

    def saved(self) -> NDArray[np.int64]:
        """To keep: int64 [COUNTED]."""
        return np.array([getattr(self, name) for name in COUNTED], np.int64)

    def restore(self, saved: NDArray[np.generic]) -> None:
        """Go on from what was kept."""
        for name, value in zip(COUNTED, saved.tolist(), strict=True):
            setattr(self, name, int(value))


def pair_ages(records: Mapping[str, AgeRecord], now_s: float) -> dict[str, PairAge]:
    """How old what neighbours told was, at most MOST_PAIRS of them, those heard last.

    Args:
        records: by neighbour.
        now_s: seconds of the clock that they are on.
    """
    newest = sorted(records, key=lambda one: -records[one].last_s)[:MOST_PAIRS]
    return {one: pair_age(records[one], now_s) for one in sorted(newest)}


def pair_age(record: AgeRecord, now_s: float) -> PairAge:
    """How old what one neighbour told was, and what the formula says.

    The formula's rate is that of the updates which came, so losses and closed gates are in it; its delay is
    the mean age on arrival, as their sender measured it.
    """
    if record.first_s is None:
        return PairAge(updates=0)
    span_s = now_s - record.first_s
    rate_hz = record.num_peaks / span_s if span_s > 0 else 0.0
    delay_s = record.arrived_sum_s / (record.num_peaks + 1)
    return PairAge(
        updates=record.num_peaks + 1,
        mean_s=_seconds(mean_age_s(record, now_s)),
        peak_s=_seconds(mean_peak_s(record)),
        expected_s=_seconds(expected_age_s(rate_hz, delay_s)),
    )


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(min(value, 1e9), 6)


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 6)
