"""Training on the device itself: the node's Jobs port, with a thread, an engine and the sensors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_agent.job_thread import JobThread, drive
from device_agent.loop import Action
from device_agent.optimizer_store import OptimizerStore
from device_agent.orders import JobRequest
from device_agent.pacing import Worked
from device_agent.residual_store import ResidualStore
from device_agent.training import StepCost, TrainingResult
from device_agent.workbench import Workbench
from firmware_profiles.errors import EdgetideError
from firmware_profiles.policy import Policy
from firmware_profiles.profile import FirmwareProfile
from firmware_profiles.resources import Pause, Snapshot
from models.data.dataset import Dataset
from models.engines.choose import load_engine, make_engine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Where a job's news goes; called on the node's thread, and only while the job still counts."""

    progress: Callable[[StepCost], None]
    paused: Callable[[Pause], None]
    done: Callable[[TrainingResult, float, float], None]
    failed: Callable[[str], None]


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
        store: keeps the optimiser's state between orders.
        residuals: what compression left out of earlier updates; the node's own.
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
        store: OptimizerStore | None = None,
        residuals: ResidualStore | None = None,
    ) -> None:
        self._bench = Workbench(
            profile=profile,
            policy=policy,
            data=data,
            snapshot=snapshot,
            engine=lambda bundle: make_engine(
                engine_kind, bundle.graph, bundle.settings.loss, num_threads, bundle.artifacts
            ),
            num_threads=num_threads,
            store=store,
            residuals=residuals,
        )
        self._engine_kind = engine_kind
        self._listener, self._post, self._store_policy = listener, post, store_policy
        self._thread = JobThread(self._done, self._failed)

    # ------------------------------------------------------------ the Jobs port

    def start(self, request: JobRequest) -> None:
        """Train this order; give up what ran before."""
        self._bench.begin(request)
        self._thread.start(lambda ticket, stop: self._work(request, ticket, stop))

    def stop(self) -> None:
        """Give up what runs, within one mini-batch."""
        self._thread.stop()
        self._bench.share = None

    def prepare(self) -> None:
        """Import the engine's library in the background: it takes seconds on a board."""
        threading.Thread(target=self._import_engine, name="prepare", daemon=True).start()

    def install(self, kind: str, content: bytes) -> None:
        """Put a policy or a table in force at the next mini-batch.

        Raises:
            EdgetideError: it cannot be used; what was in force stays.
        """
        self._bench.install(kind, content)
        if kind == "policy":
            self._store_policy(content)

    def cpu_share_fraction(self) -> float | None:
        """The share granted last, None before the first and while paused."""
        return self._bench.share

    def allowance(self) -> float | Pause:
        """Cores that learning may take on average at this moment, by the policy, or why it may not learn."""
        return self._bench.allowance()

    def core_seconds(self) -> float:
        """Core-seconds computed so far."""
        return time.process_time()

    # ------------------------------------------------------------ on the job's thread

    def _work(self, request: JobRequest, ticket: int, stop: threading.Event) -> Worked | None:
        return drive(self._bench.open(request, report=lambda news: self._report(ticket, news)), stop)

    def _import_engine(self) -> None:
        try:
            load_engine(self._engine_kind)
        except (ImportError, EdgetideError) as error:
            log.warning("engine not loaded, every order will be declined: %s", error)

    def _report(self, ticket: int, news: StepCost | Pause) -> None:
        if isinstance(news, Pause):
            self._tell(ticket, lambda: self._listener.paused(news))
        else:
            self._tell(ticket, lambda: self._listener.progress(news))

    def _done(self, ticket: int, worked: Worked) -> None:
        self._bench.share = None
        self._tell(ticket, lambda: self._listener.done(worked.result, worked.busy_s, worked.wall_s))

    def _failed(self, ticket: int, reason: str) -> None:
        self._bench.share = None
        self._tell(ticket, lambda: self._listener.failed(reason))

    def _tell(self, ticket: int, action: Action) -> None:
        # A newer order may come between the posting and the running: what counts is decided then.
        self._post(lambda: action() if self._thread.current(ticket) else None)
