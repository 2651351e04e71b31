"""Settings of the learners from streams, as a person writes them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Samples = Annotated[int, Meta(ge=1, le=100_000)]
_Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]


class LearnerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What bounds the memory, time and forgetting of `models.prototypes.learner.PrototypeLearner`.

    Attributes:
        memory: own samples that are kept, the latest ones.
        pool: prototypes of peers that are kept, the latest.
        peers: whose prototypes are kept at the same time.
        neighbours: k of the k nearest.
        horizons: samples that each group of nearest-neighbour experts looks back, beside the one that lets
            distance grow with age.
        fade: samples after which age counts as much as the distance of two random samples, to the own expert
            that lets it count. pool_fade: so to the pool's experts, where others are fresher.
        scale_memory: samples over which scales are taken.
        class_memories: samples after which each kind of Gaussian forgets; the longest last.
        hedge_decay: of an expert's loss, per sample. hedge_share: of the weight that all have in common.
        trust_slope: of the logistic function. trust_margin: by how much a peer's nearest prototypes may be
            right less often than the best own expert before it is trusted by half.
        pending: predictions remembered until their labels come.
    """

    memory: Samples = 100
    pool: Annotated[int, Meta(ge=0, le=100_000)] = 100
    peers: Annotated[int, Meta(ge=1, le=1000)] = 32
    neighbours: Annotated[int, Meta(ge=1, le=1000)] = 3
    horizons: Annotated[tuple[Samples, ...], Meta(min_length=1, max_length=16)] = (25, 50, 100)
    fade: Annotated[float, Meta(gt=0.0, le=1e6)] = 60.0
    pool_fade: Annotated[float, Meta(gt=0.0, le=1e6)] = 20.0
    scale_memory: Annotated[float, Meta(ge=1.0, le=1e9)] = 500.0
    class_memories: Annotated[
        tuple[Annotated[float, Meta(gt=1.0, le=1e9)], ...], Meta(min_length=1, max_length=8)
    ] = (20.0, 80.0, 1e9)
    hedge_decay: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.97
    hedge_share: _Fraction = 0.01
    trust_slope: Annotated[float, Meta(gt=0.0, le=1e3)] = 20.0
    trust_margin: _Fraction = 0.25
    pending: Annotated[int, Meta(ge=1, le=1_000_000)] = 256


class IlvqSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What bounds the graph of prototypes.

    Attributes:
        max_prototypes: the most that are kept. In place of one more, the one with the fewest wins goes, of
            these the one that has not won for the longest; the only one of its class goes last.
        max_age: wins of a prototype after which its edge goes, if it did not join the two nearest since.
        denoise_every: samples between two removals of lone prototypes (gamma); 0: never.
        neighbours: k of the prediction.
        neighbour_rate: step of a neighbour, as a share of the winner's.
        scale_memory: samples over which standard deviations are taken, the units of distances; None: these
            are units of the data.
    """

    max_prototypes: Annotated[int, Meta(ge=3, le=100_000)] = 100
    max_age: Annotated[int, Meta(ge=1, le=1_000_000)] = 400
    denoise_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 150
    neighbours: Annotated[int, Meta(ge=1, le=1000)] = 5
    neighbour_rate: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.01
    scale_memory: Annotated[float, Meta(ge=1.0, le=1e9)] | None = 500.0
