"""A fleet on a virtual clock: the coordinator's node, twins, a broker in memory, a modelled network.

Nothing here decides what an agent or a coordinator does; it builds the same nodes as the live runtimes
with other ports, moves time from event to event and counts. The same scenario and seed give the same
result and the same weights, whatever else the machine does.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordinator.blobs import Blobs
from coordinator.cores import core_of
from coordinator.evaluator import measure
from coordinator.fleet import Fleet
from coordinator.intake import Intake
from coordinator.node import CoordinatorNode
from coordinator.orders import RunConfig
from coordinator.peering import assignment_of, windowed
from coordinator.settings import Learning, LearningConfig, prepare_learning, read_optimizer
from coordinator.stream_view import newest_window
from coordinator.twins.clock import VirtualClock, VirtualTimers
from coordinator.twins.data_shares import measured_after_a_round, split_for
from coordinator.twins.equipment import Equipment, equip
from coordinator.twins.fault_driver import drive_faults
from coordinator.twins.fault_timeline import fault_events
from coordinator.twins.faults import BROKER, check_names, members_of
from coordinator.twins.memory_run import MemoryRun, Stored
from coordinator.twins.network import LinkNetwork
from coordinator.twins.node_accuracy import NodeAccuracy, windowed_scenario
from coordinator.twins.pair_links import PairLinks
from coordinator.twins.result import SimResult, make_result
from coordinator.twins.scenario import Scenario
from coordinator.twins.twin import MeteredBus, Twin, World, make_twin
from device_agent.strategies.names import WITHOUT_NETWORK
from device_agent.wire.chunks import Downloads
from device_agent.wire.memory import MemoryBroker, MemoryBus
from device_agent.wire.topics import COORDINATOR
from firmware_profiles.errors import UserError
from models.bundle import Bundle
from models.bundle import decode as decode_bundle
from models.bundle import encode as encode_bundle
from models.cost import cost
from models.data.dataset import Dataset
from models.engines.choose import make_engine, resolve_engine
from models.engines.engine import Engine
from models.graph import ModelGraph
from models.subnet import Array, DropoutVector
from models.weights import digest as weights_digest
from models.weights import pack
from models.zoo import ZOO, load_model

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
    learns_network = scenario.method not in WITHOUT_NETWORK
    kind = resolve_engine(scenario.engine, gpu=False) if learns_network else "numpy"
    learning = prepare_learning(
        LearningConfig(
            model=scenario.model,
            data=scenario.data,
            strategy=scenario.method,
            table=None if scenario.table is None else Path(scenario.table),
            base_width=scenario.base_width,
            levels=scenario.levels,
            subnets=scenario.subnets,
            averages=scenario.averages,
            peers=scenario.peers,
            gossip=scenario.gossip,
            topology=scenario.topology,
            asynchrony=scenario.asynchrony,
            engine=kind,
            seed=seed,
            num_rounds=scenario.rounds,
            passes=scenario.passes,
            batch_size=scenario.batch_size,
            optimizer=read_optimizer(scenario.optimizer)
            if isinstance(scenario.optimizer, str)
            else scenario.optimizer,
            learning_rate=scenario.learning_rate,
            compression=scenario.compression,
        )
    )
    with _repeatable_engine(kind, learning.bundle) as engine:
        return _Simulation(scenario, learning, engine, seed).run(progress)


class _Simulation:
    """The nodes of one run and what connects them."""

    def __init__(self, scenario: Scenario, learning: Learning, engine: Engine, seed: int) -> None:
        self._learning, self._engine, self._seed = learning, engine, seed
        scenario = windowed_scenario(scenario, learning.method, len(learning.data.train))
        self._data = split_for(scenario, learning.data, seed)
        self._part_of_test = measured_after_a_round(scenario, self._data.test)
        devices, round_s = equip(scenario, self._data.train, lambda: _full_graph(learning), seed)
        self._scenario = msgspec.structs.replace(scenario, round_s=round_s)
        members = members_of(devices)
        check_names(scenario.faults, members)
        network = LinkNetwork(
            {name: one.board.group.network for name, one in devices.items()},
            str(seed),
            PairLinks(scenario.faults.links, members, str(seed)),
        )
        self._broker = MemoryBroker(network=network)
        self._clock = VirtualClock(self._broker)
        self._state = MemoryRun(lambda: self._clock.now_s, Stored(weights=learning.weights))
        self._is_over = False
        self._class_accuracy: tuple[float | None, ...] = ()
        self._num_lives, self._num_crashes = 0, 0
        self._bus = MeteredBus(self._broker.connect(COORDINATOR, at_once=False))
        self._connection, self._timers, self._coordinator = self._begin_coordinator()
        self._twins = self._make_twins(devices)
        self._nodes = self._watch_nodes()
        events = fault_events(scenario.faults, members, seed)
        drive_faults(self._clock, events, self._twins, {COORDINATOR: self, BROKER: self._broker})

    def run(self, progress: Callable[[Moment], None] | None) -> SimResult:
        scenario, clock = self._scenario, self._clock
        if progress is not None:
            self._report(progress)
        num_rounds = self._learning.num_rounds
        limit_s = scenario.limit_s or LIMIT_FACTOR * num_rounds * (scenario.round_s + grace_s(scenario))
        if self._nodes is not None:
            self._nodes.start()
        if scenario.until_s is not None:
            clock.call_at(scenario.until_s, self._end_now)
        if not clock.run(lambda: self._is_over, limit_s):
            raise UserError(self._unfinished(limit_s))
        if self._nodes is not None:
            self._nodes.finish()
        return make_result(
            scenario=scenario,
            engine=self._engine.name,
            seed=self._seed,
            virtual_s=clock.now_s,
            state=self._state,
            twins=self._twins,
            coordinator_bus=self._bus,
            digest=weights_digest(self._coordinator.core.weights),
            class_accuracy=self._class_accuracy,
            node_accuracy=() if self._nodes is None else tuple(self._nodes.curve),
            window=self._learning.window,
            num_windows=self._learning.num_windows,
            in_rounds=self._learning.method.asynchrony is None,
        )

    def _begin_coordinator(self) -> tuple[MemoryBus, VirtualTimers, CoordinatorNode]:
        """A coordinator's process where the run's state left it."""
        clock, scenario, learning = self._clock, self._scenario, self._learning
        self._num_lives += 1
        life, stored, blobs, timers = self._num_lives, self._state.stored, Blobs(), VirtualTimers(clock)
        momentum = learning.method.averages.server_momentum

        def post(action: Callable[[], None]) -> None:
            """Do it after what is going on now, if this process is still there then."""
            clock.post(lambda: action() if self._num_lives == life and not self._num_crashes else None)

        core = core_of(learning.strategy)(
            config=windowed(
                RunConfig(
                    run=f"sim-{self._seed}",
                    strategy_name=scenario.method,
                    num_rounds=learning.num_rounds,
                    min_devices=scenario.min_devices or scenario.num_devices,
                    deadline_s=scenario.round_s,
                    grace_s=grace_s(scenario),
                    passes=scenario.passes,
                    batch_size=scenario.batch_size,
                    seed=self._seed,
                    learning_rates=learning.learning_rates(),
                    devices_per_round=scenario.devices_per_round,
                ),
                learning.method,
            ),
            assignment=assignment_of(learning.method, self._seed, boot_epoch=life),
            strategy=learning.strategy,
            bundle=learning.bundle,
            bundle_ref=blobs.put(encode_bundle(learning.bundle)),
            weights=stored.weights,
            weights_ref=blobs.put(pack(stored.weights)),
            boot_epoch=life,
            version=stored.version,
            round=stored.round + 1,
            oldest_base=stored.oldest_base,
            before=stored.before if momentum else None,
            accuracy=self._state.newest_accuracy,
            intake=Intake(
                {(one.device, one.boot_epoch, one.sequence): one.outcome for one in self._state.settled}
            ),
        )
        began_s = clock.now_s
        connection = self._broker.connect(
            COORDINATOR,  # what `connected` says at a start, `start` says anyway
            on_connect=lambda: None if clock.now_s == began_s else post(node.connected),
        )
        self._bus.bus = connection
        again = f"/{life}" if life > 1 else ""
        node = CoordinatorNode(
            fleet=FLEET,
            core=core,
            bus=self._bus,
            downloads=Downloads(random.Random(f"{self._seed}/{COORDINATOR}/downloads{again}")),
            timers=timers,
            blobs=blobs,
            state=self._state,
            # Measured at this moment of virtual time, after what the node is doing now.
            evaluate=lambda version, weights: post(lambda: self._evaluate(version, weights)),
            finished=self._finished,
            view=Fleet(groups=learning.bundle.plan.groups),
        )
        node.subscribe(lambda topic, payload: post(lambda: node.received(topic, payload)))
        post(node.start)
        return connection, timers, node

    def _make_twins(self, devices: dict[str, Equipment]) -> dict[str, Twin]:
        world = World(
            fleet=FLEET,
            clock=self._clock,
            broker=self._broker,
            engine=lambda _bundle: self._engine,  # one graph and one loss in a run
            activation_bytes=functools.cache(self._activation_bytes),
            decode=functools.lru_cache(maxsize=2)(decode_bundle),
            seed=self._seed,
            telemetry_s=self._scenario.telemetry_s,
            label_delay=self._learning.label_delay,
        )
        return {name: make_twin(world, name, one.board, one.data, one.place) for name, one in devices.items()}

    def _watch_nodes(self) -> NodeAccuracy | None:
        peers = self._learning.method.peers
        if peers is None:
            return None
        every_s = peers.window * peers.barrier_s
        return NodeAccuracy(self._clock, self._twins.values(), self._accuracy_of, every_s)

    def _accuracy_of(self, weights: Mapping[str, Array]) -> float:
        return measure(self._engine, weights, self._calibration, self._part_of_test).accuracy

    @property
    def _calibration(self) -> Dataset | None:
        return self._data.train if self._learning.bundle.graph.statistics else None

    def _activation_bytes(self, vector: DropoutVector) -> int:
        bundle = self._learning.bundle
        return cost(bundle.graph, bundle.plan, vector, 1).activation_bytes

    def _evaluate(self, version: int, weights: dict[str, Array]) -> None:
        if self._learning.method.gossip is not None:
            if version:  # before the first window nothing was predicted
                self._coordinator.evaluated(version, *newest_window(self._coordinator.view.streams))
            return
        is_last = self._coordinator.core.state == "evaluating"
        held_out = self._data.test if is_last else self._part_of_test
        measured = measure(self._engine, weights, self._calibration, held_out)
        self._class_accuracy = measured.class_accuracy
        self._coordinator.evaluated(version, measured.accuracy, measured.loss)

    def crash(self) -> None:
        """The coordinator is killed, until as many `restart` have come."""
        self._num_crashes += 1
        self._connection.lose_connection()
        self._timers.cancel_all()

    def restart(self) -> None:
        """A coordinator begins with what the run's state holds."""
        self._num_crashes -= 1
        if self._num_crashes == 0:
            self._connection, self._timers, self._coordinator = self._begin_coordinator()

    def _end_now(self) -> None:
        """What is there at this moment is the result; its last version is measured on all."""
        if self._is_over:
            return
        version, weights = self._state.stored.version, self._state.stored.weights
        if self._learning.method.gossip is not None:
            self._is_over = True
            return
        measured = measure(self._engine, weights, self._calibration, self._data.test)
        self._class_accuracy = measured.class_accuracy
        self._state.evaluated(version, measured.accuracy, measured.loss)
        self._is_over = True

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


def _full_graph(learning: Learning) -> ModelGraph:
    """The network of the run's config at width 1."""
    train = learning.data.train
    fit = (train.shape, train.num_classes) if learning.config.model in ZOO else (None, None)
    return load_model(learning.config.model, *fit)[0]


def grace_s(scenario: Scenario) -> float:
    """Seconds an update has for its way; as the live coordinator reckons if the scenario does not say."""
    return scenario.grace_s or max(2.0, 0.25 * scenario.round_s)


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
