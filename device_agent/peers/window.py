"""What a device did since its last report: gradients applied and given up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from device_agent.training import TrainingResult
from device_agent.wire.messages import BlobRef, Exchanges, Order, PeerReport, Update

STALENESS_BINS = 16
"""Gradients begun so many barriers before the last one, or more, count in the last place."""


@dataclass(frozen=True)
class Gradient:
    """A unit that has ended.

    Attributes:
        result: of training. staleness: barriers passed meanwhile. busy_s: core-seconds it took.
    """

    result: TrainingResult
    staleness: int
    busy_s: float


@dataclass
class Window:
    """Adds up until a report is made.

    Attributes:
        began_s: when it began. staleness: gradients applied, by barriers passed since they were begun, less
            the one at which they were applied. discarded: gradients given up. bytes_sent: to neighbours.
    """

    began_s: float = 0.0
    staleness: list[int] = field(default_factory=lambda: [0] * STALENESS_BINS)
    discarded: int = 0
    bytes_sent: int = 0
    busy_s: float = 0.0
    _results: deque[TrainingResult] = field(default_factory=deque)
    _num_steps: int = 0

    def applied(self, gradient: Gradient, max_steps: int) -> None:
        """A gradient was applied; of more than `max_steps` mini-batches the oldest are not reported."""
        self.staleness[min(gradient.staleness, STALENESS_BINS - 1)] += 1
        self.busy_s += gradient.busy_s
        self._results.append(gradient.result)
        self._num_steps += len(gradient.result.step_vectors)
        while self._num_steps > max_steps and len(self._results) > 1:
            self._num_steps -= len(self._results.popleft().step_vectors)

    def update(
        self,
        order: Order,
        delta: BlobRef,
        *,
        step: int,
        exchanges: dict[str, Exchanges],
        sketch: tuple[float, ...],
        now_s: float,
    ) -> Update:
        """The report. Its mini-batches may be none: then only neighbours moved the weights."""
        vectors: dict[tuple[int, ...], int] = {}
        step_vectors = [
            vectors.setdefault(tuple(result.vectors[index]), len(vectors))
            for result in self._results
            for index in result.step_vectors
        ]
        return Update(
            order=order.order,
            round=order.round,
            num_samples=sum(result.num_samples for result in self._results),
            vectors=tuple(vectors),
            step_vectors=tuple(step_vectors),
            seed=order.seed,
            delta=delta,
            macs=sum(result.macs for result in self._results),
            loss_sum=sum(result.loss_sum for result in self._results),
            busy_s=self.busy_s,
            wall_s=max(0.0, now_s - self.began_s),
            peers=PeerReport(
                step=step,
                exchanges=exchanges,
                staleness=tuple(self.staleness),
                discarded=self.discarded,
                sketch=sketch,
                bytes_sent=self.bytes_sent,
            ),
        )
