"""Scenarios: a fleet, its world and what it learns, as one strict YAML file.

::

    name: two boards
    data: fashion-mnist-small
    rounds: 4
    devices:
      - profile: raspberry-pi-4
        count: 2
        resources:
          cpu_others_fraction: {kind: steps, points: [[0, 0.0], [120, 0.8]]}
        network: {latency_ms: 20, up_kbit_s: 8000}

Everything but `name`, `devices` and each group's `profile` has a default. Paths are relative to the
scenario file. Times are virtual seconds since the start.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from coordinator.twins.overrides import apply_overrides
from firmware_profiles.policy import Policy
from firmware_profiles.profile import EngineName
from firmware_profiles.strict import load_strict
from models.optim.settings import OptimizerSettings

MAX_DEVICES = 10_000

Text = Annotated[str, Meta(min_length=1, max_length=500)]
IdText = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,48}$", description="1 to 48 of a-z, 0-9 and '-'")]
Seconds = Annotated[float, Meta(ge=0.0, le=1e8)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Value = bool | Number
Point = tuple[Seconds, Value]


# ---------------------------------------------------------------- traces: a quantity over time


class Steps(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="steps"):
    """The value of the last point that has passed; before the first point, nothing is known.

    Attributes:
        points: [seconds, value], by rising seconds.
    """

    points: Annotated[tuple[Point, ...], Meta(min_length=1, max_length=100_000)]

    def __post_init__(self) -> None:
        """Refuse points that are not in order."""
        _check_order(self.points)


class Ramp(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ramp"):
    """Straight lines between points; the first and the last value hold before and after them.

    Attributes:
        points: [seconds, value], by rising seconds.
    """

    points: Annotated[tuple[Point, ...], Meta(min_length=2, max_length=100_000)]

    def __post_init__(self) -> None:
        """Refuse points that are not in order."""
        _check_order(self.points)


class Walk(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="walk"):
    """A random walk between two walls, another one on each device; the scenario's seed decides.

    Attributes:
        start: first value.
        step: standard deviation of one step.
        every_s: seconds between steps.
        low, high: the walls.
    """

    start: Number
    step: Annotated[float, Meta(ge=0.0, le=1e15)]
    low: Number
    high: Number
    every_s: Annotated[float, Meta(ge=0.1, le=1e6)] = 10.0

    def __post_init__(self) -> None:
        """Refuse walls the walk does not start between."""
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is not between low {self.low:g} and high {self.high:g}")


class Csv(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="csv"):
    """A column of a file with a header; a value holds until the next row, an empty cell is not known.

    Attributes:
        file: path. column: of the values. time_column: of the seconds, rising.
        repeat_s: begin again after so many seconds; None holds the last value.
    """

    file: Text
    column: Text
    time_column: Text = "t_s"
    repeat_s: Annotated[float, Meta(ge=0.1, le=1e8)] | None = None


Trace = bool | Number | Steps | Ramp | Walk | Csv
"""A plain value is constant."""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a device's sensors read over time; what is left out the board does not have.

    Attributes:
        start_hour: local time at the start in hours 0..24; None: the board has no clock.
        charging, throttled: true or false; as numbers, at least 0.5 is true.
        Others: see `firmware_profiles.resources.Snapshot`.
    """

    cpu_others_fraction: Trace | None = None
    memory_available_bytes: Trace | None = None
    battery_fraction: Trace | None = None
    charging: Trace | None = None
    temperature_celsius: Trace | None = None
    throttled: Trace | None = None
    clock_hz: Trace | None = None
    start_hour: Annotated[float, Meta(ge=0.0, lt=24.0)] | None = None


