"""A fleet on a virtual clock: the coordinator's node, twins, a broker in memory, a modelled network.

Nothing here decides what an agent or a coordinator does; it builds the same nodes as the live runtimes
with other ports, moves time from event to event and counts. The same scenario and seed give the same
result and the same weights, whatever else the machine does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.blobs import Blobs
from coordinator.evaluator import measure
from coordinator.fleet import Fleet
from coordinator.node import CoordinatorNode
from coordinator.orders import RunConfig
from coordinator.rounds import RoundsCore
from coordinator.settings import Learning, LearningConfig, prepare_learning, read_optimizer
from coordinator.strategies.names import STRATEGIES
from coordinator.twins.clock import VirtualClock, VirtualTimers
from coordinator.twins.memory_run import MemoryRun
from coordinator.twins.network import LinkNetwork
from coordinator.twins.result import SimResult, make_result
from coordinator.twins.scenario import Group, Scenario
from coordinator.twins.twin import MeteredBus, Twin, World, load_board, make_twin
from device_agent.wire.chunks import Downloads
from device_agent.wire.memory import MemoryBroker
from device_agent.wire.topics import COORDINATOR
from firmware_profiles.errors import UserError
from models.bundle import Bundle
from models.bundle import encode as encode_bundle
from models.data.dataset import Dataset
from models.data.partition import partition
from models.engines.choose import make_engine, resolve_engine
from models.engines.engine import Engine
from models.subnet import Array
from models.weights import digest as weights_digest
from models.weights import pack

FLEET = "sim"
PROGRESS_S = 1.0
LIMIT_FACTOR = 10.0
"""How many times longer than its rounds a simulation may take before it is given up."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far a simulation is.

    Attributes:
        virtual_s: now. round, num_rounds: of the run. accuracy: 0..1, None before it was measured.
        steps: mini-batches trained. states: how many devices are in which state.
    """

    virtual_s: float
    round: int
    num_rounds: int
    accuracy: float | None
    steps: int
    states: dict[str, int]


def simulate(
    scenario: Scenario, seed: int | None = None, progress: Callable[[Moment], None] | None = None
) -> SimResult:
    """Run a scenario to its end.

    Args:
        scenario: see `coordinator.twins.scenario.load_scenario`.
        seed: replaces the scenario's.
        progress: told once in each virtual second.

    Raises:
        UserError: something the scenario names cannot be used, the rounds do not come to an end, or
            no engine is installed.
    """
    seed = scenario.seed if seed is None else seed
    kind = resolve_engine(scenario.engine, gpu=False)
    learning = prepare_learning(
        LearningConfig(
            model=scenario.model,
            data=scenario.data,
            strategy=scenario.strategy,
            table=None if scenario.table is None else Path(scenario.table),
            engine=kind,
            seed=seed,
            num_rounds=scenario.rounds,
            passes=scenario.passes,
            batch_size=scenario.batch_size,
            optimizer=read_optimizer(scenario.optimizer)
            if isinstance(scenario.optimizer, str)
            else scenario.optimizer,
            learning_rate=scenario.learning_rate,
        )
    )
    with _repeatable_engine(kind, learning.bundle) as engine:
        return _Simulation(scenario, learning, engine, seed).run(progress)


class _Simulation:
    """The nodes of one run and what connects them."""

    def __init__(self, scenario: Scenario, learning: Learning, engine: Engine, seed: int) -> None:
        self._scenario, self._learning, self._engine, self._seed = scenario, learning, engine, seed
        groups = device_groups(scenario)
        network = LinkNetwork({device: group.network for device, group in groups.items()}, str(seed))
        self._broker = MemoryBroker(network=network)
        self._clock = VirtualClock(self._broker)
        self._state = MemoryRun(clock=lambda: self._clock.now_s)
        self._is_over = False
        self._bus, self._coordinator = self._make_coordinator()
        self._twins = self._make_twins(groups)

    def run(self, progress: Callable[[Moment], None] | None) -> SimResult:
        scenario, clock = self._scenario, self._clock
        if progress is not None:
            self._report(progress)
        limit_s = scenario.limit_s or LIMIT_FACTOR * scenario.rounds * (scenario.round_s + grace_s(scenario))
        if not clock.run(lambda: self._is_over, limit_s):
            raise UserError(self._unfinished(limit_s))
        return make_result(
            scenario=scenario,
            engine=self._engine.name,
            seed=self._seed,
            virtual_s=clock.now_s,
            state=self._state,
            twins=self._twins,
            coordinator_bus=self._bus,
            digest=weights_digest(self._coordinator.core.weights),
        )

    def _make_coordinator(self) -> tuple[MeteredBus, CoordinatorNode]:
        clock, scenario, learning = self._clock, self._scenario, self._learning
        blobs = Blobs()
        core = RoundsCore(
            config=RunConfig(
                run=f"sim-{self._seed}",
                strategy_name=scenario.strategy,
                num_rounds=scenario.rounds,
                min_devices=scenario.min_devices or scenario.num_devices,
                deadline_s=scenario.round_s,
                grace_s=grace_s(scenario),
                passes=scenario.passes,
                batch_size=scenario.batch_size,
                seed=self._seed,
                learning_rates=learning.learning_rates(),
            ),
            strategy=STRATEGIES[scenario.strategy][1],
            bundle=learning.bundle,
            bundle_ref=blobs.put(encode_bundle(learning.bundle)),
            weights=learning.weights,
            weights_ref=blobs.put(pack(learning.weights)),
            boot_epoch=1,
        )
        bus = MeteredBus(self._broker.connect(COORDINATOR))
        node = CoordinatorNode(
            fleet=FLEET,
            core=core,
            bus=bus,
            downloads=Downloads(random.Random(f"{self._seed}/{COORDINATOR}/downloads")),
            timers=VirtualTimers(clock),
            blobs=blobs,
            state=self._state,
            # Measured at this moment of virtual time, after what the node is doing now.
            evaluate=lambda version, weights: clock.post(lambda: self._evaluate(version, weights)),
            finished=self._finished,
            view=Fleet(groups=learning.bundle.plan.groups),
        )
        node.subscribe(lambda topic, payload: clock.post(lambda: node.received(topic, payload)))
        clock.post(node.start)
        return bus, node

    def _make_twins(self, groups: dict[str, Group]) -> dict[str, Twin]:
        world = World(
            fleet=FLEET,
            clock=self._clock,
            broker=self._broker,
            engine=lambda _bundle: self._engine,  # one graph and one loss in a run
            seed=self._seed,
        )
        train = self._learning.data.train
        parts = partition(train, self._scenario.partition, len(groups), self._seed)
        boards = {id(group): load_board(group) for group in self._scenario.devices}
        twins: dict[str, Twin] = {}
        for (device, group), part in zip(groups.items(), parts, strict=True):
            data = _share(train.take(part), group.data_fraction, f"{self._seed}/{device}/data")
            twins[device] = make_twin(world, device, boards[id(group)], data)
        return twins

    def _evaluate(self, version: int, weights: dict[str, Array]) -> None:
        data = self._learning.data
        measured = measure(self._engine, weights, data.train, data.test)
        self._coordinator.evaluated(version, measured.accuracy, measured.loss)

    def _finished(self) -> None:
        self._is_over = True

    def _report(self, progress: Callable[[Moment], None]) -> None:
        progress(self._moment())
        self._clock.call_at(self._clock.now_s + PROGRESS_S, lambda: self._report(progress))

    def _moment(self) -> Moment:
        core, states = self._coordinator.core, [twin.node.core.state for twin in self._twins.values()]
        return Moment(
            virtual_s=self._clock.now_s,
            round=min(core.round, core.config.num_rounds),
            num_rounds=core.config.num_rounds,
            accuracy=core.accuracy,
            steps=sum(twin.jobs.work.steps for twin in self._twins.values()),
            states={state: states.count(state) for state in sorted(set(states))},
        )

    def _unfinished(self, limit_s: float) -> str:
        core = self._coordinator.core
        states = [
            f"{device} {twin.node.core.state}" + (f" ({reason})" if (reason := twin.node.core.reason) else "")
            for device, twin in list(self._twins.items())[:5]
        ]
        more = f" and {len(self._twins) - 5} more" if len(self._twins) > 5 else ""
        return (
            f"scenario {self._scenario.name!r}: after {limit_s:.0f} virtual s round {core.round} of "
            f"{core.config.num_rounds} is still {core.state}; {'; '.join(states)}{more}. "
            "Give the devices more (round_s, policy, resources) or the run more time (limit_s)"
        )


def device_groups(scenario: Scenario) -> dict[str, Group]:
    """Each device's id with its group: the group's id, or the profile's name, and a number.

    Raises:
        UserError: two groups give the same ids.
    """
    groups: dict[str, Group] = {}
    num_named: dict[str, int] = {}
    for group in scenario.devices:
        prefix = group.id or Path(group.profile).stem[:48]
        for _ in range(group.count):
            num_named[prefix] = num_named.get(prefix, 0) + 1
            device = f"{prefix}-{num_named[prefix]}"
            if device in groups:
                raise UserError(f"two devices are called {device}: give their groups other ids")
            groups[device] = group
    return groups


def grace_s(scenario: Scenario) -> float:
    """Seconds an update has for its way; as the live coordinator reckons if the scenario does not say."""
    return scenario.grace_s or max(2.0, 0.25 * scenario.round_s)


def _share(data: Dataset, fraction: float, seed: str) -> Dataset:
    if fraction == 1.0:
        return data
    indices = list(range(len(data)))
    random.Random(seed).shuffle(indices)
    return data.take(np.array(sorted(indices[: max(1, round(fraction * len(indices)))]), np.int64))


@contextmanager
def _repeatable_engine(kind: str, bundle: Bundle) -> Iterator[Engine]:
    """An engine on one thread of the CPU, without kernels whose sums depend on chance."""
    if kind != "torch":
        yield make_engine(kind, bundle.graph, bundle.settings.loss, 1, bundle.artifacts)
        return
    import torch  # noqa: PLC0415 - heavy, and needed only where it is what computes

    from models.engines.torch import TorchEngine  # noqa: PLC0415

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield TorchEngine(bundle.graph, bundle.settings.loss, 1, device="cpu")
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
