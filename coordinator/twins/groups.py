"""The devices of a scenario: boards, their links, and what groups of them have in common."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from coordinator.twins.trace_kinds import Resources, Seconds, Text
from firmware_profiles.policy import Policy
from firmware_profiles.profile import EngineName

MAX_DEVICES = 10_000

Label = Annotated[int, Meta(ge=0, le=65_535)]
IdText = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,48}$", description="1 to 48 of a-z, 0-9 and '-'")]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A device's way to the broker, the same numbers in both directions unless named otherwise.

    Attributes:
        latency_ms: one way. jitter_ms: up to so much more, evenly drawn.
        up_kbit_s, down_kbit_s: bandwidth, 1000 bits; None: no limit.
        loss_fraction: share of the messages that are lost and have to be sent again.
        outages_s: [from, until] without a connection, by rising time.
    """

    latency_ms: Annotated[float, Meta(ge=0.0, le=60_000.0)] = 0.0
    jitter_ms: Annotated[float, Meta(ge=0.0, le=60_000.0)] = 0.0
    up_kbit_s: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    down_kbit_s: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    loss_fraction: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.0
    outages_s: Annotated[tuple[tuple[Seconds, Seconds], ...], Meta(max_length=10_000)] = ()

    def __post_init__(self) -> None:
        """Refuse outages that overlap or end before they begin."""
        flat = [time_s for outage in self.outages_s for time_s in outage]
        if any(after <= before for before, after in pairwise(flat)):
            raise ValueError("outages_s has [from, until] that overlap or are out of order")


class BoardSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """How long one core computes for one mini-batch.

    Attributes:
        core_seconds_per_mac: seconds of one core per training MAC (forward and backward).
        core_seconds_per_step: seconds of one core that every mini-batch takes besides.
        core_seconds_per_activation_byte: seconds of one core per byte that the backward pass reads.
    """

    core_seconds_per_mac: Annotated[float, Meta(gt=0.0, le=1.0)]
    core_seconds_per_step: Annotated[float, Meta(ge=0.0, le=1e4)] = 0.0
    core_seconds_per_activation_byte: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of one kind.

    Attributes:
        profile: name of a shipped profile, or a file.
        count: how many. id: what their names begin with; the profile's name if left out.
        policy: what training may take: a file, or the keys themselves.
        engine: whose speed the profile tells; what computes the numbers is the scenario's engine.
        speed: replaces the profile's.
        num_threads: threads of the engine on the device.
        step_jitter_fraction: a step takes up to this share more or less, evenly drawn.
        step_exponential_s: mean seconds that a step takes besides, drawn from an exponential distribution.
        data_fraction: share of its part of the data that a device has.
        labels: classes whose samples go to devices of groups that list them, and to no others.
        memory_fraction: memory that training may take, as a share of what the full network of width 1 needs.
        resources: what changes. network: its link.
    """

    profile: Text
    count: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] = 1
    id: IdText | None = None
    policy: Policy | Text = Policy()
    engine: EngineName = "onnx"
    speed: BoardSpeed | None = None
    num_threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    step_jitter_fraction: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0
    step_exponential_s: Annotated[float, Meta(ge=0.0, le=1e4)] = 0.0
    data_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    labels: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=1000)] | None = None
    memory_fraction: Annotated[float, Meta(gt=0.0, le=1e3)] | None = None
    resources: Resources = Resources()
    network: Link = Link()
