"""How devices learn from streams and tell each other prototypes: the settings of a gossip run."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from models.prototypes.settings import IlvqSettings, LearnerSettings

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]


class NewsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Own samples are told to all neighbours as soon as their labels are known, if they are news.

    Attributes:
        below: a sample is news where what neighbours are known to have gives its class less probability than
            this; 1: all are.
        at_first: samples told whatever they are, so that there is something to compare with.
        demand_below: a device whose predictions owe less than this to what it is told asks for no more; 0:
            it always wants more.
        probes: share of the news that is told also to those who have asked for no more, so that they may
            change their minds.
        units_every: messages after which the units of the features travel along again, for those who missed
            them; they also do when they are new to a neighbour, or suit a sample no more.
    """

    below: Fraction = 0.5
    at_first: Annotated[int, Meta(ge=0, le=1_000_000)] = 10
    demand_below: Fraction = 0.15
    probes: Fraction = 0.1
    units_every: Annotated[int, Meta(ge=1, le=1_000_000)] = 50


class SetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole set of prototypes is told now and then, and foreign prototypes are learned like samples.

    Attributes:
        probability: of telling anybody after a sample (T). partners: neighbours drawn for it (s).
        gate: `open`: each of them is told. `paper`: those whose last set is far from the own. `calibrated`:
            those who hold a set that differs from the own by more than chance.
        clustering: of the set, where it has grown over `most`, to 85 % of that.
        most: prototypes that are not clustered.
        tells_changes: a neighbour says which set it has, and is told what changed since where that is less.
        learned: foreign prototypes learned after a sample, at most. skips_known: not those that are own ones
            already, such as an echo.
    """

    probability: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    partners: Annotated[int, Meta(ge=1, le=1000)] = 4
    gate: Literal["open", "paper", "calibrated"] = "open"
    clustering: Literal["none", "dbscan", "kmeans"] = "none"
    most: Annotated[int, Meta(ge=2, le=65_535)] = 100
    tells_changes: bool = True
    learned: Annotated[int, Meta(ge=0, le=10_000)] = 20
    skips_known: bool = True


class GossipSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What learns and what is told.

    Attributes:
        windows: parts of a pass over a stored stream; after each a device reports. Of a live one it reports
            when the coordinator asks.
        passes: over a stored stream; the run's rounds.
        sample_s: seconds between two samples of a device, where a stored stream is replayed.
        learner: `experts` is `models.prototypes.learner`, `ilvq` is `models.prototypes.ilvq`.
        shares: nothing; `news`, which needs `experts` with a pool; or `sets`, which needs `ilvq`.
    """

    windows: Annotated[int, Meta(ge=1, le=10_000)] = 10
    passes: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    sample_s: Annotated[float, Meta(ge=0.0, le=1e5)] = 0.01
    learner: Literal["experts", "ilvq"] = "experts"
    shares: Literal["nothing", "news", "sets"] = "news"
    experts: LearnerSettings = LearnerSettings()
    ilvq: IlvqSettings = IlvqSettings()
    news: NewsSettings = NewsSettings()
    sets: SetSettings = SetSettings()

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        needs = {"news": "experts", "sets": "ilvq"}.get(self.shares, self.learner)
        if self.learner != needs:
            raise ValueError(f"shares {self.shares} needs the learner {needs}, not {self.learner}")
        if self.shares == "news" and not self.experts.pool:
            raise ValueError("shares news needs an experts.pool of 1 or more to keep what is told")
        if (
            self.shares == "sets"
            and self.sets.clustering != "none"
            and self.ilvq.max_prototypes <= self.sets.most
        ):
            raise ValueError(
                f"{self.ilvq.max_prototypes} prototypes are never clustered, for that begins above sets.most "
                f"({self.sets.most}): raise ilvq.max_prototypes, lower sets.most, or cluster none"
            )