# ---------------------------------------------------------------- the network, the board


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
    """

    core_seconds_per_mac: Annotated[float, Meta(gt=0.0, le=1.0)]
    core_seconds_per_step: Annotated[float, Meta(ge=0.0, le=1e4)] = 0.0


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
        data_fraction: share of its part of the data that a device has.
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
    data_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    resources: Resources = Resources()
    network: Link = Link()


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet, its world and what it learns.

    Attributes:
        name: for people.
        strategy, model, data, partition, table: as the options of `edgetide up`.
        rounds: aggregations. round_s: seconds a device has for an order.
        grace_s: seconds more for the way back; a quarter of round_s (at least 2) if left out.
        passes: over the local data per round.
        batch_size: of local training.
        optimizer: of local training: sgd, adamw, a file, or the keys themselves.
        learning_rate: replaces the optimiser's if given.
        engine: what computes the numbers, on one thread of the CPU; auto takes onnx if it is installed.
        seed: decides weights, data split, orders, traces and network.
        min_devices: devices that must be online to begin a round; all of them if left out.
        limit_s: gives up after so long; ten times what the rounds should take if left out.
        devices: the groups.
    """

    name: Text
    devices: Annotated[tuple[Group, ...], Meta(min_length=1, max_length=1000)]
    strategy: Text = "distreal"
    model: Text = "cnn-28"
    data: Text = "fashion-mnist-small"
    partition: Text = "iid"
    table: Text | None = None
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 8
    round_s: Annotated[float, Meta(gt=0.0, le=1e7)] = 60.0
    grace_s: Annotated[float, Meta(gt=0.0, le=1e7)] | None = None
    passes: Annotated[float, Meta(gt=0.0, le=1e4)] = 1.0
    batch_size: Annotated[int, Meta(ge=1, le=65_536)] = 32
    optimizer: OptimizerSettings | Text = "sgd"
    learning_rate: Annotated[float, Meta(gt=0.0, le=1e3)] | None = None
    engine: Literal["auto", "torch", "onnx", "ort-training", "numpy"] = "auto"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    min_devices: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] | None = None
    limit_s: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None

    def __post_init__(self) -> None:
        """Refuse more devices than make sense, and waiting for more than there are."""
        if self.num_devices > MAX_DEVICES:
            raise ValueError(f"devices: {self.num_devices} devices in all, at most {MAX_DEVICES}")
        if self.min_devices is not None and self.min_devices > self.num_devices:
            raise ValueError(f"min_devices {self.min_devices} is more than the {self.num_devices} devices")

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return sum(group.count for group in self.devices)


def load_scenario(path: Path, overrides: list[str] | None = None) -> Scenario:
    """Read a scenario and apply `key=value` overrides to it; its paths become whole.

    Args:
        path: YAML file.
        overrides: dotted keys, such as `rounds=3`, `devices.0.count=8` or
            `devices.*.network.loss_fraction=0.1`.

    Raises:
        UserError: the file or an override does not fit; names file, line and key.
    """
    scenario = apply_overrides(load_strict(path, Scenario), overrides or [])
    return _rooted(scenario, Path(path).parent)


def _rooted(scenario: Scenario, folder: Path) -> Scenario:
    """Make the paths independent of where the command runs."""

    def path(text: str) -> str:
        return str(folder / text)

    def place(name: str) -> str:
        """A name of something shipped, unless it looks like a path."""
        return path(name) if "/" in name or "." in name else name

    def trace(value: Any) -> Any:
        return msgspec.structs.replace(value, file=path(value.file)) if isinstance(value, Csv) else value

    def group(one: Group) -> Group:
        fields = {name: trace(getattr(one.resources, name)) for name in Resources.__struct_fields__}
        policy = one.policy if isinstance(one.policy, Policy) else path(one.policy)
        return msgspec.structs.replace(
            one, profile=place(one.profile), policy=policy, resources=Resources(**fields)
        )

    return msgspec.structs.replace(
        scenario,
        model=place(scenario.model),
        data=place(scenario.data),
        table=None if scenario.table is None else path(scenario.table),
        optimizer=place(scenario.optimizer) if isinstance(scenario.optimizer, str) else scenario.optimizer,
        devices=tuple(group(one) for one in scenario.devices),
    )


def _check_order(points: tuple[Point, ...]) -> None:
    times_s = [time_s for time_s, _ in points]
    if any(after <= before for before, after in pairwise(times_s)):
        raise ValueError("points are not in order: seconds must rise from one to the next")
