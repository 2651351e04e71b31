"""What turns orders into jobs on a device: the bundle, engine, policy and table in force.

The live agent and the twin have one each; they differ in their clock alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from device_agent.optimizer_store import Belongs, MemoryStore, OptimizerStore
from device_agent.orders import JobRequest
from device_agent.pacing import Pace, no_seconds, pace
from device_agent.residual_store import MemoryResiduals, ResidualStore, Sealed
from device_agent.sealing import seal
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.training import StepCost, TrainingJob, TrainingResult, train
from firmware_profiles.errors import PeerError, UserError
from firmware_profiles.grant import grant
from firmware_profiles.policy import Policy, parse_policy
from firmware_profiles.profile import FirmwareProfile
from firmware_profiles.resources import Budget, Pause, Snapshot, Task
from models.bundle import Bundle
from models.bundle import decode as decode_bundle
from models.data.dataset import Dataset, without_ones
from models.engines.engine import Engine
from models.graph import digest as graph_digest
from models.optim.state import OptimizerState, extra_bytes, state_shapes
from models.step_times import StepTimes
from models.subnet import Array, cut, sample
from models.table import ParetoTable, parse_table
from models.weights import unpack


@dataclass(kw_only=True)
class _Prepared:
    """What a bundle becomes on this device; kept while orders carry the same bundle."""

    digest: str
    bundle: Bundle
    engine: Engine
    times: StepTimes
    extra_bytes: int
    is_cold: bool = True
    num_steps: int = 0


class Workbench:
    """Opens jobs, grants their budgets, puts policies and tables in force.

    Args:
        profile: what the board is. policy: what may be taken, until another is installed.
        data: the local samples at this moment.
        snapshot: reads the sensors; called from the thread that runs the job.
        engine: makes the engine of a bundle.
        num_threads: of the engine.
        store: keeps the optimiser's state between orders; in memory by default.
        residuals: what compression left out of earlier updates, the node's own; in memory by default.
        decode: reads a bundle; twins of one process share what it makes.
        speed: seconds of one core per training MAC, and besides per mini-batch, where they are known; else
            the first mini-batch is an experiment.

    Attributes:
        table: in force instead of the bundle's, None after a new order.
        share: of all cores granted last, None before the first and while paused.
    """

    def __init__(
        self,
        *,
        profile: FirmwareProfile,
        policy: Policy,
        data: Callable[[], Dataset],
        snapshot: Callable[[], Snapshot],
        engine: Callable[[Bundle], Engine],
        num_threads: int,
        store: OptimizerStore | None = None,
        residuals: ResidualStore | None = None,
        decode: Callable[[bytes], Bundle] = decode_bundle,
        speed: tuple[float, float] | None = None,
    ) -> None:
        self.profile, self.policy = profile, policy
        self.table: ParetoTable | None = None
        self.share: float | None = None
        self._data, self._snapshot = data, snapshot
        self._engine, self._num_threads = engine, num_threads
        self._decode, self._speed = decode, speed
        self._store = store or MemoryStore()
        self._residuals = residuals or MemoryResiduals()
        self._prepared: _Prepared | None = None
        self._order: tuple[str, int] | None = None
        self._idle_bytes = 0  # resident with the engine loaded, before the first training

    def begin(self, request: JobRequest) -> bool:
        """A job is to be opened; True for the first one of its order, which has the bundle's own table."""
        order = request.in_hand.run, request.in_hand.order.order
        is_first, self._order = order != self._order, order
        if is_first:
            self.table = None
        return is_first

    def install(self, kind: str, content: bytes) -> None:
        """Put a policy or a table in force at the next mini-batch.

        Raises:
            UserError: the policy does not fit.
            PeerError: the table does not fit the model, or the kind is unknown.
        """
        if kind == "policy":
            self.policy = parse_policy(_text(content), "rolled-out policy")
        elif kind == "table":
            prepared = self._prepared
            if prepared is None:
                raise PeerError("a table cannot be used before the first order: there is no model yet")
            graph, plan = prepared.bundle.graph, prepared.bundle.plan
            self.table = parse_table(content, graph_digest(graph), plan)
            prepared.times.take(self.table)
        else:
            raise PeerError(f"{kind!r} cannot be rolled out to a device: policy and table can")

    def open(
        self,
        request: JobRequest,
        *,
        report: Callable[[StepCost | Pause], None],
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
        step_s: Callable[[StepCost], float] = no_seconds,
    ) -> Pace:
        """Make an order's job, ready to be driven; the arguments are those of `pace`.

        Raises:
            PeerError: bundle, weights or strategy cannot be used.
            UserError: the local data does not fit the model, or there is no engine.
        """
        order = request.in_hand.order
        prepared = self._prepare(order.bundle.digest, request.bundle)
        bundle = prepared.bundle
        data = self._data()
        if without_ones(data.shape) != without_ones(bundle.graph.input_shape):
            raise UserError(
                f"local samples have shape {data.shape}, the model takes {bundle.graph.input_shape}"
            )
        data = replace(data, samples=data.samples.reshape(len(data), *bundle.graph.input_shape))
        if data.num_classes > bundle.graph.num_classes:
            raise UserError(
                f"local samples have {data.num_classes} classes, the model has {bundle.graph.num_classes}"
            )
        if len(data) == 0:
            raise UserError("there are no local samples to train on")
        strategy = DEVICE_STRATEGIES.get(order.strategy)
        if strategy is None:
            raise PeerError(f"strategy {order.strategy!r} is unknown to this agent; update it")
        num_cores = self._snapshot().num_cores
        weights = request.weights
        weights = unpack(weights, bundle.graph.parameters) if isinstance(weights, bytes) else dict(weights)
        at_once = Task(time_left_s=1.0, num_batches_left=1)
        if prepared.is_cold and isinstance(self._grant(at_once, num_cores), Budget):
            _warm_up(prepared, weights, data)
        prepared.times.begin()
        network = {"run": request.in_hand.run, "network": graph_digest(bundle.graph)}
        belongs = {**network, "method": bundle.settings.optimizer.method}
        keeps_state = bundle.settings.optimizer.keep_state
        job = TrainingJob(
            order=order.order,
            round=order.round,
            bundle=bundle,
            weights=weights,
            num_batches=order.num_batches,
            seed=order.seed,
            strategy=strategy,
            learning_rate=order.learning_rate,
            state=self._kept_state(belongs, bundle) if keeps_state else None,
            is_first=prepared.num_steps == 0 and self._speed is None,
        )
        steps = train(
            job,
            data,
            prepared.engine,
            table=lambda: self.table or bundle.table,
            core_seconds=prepared.times.predict,
            num_cores=num_cores,
            keep_state=(lambda state: self._keep_state(belongs, state)) if keeps_state else None,
        )

        def tell(news: StepCost | Pause) -> None:
            if isinstance(news, Pause):
                self.share = None
            else:
                prepared.num_steps += 1
            report(news)

        paced = pace(
            steps,
            num_batches=order.num_batches,
            deadline_at_s=request.in_hand.deadline_at_s,
            grant=lambda task: self._grant(task, num_cores),
            observe=lambda cost, core_s: prepared.times.observe(
                cost.macs // bundle.settings.batch_size, core_s, cost.vector
            ),
            report=tell,
            num_cores=num_cores,
            clock=clock,
            cpu_clock=cpu_clock,
            step_s=step_s,
        )
        if bundle.settings.delta_compression.scheme == "none":
            return paced
        return _sealed(paced, lambda result: seal(job, result, network, self._residuals))

    def allowance(self) -> float | Pause:
        """Cores that learning may take on average at this moment, by the policy, or why it may not learn."""
        snapshot = self._snapshot()
        granted = grant(self.profile, snapshot, self.policy, Task(time_left_s=1.0, num_batches_left=1))
        if isinstance(granted, Pause):
            self.share = None
            return granted
        self.share = granted.cpu_share_fraction
        return granted.cpu_share_fraction * snapshot.num_cores

    def _kept_state(self, belongs: Belongs, bundle: Bundle) -> OptimizerState | None:
        expected = state_shapes(bundle.settings.optimizer, bundle.plan, bundle.graph.parameters)
        return self._store.load(belongs, expected)

    def _keep_state(self, belongs: Belongs, state: OptimizerState | None) -> None:
        if state is None:
            self._store.forget()
        else:
            self._store.keep(belongs, state)

    def _prepare(self, digest: str, content: bytes) -> _Prepared:
        old = self._prepared
        if old is not None and old.digest == digest:
            return old
        bundle = self._decode(content)
        keeps_engine = (
            old is not None
            and old.bundle.graph == bundle.graph
            and old.bundle.settings.loss == bundle.settings.loss
            and old.bundle.artifacts == bundle.artifacts
        )
        engine = old.engine if old is not None and keeps_engine else self._engine(bundle)
        if old is None:
            self._idle_bytes = self._snapshot().memory_own_bytes or 0
        self._prepared = _Prepared(
            digest=digest,
            bundle=bundle,
            engine=engine,
            times=StepTimes(bundle.table, self._speed),
            extra_bytes=extra_bytes(bundle.settings.optimizer, bundle.plan, bundle.graph.parameters),
        )
        return self._prepared

    def _grant(self, task: Task, num_cores: int) -> Budget | Pause:
        snapshot = self._snapshot()
        if snapshot.memory_own_bytes is not None:
            # What the interpreter and the libraries hold is no room for training.
            own_bytes = max(0, snapshot.memory_own_bytes - self._idle_bytes)
            snapshot = replace(snapshot, memory_own_bytes=own_bytes)
        granted = grant(self.profile, snapshot, self.policy, task)
        if isinstance(granted, Budget):
            share = min(granted.cpu_share_fraction, self._num_threads / num_cores)
            extra = self._prepared.extra_bytes if self._prepared else 0  # what the table does not reckon with
            memory_bytes = max(0, granted.memory_bytes - extra)
            granted = replace(granted, cpu_share_fraction=share, memory_bytes=memory_bytes)
        self.share = granted.cpu_share_fraction if isinstance(granted, Budget) else None
        return granted


def _sealed(job: Pace, seal: Callable[[TrainingResult], Sealed]) -> Pace:
    """The same job, whose delta is compressed when it ends."""
    worked = yield from job
    if worked.result.delta:
        worked.result.sealed = seal(worked.result)
    return worked


def _warm_up(prepared: _Prepared, weights: dict[str, Array], data: Dataset) -> None:
    """Have the library set itself up in a step that counts for nothing, or the first one would look slow."""
    plan = prepared.bundle.plan
    inputs, labels = data.batch(slice(0, prepared.bundle.settings.batch_size))
    smallest = cut(plan, weights, sample(plan, prepared.bundle.table.entries[0].vector, 0, 0))
    logits = np.zeros((len(inputs), prepared.bundle.graph.num_classes), np.float32)
    targets: dict[str, NDArray] = {"labels": labels, "teacher_logits": logits}
    prepared.engine.gradients(smallest, inputs, targets)
    prepared.is_cold = False


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the content is not UTF-8 text: {error}") from error
