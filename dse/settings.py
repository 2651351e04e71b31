"""How vectors are measured: what a study is begun with, and goes on with."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from models.optim.settings import OptimizerSettings

Objective = Literal["cost", "memory", "progress"]
CostKind = Literal["macs", "seconds", "joules"]
Draw = Literal["random", "random-per-order", "ordered", "rolling", "importance"]
_Count = Annotated[int, Meta(ge=1, le=10**7)]


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How vectors are measured; a study resumes only with the same ones.

    Attributes:
        objectives: what the search trades off, progress among them; in the order of `Objective`.
        stages: mini-batches that each device has trained before, rising; a vector's gain is the mean over
            them.
        num_steps: mini-batches each device of the round trains.
        num_devices: devices of the round, each with batches and sub-networks of its own.
        num_repeats: independent warm starts of each stage; the gain is the mean over them.
        num_held_out: training samples set aside to measure accuracy; the test part is never used.
        batch_size: samples of a mini-batch.
        draw: which channels a vector keeps, as in `models.subnet_settings.SubnetSettings`.
        optimizer: as devices will train.
        seed: decides held-out samples, batches and sub-networks.
    """

    objectives: Annotated[tuple[Objective, ...], Meta(min_length=2, max_length=3)] = ("cost", "progress")
    stages: Annotated[tuple[_Count, ...], Meta(min_length=1, max_length=16)] = (60, 240)
    num_steps: _Count = 15
    num_devices: _Count = 4
    num_repeats: _Count = 2
    num_held_out: _Count = 1500
    batch_size: _Count = 32
    draw: Draw = "random"
    optimizer: OptimizerSettings = OptimizerSettings(clip_norm=5.0)
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0

    def __post_init__(self) -> None:
        """Refuse stages and objectives out of order."""
        if any(after <= before for before, after in pairwise(self.stages)):
            raise ValueError(f"stages {list(self.stages)} must rise")
        if self.objectives not in OBJECTIVES:
            known = "; ".join(",".join(one) for one in OBJECTIVES)
            raise ValueError(f"objectives {','.join(self.objectives)} are none of: {known}")


OBJECTIVES: tuple[tuple[Objective, ...], ...] = (
    ("cost", "progress"),
    ("memory", "progress"),
    ("cost", "memory", "progress"),
)
"""What can be traded off."""
