"""How the coordinator applies updates that come when they come: its part of asynchronous methods.

References:
    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, arXiv 1903.03934 (constant, polynomial
    and hinge). Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
    arXiv 2106.06639 (the buffer).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class AsyncSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a run without rounds.

    Attributes:
        buffer_size: updates that make a new version; None: as many as there are devices.
        buffer_s: seconds after which fewer do; None: never.
        staleness: weight of an update that is s versions late. `constant`: 1. `polynomial`:
            (1 + s)^-staleness_exponent. `hinge`: 1 up to `hinge_after`, then 1 / (1 + staleness_exponent *
            (s - hinge_after)). `drop`: 1 up to `hinge_after`, then 0: it is counted as expired.
        max_staleness: an update that is later is counted as expired, whatever the policy.
        fairness: `none`: every update weighs what staleness says. `rate`: it also weighs the more, the less
            its device has contributed so far for the data it has, so that slow devices' data is not drowned.
        fairness_cap: most that `rate` raises an update.
        max_concurrency: devices that have an order at a time; None: all.
    """

    buffer_size: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    buffer_s: Annotated[float, Meta(gt=0.0, le=1e7)] | None = None
    staleness: Literal["constant", "polynomial", "hinge", "drop"] = "polynomial"
    staleness_exponent: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.5
    hinge_after: Annotated[int, Meta(ge=0, le=1_000_000)] = 4
    max_staleness: Annotated[int, Meta(ge=0, le=1_000_000)] = 20
    fairness: Literal["none", "rate"] = "rate"
    fairness_cap: Annotated[float, Meta(ge=1.0, le=1e6)] = 8.0
    max_concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
