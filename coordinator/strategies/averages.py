"""How the coordinator averages updates of sub-networks: its part of a method."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class AverageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's part of a method.

    Attributes:
        entries: what divides an entry's summed deltas. `plain`: the weight of all updates (FedAvg; an entry
            that an update did not train counts as a delta of 0). `touched`: the weight of those that trained
            it at all (HeteroFL, FedRolex). `by-steps`: each update's weight by the share of its mini-batches
            that trained it, raised `cap` times at most.
        cap: see `entries`.
        weighting: of an update. `samples`: samples it trained. `data`: samples the device has. `equal`: 1.
        step_normalisation: 0: deltas as they are; 1: as if every update had made as many mini-batches as the
            mean (FedNova); between: that power of the ratio.
        server_momentum: of the averaged delta over rounds (FedAvgM). server_learning_rate: factor on it.
    """

    entries: Literal["plain", "touched", "by-steps"] = "by-steps"
    cap: Annotated[float, Meta(ge=1.0, le=1e6)] = 8.0
    weighting: Literal["samples", "data", "equal"] = "samples"
    step_normalisation: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    server_momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    server_learning_rate: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0

    def own_weight(self, num_samples: int, num_data: int | None) -> float:
        """What an update weighs by itself: of so many trained samples, from a device that has `num_data`."""
        if self.weighting == "equal":
            return 1.0
        if self.weighting == "data" and num_data is not None:
            return float(num_data)
        return float(num_samples)


MEAN_OF_ALL = AverageSettings(entries="plain", weighting="equal")
"""Every update counts alike."""
