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

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.strategies.averages import AverageSettings
from coordinator.twins.comparison import Comparison
from coordinator.twins.faults import Faults
from coordinator.twins.groups import MAX_DEVICES, Group
from coordinator.twins.overrides import apply_overrides
from coordinator.twins.trace_kinds import Csv, Resources, Text, Vm
from device_agent.peers.topology_settings import TopologySettings
from firmware_profiles.policy import Policy
from firmware_profiles.strict import load_strict
from models.compression.settings import CompressionSettings
from models.gossip_settings import GossipSettings
from models.optim.settings import OptimizerSettings
from models.peer_settings import PeerSettings
from models.subnet_settings import SubnetSettings

Level = Annotated[float, Meta(gt=0.0, le=1.0)]
SubnetChanges = Annotated[
    dict[str, Any], Meta(description="keys of SubnetSettings", extra={"keys_of": SubnetSettings})
]
AverageChanges = Annotated[
    dict[str, Any], Meta(description="keys of AverageSettings", extra={"keys_of": AverageSettings})
]

PeerChanges = Annotated[
    dict[str, Any], Meta(description="keys of PeerSettings", extra={"keys_of": PeerSettings})
]
GossipChanges = Annotated[
    dict[str, Any], Meta(description="keys of GossipSettings", extra={"keys_of": GossipSettings})
]
TopologyChanges = Annotated[
    dict[str, Any], Meta(description="keys of TopologySettings", extra={"keys_of": TopologySettings})
]
AsyncChanges = Annotated[
    dict[str, Any] | None, Meta(description="keys of AsyncSettings", extra={"keys_of": AsyncSettings})
]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet, its world and what it learns.

    Attributes:
        name: for people.
        strategy, model, data, partition, table: as the options of `edgetide up`.
        paper: `distreal` in the form its paper gives it.
        base_width: share of every width group that the network has at all; the strategy's if left out.
        levels: keep fractions of a uniform table, in place of the strategy's table.
        subnets, averages, peers, gossip, topology: keys that replace the strategy's.
        asynchrony: keys that replace the strategy's; given at all, it goes without rounds.
        rounds: aggregations; of a strategy with peers, barriers; without rounds, buffers; of one that learns
            from streams, passes.
        round_s: seconds a device has for an order.
        budget_fraction: replaces round_s, see `coordinator.twins.budgets.round_seconds`.
        devices_per_round: how many get an order, drawn anew each round; all of them if left out.
        grace_s: seconds more for the way back; a quarter of round_s (at least 2) if left out.
        passes: over the local data per round.
        batch_size: of local training.
        optimizer: of local training: sgd, adamw, a file, or the keys themselves.
        learning_rate: replaces the optimiser's if given.
        compression: of the updates.
        engine: what computes the numbers, on one thread of the CPU; auto takes onnx if it is installed.
        seed: decides weights, data split, orders, traces and network.
        measure_on: what versions are measured on: `test`, or `validation` while something is being chosen.
        num_validation: training samples that are set aside for it, drawn by the seed, before anything else.
        measure_samples: only so many, evenly spread, are measured after each round; the last version on all.
        min_devices: devices that must be online to begin a round; all of them if left out.
        telemetry_s: seconds between a device's telemetry messages; large fleets simulate faster with fewer.
        limit_s: gives up after so long; ten times what the rounds should take if left out.
        until_s: ends the run at this time, however far it is.
        devices: the groups.
        faults: what goes wrong besides.
        compare: what `edgetide sim compare` varies.
    """

    name: Text
    devices: Annotated[tuple[Group, ...], Meta(min_length=1, max_length=1000)]
    strategy: Text = "distreal"
    model: Text = "cnn-28"
    data: Text = "fashion-mnist-small"
    partition: Text = "iid"
    table: Text | None = None
    paper: bool = False
    base_width: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    levels: Annotated[tuple[Level, ...], Meta(min_length=1, max_length=100)] | None = None
    subnets: SubnetChanges = {}
    averages: AverageChanges = {}
    peers: PeerChanges = {}
    gossip: GossipChanges = {}
    topology: TopologyChanges = {}
    asynchrony: AsyncChanges = None
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 8
    round_s: Annotated[float, Meta(gt=0.0, le=1e7)] = 60.0
    budget_fraction: Annotated[float, Meta(gt=0.0, le=1e4)] | None = None
    devices_per_round: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] | None = None
    grace_s: Annotated[float, Meta(gt=0.0, le=1e7)] | None = None
    passes: Annotated[float, Meta(gt=0.0, le=1e4)] = 1.0
    batch_size: Annotated[int, Meta(ge=1, le=65_536)] = 32
    optimizer: OptimizerSettings | Text = "sgd"
    learning_rate: Annotated[float, Meta(gt=0.0, le=1e3)] | None = None
    compression: CompressionSettings = CompressionSettings()
    engine: Literal["auto", "torch", "onnx", "ort-training", "numpy"] = "auto"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    measure_on: Literal["test", "validation"] = "test"
    num_validation: Annotated[int, Meta(ge=0, le=10**9)] = 0
    measure_samples: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    min_devices: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] | None = None
    telemetry_s: Annotated[float, Meta(ge=0.1, le=1e6)] = 1.0
    limit_s: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    until_s: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    faults: Faults = Faults()
    compare: Comparison | None = None

    def __post_init__(self) -> None:
        """Refuse more devices than make sense, and waiting for more than there are."""
        if self.num_devices > MAX_DEVICES:
            raise ValueError(f"devices: {self.num_devices} devices in all, at most {MAX_DEVICES}")
        if self.min_devices is not None and self.min_devices > self.num_devices:
            raise ValueError(f"min_devices {self.min_devices} is more than the {self.num_devices} devices")
        if self.devices_per_round is not None and self.devices_per_round > self.num_devices:
            raise ValueError(
                f"devices_per_round {self.devices_per_round} is more than the {self.num_devices} devices"
            )
        if self.paper and self.strategy != "distreal":
            raise ValueError(f"paper is a form of the strategy distreal, not of {self.strategy}")
        if self.measure_on == "validation" and self.num_validation == 0:
            raise ValueError("measure_on is validation: say by num_validation how many samples to set aside")

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return sum(group.count for group in self.devices)

    @property
    def method(self) -> str:
        """The preset that the strategy stands for."""
        return "distreal-paper" if self.paper else self.strategy


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
        is_file = isinstance(value, (Csv, Vm))
        return msgspec.structs.replace(value, file=path(value.file)) if is_file else value

    def group(one: Group) -> Group:
        fields = {name: trace(getattr(one.resources, name)) for name in Resources.__struct_fields__}
        policy = one.policy if isinstance(one.policy, Policy) else path(one.policy)
        return msgspec.structs.replace(
            one, profile=place(one.profile), policy=policy, resources=Resources(**fields)
        )

    links = tuple(
        msgspec.structs.replace(link, schedule=None if link.schedule is None else path(link.schedule))
        for link in scenario.faults.links
    )
    compare = scenario.compare
    if compare is not None and isinstance(compare.methods, str):
        compare = msgspec.structs.replace(compare, methods=path(compare.methods))
    return msgspec.structs.replace(
        scenario,
        model=place(scenario.model),
        data=place(scenario.data),
        table=None if scenario.table is None else path(scenario.table),
        optimizer=place(scenario.optimizer) if isinstance(scenario.optimizer, str) else scenario.optimizer,
        devices=tuple(group(one) for one in scenario.devices),
        faults=msgspec.structs.replace(scenario.faults, links=links),
        topology={
            key: path(str(value)) if key == "file" else value for key, value in scenario.topology.items()
        },
        compare=compare,
    )
