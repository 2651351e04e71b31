"""Training inside a twin: the agent's Jobs port on the virtual clock.

Each mini-batch really trains; the seconds it takes are the board's, by its profile. Everything else is
the device's own: the bench that opens jobs and grants budgets, the pace with its pauses and rests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.twins.clock import VirtualTimers
from device_agent.live_jobs import Listener
from device_agent.orders import JobRequest
from device_agent.pacing import Pace
from device_agent.training import StepCost
from device_agent.workbench import Workbench
from firmware_profiles.errors import EdgetideError
from firmware_profiles.resources import Pause
from models.subnet import DropoutVector


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """Seconds that a board computes for a mini-batch.

    Attributes:
        core_seconds_per_mac: seconds of one core per training MAC.
        core_seconds_per_activation_byte: and per byte that the backward pass reads.
        core_seconds_per_step: seconds of one core that every mini-batch takes besides.
        num_threads: threads that compute at once; they are taken to share the work evenly.
        jitter_fraction: a step takes up to this share more or less.
        exponential_s: mean seconds that a step takes besides; exponentially distributed, nothing is computed.
    """

    core_seconds_per_mac: float
    core_seconds_per_step: float
    num_threads: int
    core_seconds_per_activation_byte: float = 0.0
    jitter_fraction: float = 0.0
    exponential_s: float = 0.0

    def core_s(self, macs: int, activation_bytes: int, num_parts: int = 1) -> float:
        """Seconds of one core for a mini-batch of so many training MACs and bytes, computed in parts."""
        return (
            macs * self.core_seconds_per_mac
            + activation_bytes * self.core_seconds_per_activation_byte
            + num_parts * self.core_seconds_per_step
        )


@dataclass
class Work:
    """What a twin has done.

    Attributes:
        macs: training MACs, whether or not an update came of them. steps: mini-batches.
        computed_core_s: seconds of one core.
        paused_s: seconds in which training wanted to go on and might not.
        pauses: [virtual second, reason] of each pause's beginning.
        orders: [beginning, deadline] in virtual seconds of each order.
    """

    macs: int = 0
    steps: int = 0
    computed_core_s: float = 0.0
    paused_s: float = 0.0
    pauses: list[tuple[float, str]] = field(default_factory=list)
    orders: list[tuple[float, float]] = field(default_factory=list)


class VirtualJobs:
    """Drives jobs on the virtual clock.

    Args:
        bench: turns orders into jobs. listener: where news goes.
        timers: of this twin; the key "job" is taken.
        model: how long the board computes. rng: of the model's jitter.
        activation_bytes: what the backward pass of a sample reads in a sub-network of this vector.
        work: done before, by an earlier process of the device.

    Attributes:
        work: done so far.
        slow_factor: computing takes so many times as long.
    """

    def __init__(
        self,
        *,
        bench: Workbench,
        listener: Listener,
        timers: VirtualTimers,
        model: StepModel,
        rng: random.Random,
        activation_bytes: Callable[[DropoutVector], int],
        work: Work | None = None,
    ) -> None:
        self.work = work or Work()
        self.slow_factor = 1.0
        self._bench, self._listener, self._timers = bench, listener, timers
        self._model, self._rng = model, rng
        self._activation_bytes = activation_bytes
        self._job: Pace | None = None
        self._paused_at_s: float | None = None

    # ------------------------------------------------------------ the Jobs port

    def start(self, request: JobRequest) -> None:
        """Train this order; give up what ran before."""
        self.stop()
        if self._bench.begin(request):
            self.work.orders.append((self._timers.now_s(), request.in_hand.deadline_at_s))
        self._timers.set_timer("job", 0.0, lambda: self._attempt(lambda: self._open(request)))

    def stop(self) -> None:
        """Give up what runs, within one mini-batch."""
        self._timers.cancel_timer("job")
        if self._job is not None:
            self._job.close()
        self._end()

    def prepare(self) -> None:
        """Nothing: the simulator has loaded everything."""

    def install(self, kind: str, content: bytes) -> None:
        """Put a policy or a table in force at the next mini-batch.

        Raises:
            EdgetideError: it cannot be used; what was in force stays.
        """
        self._bench.install(kind, content)

    def cpu_share_fraction(self) -> float | None:
        """The share granted last, None before the first and while paused."""
        return self._bench.share

    def allowance(self) -> float | Pause:
        """Cores that learning may take on average at this moment, by the policy, or why it may not learn."""
        return self._bench.allowance()

    def core_seconds(self) -> float:
        """Core-seconds computed so far."""
        return self.work.computed_core_s

    # ------------------------------------------------------------ in virtual time

    def _open(self, request: JobRequest) -> None:
        self._job = self._bench.open(
            request,
            report=self._report,
            clock=self._timers.now_s,
            cpu_clock=lambda: self.work.computed_core_s,
            step_s=self._step_s,
        )
        self._go_on()

    def _go_on(self) -> None:
        assert self._job is not None
        try:
            wait_s = next(self._job)
        except StopIteration as end:
            self._end()
            self._listener.done(end.value.result, end.value.busy_s, end.value.wall_s)
        else:
            self._timers.set_timer("job", wait_s, lambda: self._attempt(self._go_on))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except EdgetideError as error:
            self._end()
            self._listener.failed(str(error))

    def _end(self) -> None:
        self._job, self._bench.share = None, None
        self._resumed()

    def _step_s(self, cost: StepCost) -> float:
        num_bytes = self._activation_bytes(cost.vector) * cost.num_samples
        jitter = 1.0 + self._model.jitter_fraction * self._rng.uniform(-1.0, 1.0)
        core_s = self._model.core_s(cost.macs, num_bytes, cost.num_parts) * jitter * self.slow_factor
        self.work.macs += cost.macs
        self.work.steps += 1
        self.work.computed_core_s += core_s
        return core_s / self._model.num_threads + self._besides_s() * self.slow_factor

    def _besides_s(self) -> float:
        mean_s = self._model.exponential_s
        return self._rng.expovariate(1.0 / mean_s) if mean_s else 0.0

    def _report(self, news: StepCost | Pause) -> None:
        if isinstance(news, StepCost):
            self._resumed()
            self._listener.progress(news)
            return
        if self._paused_at_s is None:
            self._paused_at_s = self._timers.now_s()
            self.work.pauses.append((self._paused_at_s, news.reason))
        self._listener.paused(news)

    def _resumed(self) -> None:
        if self._paused_at_s is not None:
            self.work.paused_s += self._timers.now_s() - self._paused_at_s
            self._paused_at_s = None
