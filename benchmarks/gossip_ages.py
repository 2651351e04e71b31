"""Age of what nodes hold of each other, measured in the fleet and by formula."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gossip_fleet import Network, NodeStream, run_fleet
from benchmarks.gossip_work import AT_ONCE, PARALLEL, SEQUENTIAL
from benchmarks.report import Check
from models.gossip_settings import GossipSettings, SetSettings
from models.prototypes.ages import expected_age_s, mean_age_s, updates_hz
from models.prototypes.settings import IlvqSettings

MEAN_GAP_S = 0.1
"""Between two samples of a node, which come as a Poisson process."""

MOST_OFF = 0.1
"""By which the measured age may differ from the formula's, as a share."""


@dataclass(frozen=True, kw_only=True)
class AgeCase:
    """How often a node sends, and to how many.

    Attributes:
        send_fraction: T, of the samples after which it sends. num_partners: s, that it then sends to.
        num_nodes: N. loss_fraction: of the messages are lost.
        duration_s: of the run; all nodes send until its end.
        form: what a node's work takes, of FORMS.
    """

    send_fraction: float = 0.1
    num_partners: int = 1
    num_nodes: int = 5
    loss_fraction: float = 0.0
    duration_s: float = 600.0
    form: str = "at once"

    @property
    def busy_fraction(self) -> float:
        """Of a node's time in turn, of its busiest task side by side."""
        work, messages = FORMS[self.form], self.send_fraction * self.num_partners
        tasks = [work.learn_s, messages * work.send_s, messages * work.receive_s]
        return (max if work.overlaps else sum)(tasks) / MEAN_GAP_S

    @property
    def formula_s(self) -> float:
        """The expected age, without any waiting for other tasks.

        The time on the way is in no measured age, and left out here too.
        """
        work = FORMS[self.form]
        reached_hz = updates_hz(
            samples_hz=1 / MEAN_GAP_S,
            send_fraction=self.send_fraction,
            num_chosen=self.num_partners,
            num_nodes=self.num_nodes,
            loss_fraction=self.loss_fraction,
        )
        handled_s = work.learn_s + work.send_s + work.receive_s
        return expected_age_s(reached_hz, handled_s) or math.inf


FORMS = {"at once": AT_ONCE, "parallel": PARALLEL, "in turn": SEQUENTIAL}

CASES = (
    AgeCase(),
    AgeCase(num_partners=4),
    AgeCase(send_fraction=0.5, duration_s=200.0),
    AgeCase(loss_fraction=0.5, duration_s=800.0),
    *(
        case
        for form in ("parallel", "in turn")
        for case in (
            AgeCase(form=form),
            AgeCase(form=form, send_fraction=1.0, duration_s=200.0),
            AgeCase(form=form, send_fraction=1.0, num_partners=4, duration_s=100.0),
        )
    ),
)

HOLDS_BELOW = 0.5
"""The formula knows of no waiting: it holds for nodes that are busy for less of their time than this."""


def measured_ages_s(case: AgeCase, seed: int) -> list[float]:
    """Mean age of each ordered pair, over the time from the first message to the end."""
    # What is sent matters to no age: few prototypes, and none of others learned, are fast.
    settings = GossipSettings(
        learner="ilvq",
        shares="sets",
        ilvq=IlvqSettings(max_prototypes=3, denoise_every=0, scale_memory=None),
        sets=SetSettings(
            probability=case.send_fraction,
            partners=case.num_partners,
            gate="open",
            tells_changes=False,
            learned=0,
        ),
    )
    streams = []
    for node in range(case.num_nodes):
        rng = np.random.default_rng((seed, node))
        times_s = np.sort(rng.uniform(0.0, case.duration_s, rng.poisson(case.duration_s / MEAN_GAP_S)))
        labels = rng.integers(0, 2, len(times_s))
        streams.append(NodeStream(labels[:, None].astype(np.float32), labels, times_s))
    network = Network(loss_fraction=case.loss_fraction)
    ages = [
        mean_age_s(record, max(case.duration_s + network.delay_s, record.last_s))
        for node in run_fleet(
            streams, settings, num_classes=2, network=network, work=FORMS[case.form], seed=seed
        )
        for record in node.gossiper.ages.values()
    ]
    return [age for age in ages if age is not None]


def age_row(case: AgeCase, seed: int) -> dict[str, Any]:
    """A line of the report."""
    ages_s, formula_s = measured_ages_s(case, seed), case.formula_s
    mean_s = statistics.fmean(ages_s)
    return {
        "stream": "Poisson arrivals",
        "form": case.form,
        "busy_fraction": round(case.busy_fraction, 3),
        "send_fraction": case.send_fraction,
        "num_partners": case.num_partners,
        "num_nodes": case.num_nodes,
        "loss_fraction": case.loss_fraction,
        "num_pairs": len(ages_s),
        "age_s": round(mean_s, 3),
        "formula_s": round(formula_s, 3),
        "ratio": round(mean_s / formula_s, 3),
    }


def age_checks(row: dict[str, Any]) -> Iterator[Check]:
    """The measured age is that of the formula, where it holds."""
    if row["busy_fraction"] >= HOLDS_BELOW:
        return
    case = f"{row['form']}, T {row['send_fraction']:g}, s {row['num_partners']}, N {row['num_nodes']}"
    if row["loss_fraction"]:
        case += f", {row['loss_fraction']:.0%} lost"
    name = f"ages, {case}: measured age over the formula"
    yield Check(name, row["ratio"], ">=", 1 - MOST_OFF, "1 / mu")
    yield Check(name, row["ratio"], "<=", 1 + MOST_OFF, "1 / mu")
