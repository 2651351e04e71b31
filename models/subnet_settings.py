"""How a device chooses, draws and trains the sub-network of a mini-batch: what tells the methods apart."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
PositiveFraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Ceiling = tuple[Annotated[int, Meta(ge=1, le=1_000_000)], PositiveFraction]


class SubnetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The device's part of a method. Shares of MACs refer to the full network of the bundle.

    Attributes:
        choice: which vector of the table a mini-batch trains. `live`: the best one for the budget of this
            moment, stretched over all mini-batches that are left. `widest`: the largest one that can be done
            before the deadline: few wide mini-batches, and narrow ones at the end. `per-order`: the best one
            for the budget at the order's first mini-batch, for all of them. `below`: at each mini-batch one
            drawn evenly from those up to the `per-order` one. `fixed`: always the largest one within
            `fixed_fraction` of the MACs.
        fixed_fraction: share of the full MACs that `fixed` means.
        floor_fraction: vectors below this share of the full MACs are not trained; time is saved up for
            one above it. Where none above it fits in memory, the largest one that does is trained.
        ceilings: [round, share]: from this round on vectors above the share of the full MACs are not
            trained; empty: all may be.
        draw: which channels a vector keeps. `random`: drawn anew for each mini-batch. `random-per-order`:
            drawn once an order. `ordered`: the first ones. `rolling`: a window that moves on by one channel
            a round. `importance`: those of the largest L2 norm in the weights the order starts from.
        core_fraction: of the kept channels this share is always the first ones (`random` alone).
        sandwich_fraction: share of the mini-batches of a device that can afford more which train the
            cheapest vector that is not below the floor.
        scaling: kept activations count (channels / kept) times, as in inverted dropout.
        mask_absent_classes: logits of classes without local samples are 0 and get no gradient.
        self_distillation: weight of the divergence from the largest affordable sub-network's output beside
            1 - weight of the labels' loss; 0 is none.
        label_prior: how much of the log frequencies of the local classes is added to the logits while
            training (`models.priors`); 0 is none, 1 all. A network that does not end in a Gemm with a bias
            is trained without.
        micro_batch: mini-batches that do not fit in memory are trained in parts of at least so many samples
            (`models.micro_batches`); 0: never.
        cut_batch: with the choice `widest`, a mini-batch that would not be done in time is cut to as many
            samples as there is time for, if these are at least so many, before a narrower vector is taken;
            0: never. Not with self-distillation.
        partial_work: whether an order that could not be finished in time is reported; else it is dropped.
    """

    choice: Literal["live", "widest", "per-order", "below", "fixed"] = "live"
    fixed_fraction: PositiveFraction = 1.0
    floor_fraction: Fraction = 0.0
    ceilings: Annotated[tuple[Ceiling, ...], Meta(max_length=100)] = ()
    draw: Literal["random", "random-per-order", "ordered", "rolling", "importance"] = "random"
    core_fraction: Fraction = 0.0
    sandwich_fraction: Fraction = 0.0
    scaling: bool = False
    mask_absent_classes: bool = False
    self_distillation: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    label_prior: Annotated[float, Meta(ge=0.0, le=4.0)] = 0.0
    micro_batch: Annotated[int, Meta(ge=0, le=2**20)] = 0
    cut_batch: Annotated[int, Meta(ge=0, le=2**20)] = 0
    partial_work: bool = True

    def __post_init__(self) -> None:
        """Refuse ceilings out of order."""
        if any(after[0] <= before[0] for before, after in pairwise(self.ceilings)):
            raise ValueError("ceilings must come by rising rounds")

    def ceiling_fraction(self, round_number: int) -> float:
        """Share of the full MACs that the vectors of this round may have at most."""
        reached = [share for from_round, share in self.ceilings if from_round <= round_number]
        return reached[-1] if reached else 1.0
