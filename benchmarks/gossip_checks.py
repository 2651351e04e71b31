"""Rows of the gossip study, and what must hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gossip_methods import ALONE, BASE, BEST, IN_TURN, NO_CHANGE, OURS, PAPER_FORMS, SELDOM
from benchmarks.report import Check, Report


@dataclass(frozen=True)
class Outcome:
    """What one method did on one stream with one seed.

    Attributes:
        accuracy: of the judged nodes together. f1: of class 1 where there are two, else the classes' mean.
        by_node: accuracy of each judged node.
        sent, received: bytes per sample and node. told: messages per sample.
        f1_half: f1 of the first half of the samples. in_time: share of the samples that was learned when
            the last one came.
    """

    accuracy: float
    f1: float
    by_node: tuple[float, ...]
    sent: float = 0.0
    received: float = 0.0
    told: float = 0.0
    f1_half: float | None = None
    in_time: float | None = None


BySeed = Mapping[int, Outcome]
Results = Mapping[str, Mapping[str, BySeed]]
"""Stream -> method -> seed -> outcome."""

LOST, WHOLE = "elec, 30 % lost", "elec"
"""The same samples, without and with all messages."""


def report_of(results: Results) -> Report:
    """Rows by stream and method, and the checks."""
    report = Report("gossip")
    for stream, by_method in results.items():
        report.rows += [_row(stream, method, list(runs.values())) for method, runs in by_method.items()]
        report.checks += _checks(stream, by_method)
    if OURS in results.get(LOST, {}) and OURS in results.get(WHOLE, {}):
        lossless, lossy = results[WHOLE][OURS], results[LOST][OURS]
        seeds = sorted(lossless.keys() & lossy.keys())
        lost = 100 * statistics.fmean(lossless[seed].f1 - lossy[seed].f1 for seed in seeds)
        report.checks.append(
            Check(f"{LOST}: points of F1 less than with all messages", lost, "<=", 1.0, OURS)
        )
    return report


def _row(stream: str, method: str, runs: list[Outcome]) -> dict[str, Any]:
    def mean(name: str, scale: float, digits: int) -> float | None:
        values = [getattr(one, name) for one in runs]
        return None if None in values else round(scale * statistics.fmean(values), digits)

    spread = statistics.stdev(one.f1 for one in runs) if len(runs) > 1 else None
    return {
        "stream": stream,
        "method": method,
        "num_seeds": len(runs),
        "accuracy": mean("accuracy", 100, 2),
        "f1": mean("f1", 100, 2),
        "f1_sd": None if spread is None else round(100 * spread, 2),
        "f1_half": mean("f1_half", 100, 2),
        "in_time": mean("in_time", 100, 1),
        "sent": mean("sent", 1, 1),
        "received": mean("received", 1, 1),
        "told": mean("told", 1, 3),
    }


def _checks(stream: str, by_method: Mapping[str, BySeed]) -> Iterator[Check]:
    f1 = {method: statistics.fmean(one.f1 for one in runs.values()) for method, runs in by_method.items()}
    yield from _paper_checks(stream, by_method, f1)
    ours = by_method.get(OURS)
    if ours is None:
        return
    alone = by_method.get(ALONE)
    if alone is not None:
        seeds = sorted(ours.keys() & alone.keys())
        lost = statistics.fmean(100 * (alone[seed].accuracy - ours[seed].accuracy) for seed in seeds)
        yield Check(f"{stream}: points lost by gossip, mean", lost, "<=", 0.3, ALONE)
        nodes = np.array([[alone[s].by_node, ours[s].by_node] for s in seeds])
        worst = float(100 * (nodes[:, 0] - nodes[:, 1]).mean(axis=0).max())
        yield Check(f"{stream}: points lost by gossip, worst node", worst, "<=", 1.5, ALONE)
    paper = [method for method in f1 if method.startswith(PAPER_FORMS)]
    if paper:
        best = max(paper, key=lambda method: f1[method])
        yield Check(f"{stream}: F1 over the paper's best form", 100 * (f1[OURS] - f1[best]), ">", 0.0, best)
    if BASE in by_method:
        ratio = _bytes(by_method[OURS]) / _bytes(by_method[BASE])
        yield Check(f"{stream}: bytes over those of the base", ratio, "<=", 0.1, BASE)
    for method, value in f1.items():
        if method.startswith("river") or method == NO_CHANGE:
            yield Check(f"{stream}: F1 over {method}", 100 * (f1[OURS] - value), ">", 0.0, method)
    limits = {"elec first": (83.0, 80.0), "elec blocks": (88.5, None)}
    if stream in limits:
        least, most = limits[stream]
        yield Check(f"{stream}: F1", 100 * f1[OURS], ">=", least, "a prototype of this method")
        if most is not None:
            sent = statistics.fmean(one.sent for one in ours.values())
            yield Check(f"{stream}: bytes sent per sample and node", sent, "<=", most, "limit")


def _paper_checks(stream: str, by_method: Mapping[str, BySeed], f1: Mapping[str, float]) -> Iterator[Check]:
    """The paper's own claims."""
    for form in (BEST, SELDOM):
        if {BASE, form} <= by_method.keys():
            ratio, name = _bytes(by_method[form]) / _bytes(by_method[BASE]), f"{stream}: {form}"
            yield Check(f"{name}: bytes over those of the base", ratio, "<=", 0.2, BASE)
            yield Check(f"{name}: F1 less than the base's", 100 * (f1[BASE] - f1[form]), "<=", 0.0, BASE)
    for form in PAPER_FORMS:
        if {form, form + IN_TURN} <= by_method.keys():
            parallel, in_turn = by_method[form], by_method[form + IN_TURN]
            gains = [
                100 * ((parallel[seed].f1_half or 0.0) - (in_turn[seed].f1_half or 0.0))
                for seed in parallel.keys() & in_turn.keys()
            ]
            yield Check(
                f"{stream}: {form}: F1 of the first half over that in turn",
                statistics.fmean(gains),
                ">",
                0.0,
                form + IN_TURN,
            )


def _bytes(runs: BySeed) -> float:
    """Sent and received; a message to all is sent once and received by each."""
    return statistics.fmean(one.sent + one.received for one in runs.values())
