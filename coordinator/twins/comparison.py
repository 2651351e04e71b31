"""What `edgetide sim compare` varies over a scenario."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from coordinator.twins.trace_kinds import Text

Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Changes = Annotated[dict[str, Any], Meta(description="keys of a scenario")]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Methods and seeds of a comparison.

    Attributes:
        methods: name -> keys of a scenario that replace this one's; or a YAML file of such.
        seeds: each method runs with each of them.
        targets: accuracies whose time is told, 0..1.
    """

    methods: Text | Annotated[dict[str, Changes], Meta(min_length=1, max_length=1000)]
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1, max_length=1000)] = (0,)
    targets: Annotated[tuple[Annotated[float, Meta(gt=0.0, le=1.0)], ...], Meta(max_length=100)] = ()
