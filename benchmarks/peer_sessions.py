"""Sessions of a decentralised run on a virtual clock, with a gradient that is a formula in place of training.

The sessions and their exchanges are the agent's own; nothing here has a broker, an engine or a thread.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_agent.effects import CancelTimer, Effect, Send, SetTimer, StartJob, StopJob
from device_agent.orders import OrderInHand
from device_agent.peers.checks import mixing_digest
from device_agent.peers.session import PeerSession
from device_agent.training import TrainingResult
from device_agent.wire.codec import refer
from device_agent.wire.messages import SCHEMA_VERSION, Envelope, Neighbour, Order, Peering
from device_agent.wire.topics import COORDINATOR
from models.bundle import Bundle, TrainingSettings
from models.bundle import encode as encode_bundle
from models.graph import ModelGraph, Node, validate
from models.peer_settings import PeerSettings
from models.subnet_settings import SubnetSettings
from models.table import uniform_table
from models.weights import pack
from models.widths import plan_widths

RUN = "theory"
NUM_HIDDEN = 30
NUM_ENTRIES = 8 * NUM_HIDDEN
"""Unknowns of the problem."""

Vector = NDArray[np.float32]
Gradient = Callable[[int, Vector], Vector]
"""(device, its weights float32 [NUM_ENTRIES]) -> what a step subtracts."""

Seconds = Callable[[int, int], float]
"""(device, gradients it has begun) -> virtual seconds that the next one takes."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What the sessions live in.

    Attributes:
        gradient: times the step size. compute_s: how long one takes.
        latency_s: of a message. loss_fraction: of messages that are gone. seed: of loss and phases.
    """

    gradient: Gradient
    compute_s: Seconds
    latency_s: float = 0.01
    loss_fraction: float = 0.0
    seed: int = 0


class Sessions:
    """All devices of a run.

    Args:
        neighbours: of each device, by number. settings: of the run. world: around them.
        start: weights of all, float32 [NUM_ENTRIES].
    """

    def __init__(
        self, neighbours: Sequence[Sequence[int]], settings: PeerSettings, world: World, start: Vector
    ) -> None:
        self.now_s = 0.0
        self._world, self._rng = world, random.Random(world.seed)
        self._ids = [f"node-{number}" for number in range(len(neighbours))]
        self._numbers = {device: number for number, device in enumerate(self._ids)}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._timers: dict[tuple[int, str], int] = {}
        self._jobs = [0] * len(neighbours)
        bundle = _bundle(settings)
        self._digest = mixing_digest(bundle)
        self._sessions = [
            PeerSession(
                device=device,
                boot_epoch=1,
                in_hand=_order_of(bundle, [(self._ids[one], len(neighbours[one])) for one in mine]),
                bundle=bundle,
                content=b"",
                weights=_tensors(bundle, start),
            )
            for device, mine in zip(self._ids, neighbours, strict=True)
        ]
        for number, session in enumerate(self._sessions):
            phase_s = self._rng.random() * settings.barrier_s
            self._at(phase_s, lambda number=number, session=session: self._do(number, session.begin()))

    def run_until(self, time_s: float) -> None:
        """Let everything happen up to a virtual time."""
        while self._events and self._events[0][0] <= time_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
        self.now_s = time_s

    def weights(self) -> Vector:
        """Of all devices now, float32 [devices, NUM_ENTRIES]."""
        return np.stack([_flat(session.weights) for session in self._sessions])

    def mean_staleness(self) -> float:
        """Barriers that gradients applied so far were late, on average."""
        counts = np.sum([session.window.staleness for session in self._sessions], axis=0)
        return float((counts * np.arange(len(counts))).sum() / max(1, counts.sum()))

    # ------------------------------------------------------------ what sessions want

    def _do(self, number: int, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and effect.to != COORDINATOR:
                self._send(number, effect)
            elif isinstance(effect, SetTimer):
                self._set_timer(number, effect)
            elif isinstance(effect, CancelTimer):
                self._timers.pop((number, effect.key), None)
            elif isinstance(effect, StartJob):
                self._start(number, effect)
            elif isinstance(effect, StopJob):
                self._jobs[number] += 1

    def _send(self, number: int, effect: Send) -> None:
        if self._rng.random() < self._world.loss_fraction:
            return
        to = self._numbers[effect.to]
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run=RUN,
            sender=self._ids[number],
            boot_epoch=1,
            sequence=next(self._order),
            body=effect.body,
            base_digest=self._digest,
        )
        sent_s = self.now_s
        self._at(self.now_s + self._world.latency_s, lambda: self._receive(to, envelope, sent_s))

    def _receive(self, number: int, envelope: Envelope, sent_s: float) -> None:
        session = self._sessions[number]
        if session.wants(self.now_s, envelope):
            self._do(number, session.on_message(self.now_s, envelope, self.now_s - sent_s))

    def _set_timer(self, number: int, effect: SetTimer) -> None:
        name = self._timers[number, effect.key] = next(self._order)

        def ring() -> None:
            if self._timers.get((number, effect.key)) == name:
                del self._timers[number, effect.key]
                self._do(number, self._sessions[number].on_timer(self.now_s, effect.key))

        self._at(self.now_s + effect.delay_s, ring)

    def _start(self, number: int, effect: StartJob) -> None:
        seconds = self._world.compute_s(number, self._jobs[number])
        self._jobs[number] += 1
        job, before = self._jobs[number], effect.job.weights
        step = self._world.gradient(number, _flat(before))

        def done() -> None:
            if self._jobs[number] != job:
                return
            delta, taken = {}, 0
            for name, values in before.items():
                delta[name] = -step[taken : taken + values.size].reshape(values.shape)
                taken += values.size
            result = TrainingResult(num_samples=1, vectors=[(NUM_HIDDEN,)], step_vectors=[0], delta=delta)
            self._do(number, self._sessions[number].on_unit_done(self.now_s, result, 0.0))

        self._at(self.now_s + seconds, done)

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), action))


def _bundle(settings: PeerSettings) -> Bundle:
    """A network whose parameters are the unknowns; nobody computes it."""
    nodes = (
        Node("Gemm", ("x", "a.weight", "a.bias"), "a", {}),
        Node("Relu", ("a",), "r", {}),
        Node("Gemm", ("r", "b.weight"), "y", {}),
    )
    shapes = {"a.weight": (NUM_HIDDEN, 4), "a.bias": (NUM_HIDDEN,), "b.weight": (3, NUM_HIDDEN)}
    graph = validate(ModelGraph("unknowns", "x", (4,), "y", nodes, shapes, {}, {}, {}))
    plan = plan_widths(graph)
    training = TrainingSettings(peers=settings, subnets=SubnetSettings(choice="fixed", fixed_fraction=1.0))
    return Bundle(graph=graph, plan=plan, table=uniform_table(graph, plan, 1, (0.5,)), settings=training)


def _order_of(bundle: Bundle, neighbours: Sequence[tuple[str, int]]) -> OrderInHand:
    nothing = refer(pack({}))
    order = Order(
        order=1,
        round=1,
        strategy="dsgd",
        bundle=refer(encode_bundle(bundle)),
        weights=nothing,
        num_batches=1,
        deadline_s=1e7,
        seed=1,
        peering=Peering(
            neighbours=tuple(Neighbour(device=device, degree=degree) for device, degree in neighbours)
        ),
    )
    return OrderInHand(order=order, run=RUN, base_version=0, base_digest=nothing.digest, deadline_at_s=1e9)


def _tensors(bundle: Bundle, flat: Vector) -> dict[str, Vector]:
    tensors, taken = {}, 0
    for name, shape in bundle.graph.parameters.items():
        size = int(np.prod(shape))
        tensors[name] = flat[taken : taken + size].reshape(shape).astype(np.float32)
        taken += size
    return tensors


def _flat(weights: object) -> Vector:
    assert isinstance(weights, dict)
    return np.concatenate([values.reshape(-1) for values in weights.values()])
