"""Training on the device itself: the node's Jobs port, with a thread, an engine and the sensors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from device_agent.agent import JobRequest
from device_agent.job_thread import JobThread, Worked, drive
from device_agent.loop import Action
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.training import StepCost, TrainingJob, TrainingResult, train
from firmware_profiles.errors import PeerError, UserError
from firmware_profiles.grant import grant
from firmware_profiles.policy import Policy, parse_policy
from firmware_profiles.profile import FirmwareProfile
from firmware_profiles.resources import Budget, Pause, Snapshot, Task
from models.bundle import Bundle
from models.bundle import decode as decode_bundle
from models.data.dataset import Dataset
from models.engines.choose import make_engine
from models.engines.engine import Engine
from models.graph import digest as graph_digest
from models.step_times import StepTimes
from models.table import ParetoTable, parse_table
from models.weights import unpack

log = logging.getLogger(__name__)

@dataclass(frozen=True, kw_only=True)
class Listener:
    """Where a job's news goes; called on the node's thread, and only while the job still counts."""

    progress: Callable[[StepCost], None]
    paused: Callable[[Pause], None]
    done: Callable[[TrainingResult, float, float], None]
    failed: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a bundle becomes on this device; kept while orders carry the same bundle."""

    digest: str
    bundle: Bundle
    engine: Engine
    times: StepTimes


class LiveJobs:
    """Drives jobs on this device.

    Args:
        profile: what the board is. policy: what may be taken, until another is installed.
        data: the local samples at this moment.
        snapshot: reads the sensors; safe to call from any thread.
        engine_kind: a name of `models.engines.choose.ENGINE_NAMES`.
        num_threads: threads of the engine.
        listener: where news goes. post: runs an action on the node's thread.
        store_policy: keeps an installed policy over restarts.
    """

    def __init__(
        self,
        *,
        profile: FirmwareProfile,
        policy: Policy,
        data: Callable[[], Dataset],
        snapshot: Callable[[], Snapshot],
        engine_kind: str,
        num_threads: int,
        listener: Listener,
        post: Callable[[Action], None],
        store_policy: Callable[[bytes], None],
    ) -> None:
        self.profile, self.policy = profile, policy
        self._data, self._snapshot = data, snapshot
        self._engine_kind, self._num_threads = engine_kind, num_threads
        self._listener, self._post, self._store_policy = listener, post, store_policy
        self._thread = JobThread(self._done, self._failed)
        self._prepared: _Prepared | None = None
        self._table: ParetoTable | None = None
        self._share: float | None = None

    # ------------------------------------------------------------ the Jobs port

    def start(self, request: JobRequest) -> None:
        """Train this order; give up what ran before."""
        self._table = None
        self._thread.start(lambda ticket, stop: self._work(request, ticket, stop))

    def stop(self) -> None:
        """Give up what runs, within one mini-batch."""
        self._thread.stop()

    def prepare(self) -> None:
        """Import the engine's library in the background: it takes seconds on a board."""
        threading.Thread(target=self._import_engine, name="prepare", daemon=True).start()

    def install(self, kind: str, content: bytes) -> None:
        """Put a policy or a table in force at the next mini-batch.

        Raises:
            UserError: the policy does not fit.
            PeerError: the table does not fit the model, or the kind is unknown.
        """
        if kind == "policy":
            self.policy = parse_policy(_text(content), "rolled-out policy")
            self._store_policy(content)
        elif kind == "table":
            prepared = self._prepared
            if prepared is None:
                raise PeerError("a table cannot be used before the first order: there is no model yet")
            graph, plan = prepared.bundle.graph, prepared.bundle.plan
            self._table = parse_table(content, graph_digest(graph), plan)
        else:
            raise PeerError(f"{kind!r} cannot be rolled out to a device: policy and table can")

    def cpu_share_fraction(self) -> float | None:
        """The share granted last, None before the first and while paused."""
        return self._share

    # ------------------------------------------------------------ on the job's thread

    def _work(self, request: JobRequest, ticket: int, stop: threading.Event) -> Worked | None:
        order = request.in_hand.order
        prepared = self._prepare_bundle(order.bundle.digest, request.bundle)
        bundle = prepared.bundle
        data = self._data()
        if data.shape != bundle.graph.input_shape:
            raise UserError(f"local samples have shape {data.shape}, the model takes {bundle.graph.input_shape}")
        strategy = DEVICE_STRATEGIES.get(order.strategy)
        if strategy is None:
            raise PeerError(f"strategy {order.strategy!r} is unknown to this agent; update it")
        num_cores = self._snapshot().num_cores
        job = TrainingJob(
            order=order.order,
            round=order.round,
            bundle=bundle,
            weights=unpack(request.weights, bundle.graph.parameters),
            num_batches=order.num_batches,
            seed=order.seed,
            strategy=strategy,
            learning_rate=order.learning_rate,
        )
        generator = train(
            job,
            data,
            prepared.engine,
            table=lambda: self._table or bundle.table,
            core_seconds=prepared.times.predict,
            num_cores=num_cores,
        )
        return drive(
            generator,
            num_batches=order.num_batches,
            deadline_at_s=request.in_hand.deadline_at_s,
            grant=lambda task: self._grant(task, num_cores),
            observe=lambda cost, core_s: prepared.times.observe(cost.macs // cost.num_samples, core_s),
            report=lambda news: self._report(ticket, news),
            stop=stop,
            num_cores=num_cores,
        )

    def _prepare_bundle(self, digest: str, content: bytes) -> _Prepared:
        if self._prepared is None or self._prepared.digest != digest:
            bundle = decode_bundle(content)
            old = self._prepared
            same_graph = old is not None and old.bundle.graph == bundle.graph
            engine = (
                old.engine
                if old is not None and same_graph
                else make_engine(self._engine_kind, bundle.graph, bundle.settings.loss, self._num_threads)
            )
            times = StepTimes(bundle.table)
            self._prepared = _Prepared(digest=digest, bundle=bundle, engine=engine, times=times)
        return self._prepared

    def _grant(self, task: Task, num_cores: int) -> Budget | Pause:
        granted = grant(self.profile, self._snapshot(), self.policy, task)
        if isinstance(granted, Budget):
            share = min(granted.cpu_share_fraction, self._num_threads / num_cores)
            granted = replace(granted, cpu_share_fraction=share)
        self._share = granted.cpu_share_fraction if isinstance(granted, Budget) else None
        return granted

    def _import_engine(self) -> None:
        try:
            __import__("torch" if self._engine_kind in ("auto", "torch") else "onnxruntime")
        except ImportError:
            return  # the first order will say what is missing

    def _report(self, ticket: int, news: StepCost | Pause) -> None:
        if isinstance(news, Pause):
            self._share = None
            self._tell(ticket, lambda: self._listener.paused(news))
        else:
            self._tell(ticket, lambda: self._listener.progress(news))

    def _done(self, ticket: int, worked: Worked) -> None:
        self._share = None
        self._tell(ticket, lambda: self._listener.done(worked.result, worked.busy_s, worked.wall_s))

    def _failed(self, ticket: int, reason: str) -> None:
        self._share = None
        self._tell(ticket, lambda: self._listener.failed(reason))

    def _tell(self, ticket: int, action: Action) -> None:
        # A newer order may come between the posting and the running: what counts is decided then.
        self._post(lambda: action() if self._thread.current(ticket) else None)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the content is not UTF-8 text: {error}") from error
