"""How devices learn from each other without a server: the device's part of decentralised methods."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0.0, le=1e7)]


class PeerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A barrier is a device's own periodic moment: gradients that are ready are applied, exchanges begin.

    Attributes:
        pace: `barrier`: every `barrier_s`. `overlapped`: exchanges begin every `barrier_s`, gradients are
            applied as soon as they are ready, and the next one begins at once. `wait-free`: whenever a
            gradient is ready. `synchronous`: when the gradient and an exchange with every neighbour of this
            step are done.
        barrier_s: seconds between two barriers.
        late: what becomes of a gradient that was begun before the last barrier: `reuse` applies it, however
            old the weights it was begun with; `discard` gives it up at the barrier and begins anew.
        exchange: `reciprocal`: both sides pull towards each other by the same amount, or neither does.
            `push`: weights are sent to neighbours, who average the newest of each sender at their barrier.
        partners: neighbours that a barrier exchanges with, drawn anew each time; None: all. Of a reciprocal
            exchange up to twice as many are drawn where some do not answer.
        weight: of a neighbour. `metropolis`: 1 / (1 + the larger number of neighbours). `half`: 1/2.
            `uniform`: 1 / (1 + the weights received).
        consensus_rate: factor on the pull towards neighbours.
        max_age_s: weights that were sent longer ago are not mixed; exchanges expire after it.
        unit_batches: mini-batches of one gradient.
        window: barriers between two reports to the coordinator.
        averaged_barriers: a device's model, which it reports, is the mean of its weights over about so many
            barriers; None: its weights of the moment. Neighbours get those of the moment.
    """

    pace: Literal["barrier", "overlapped", "wait-free", "synchronous"] = "barrier"
    barrier_s: Seconds = 1.0
    late: Literal["reuse", "discard"] = "reuse"
    exchange: Literal["reciprocal", "push"] = "reciprocal"
    partners: Annotated[int, Meta(ge=1, le=1000)] | None = None
    weight: Literal["metropolis", "half", "uniform"] = "metropolis"
    consensus_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_age_s: Seconds = 30.0
    unit_batches: Annotated[int, Meta(ge=1, le=10_000)] = 1
    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    averaged_barriers: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.pace == "overlapped" and self.late == "discard":
            raise ValueError("at the pace overlapped no gradient is late: `late` must be reuse")

    @property
    def has_timed_barriers(self) -> bool:
        """Whether barriers come every `barrier_s`."""
        return self.pace in ("barrier", "overlapped")
