"""Settings of an optimiser and of its learning-rate schedule, as a person writes them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Method = Literal["sgd", "adamw"]
Schedule = Literal["constant", "cosine", "step"]

DEFAULT_RATES: dict[Method, float] = {"sgd": 0.05, "adamw": 0.001}
"""The first learning rate of each method, if none is given."""

_BELONG: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("method", ("sgd",)),
    "nesterov": ("method", ("sgd",)),
    "betas": ("method", ("adamw",)),
    "epsilon": ("method", ("adamw",)),
    "total": ("schedule", ("cosine",)),
    "final_fraction": ("schedule", ("cosine",)),
    "every": ("schedule", ("step",)),
    "factor": ("schedule", ("step",)),
}
"""Keys that mean something to some methods or schedules only, and to which."""

_Beta = Annotated[float, Meta(ge=0.0, le=0.9999)]
_Ticks = Annotated[int, Meta(ge=1, le=10**9)]


class OptimizerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an optimiser.

    A schedule counts ticks: in a fleet, rounds of the run, which are the same for every device however
    many mini-batches each of them trains; in a loop of its own, the optimiser's steps.

    Attributes:
        method: stochastic gradient descent, or AdamW.
        learning_rate: step size of the first tick after the warm-up, above 0; None: DEFAULT_RATES.
        momentum: of sgd: share of the last velocity that is kept, 0 <= momentum < 1.
        nesterov: of sgd: look ahead along the velocity; wants momentum.
        betas: of adamw: shares of the last mean gradient and mean squared gradient that are kept.
        epsilon: of adamw: added to the root of the mean squared gradient.
        weight_decay: 0 or more. sgd adds it times the weight to the gradient (an L2 penalty); adamw takes
            it times learning rate and weight off the weight (decoupled).
        clip_norm: largest global L2 norm of the gradients, or None for no limit.
        schedule: constant, cosine (falls to `final_fraction` in the last tick) or step (`factor` every so
            many ticks).
        warmup: ticks over which the rate rises linearly before the schedule begins.
        total: of cosine: ticks in all, warm-up and all; None: the rounds of the run.
        final_fraction: of cosine: share of the rate that is left in the last tick.
        every: of step: ticks between two falls. factor: what each leaves of the rate.
        keep_state: go on with momentum or moments from the last order; else each order begins without.
    """

    method: Method = "sgd"
    learning_rate: Annotated[float, Meta(gt=0.0, le=1e3)] | None = None
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    epsilon: Annotated[float, Meta(ge=1e-12, le=1.0)] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0.0, le=1e3)] = 0.0
    clip_norm: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    schedule: Schedule = "constant"
    warmup: Annotated[int, Meta(ge=0, le=10**9)] = 0
    total: _Ticks | None = None
    final_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    every: _Ticks | None = None
    factor: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    keep_state: bool = False

    def __post_init__(self) -> None:
        """Refuse keys that the method or schedule has no use for, and numbers that contradict."""
        for key, (choice, users) in _BELONG.items():
            chosen = getattr(self, choice)
            if chosen not in users and getattr(self, key) != _DEFAULTS[key]:
                raise ValueError(f"{key} belongs to {choice} {users[0]}; leave it out with {choice} {chosen}")
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov wants momentum above 0")
        if self.schedule == "step" and self.every is None:
            raise ValueError("schedule step wants every: ticks between two falls of the rate")
        if self.total is not None and self.total <= self.warmup:
            raise ValueError(f"a warmup of {self.warmup} leaves nothing of total {self.total}")

    @property
    def first_rate(self) -> float:
        """The learning rate given, or the method's default."""
        return DEFAULT_RATES[self.method] if self.learning_rate is None else self.learning_rate


_DEFAULTS = dict(zip(OptimizerSettings.__struct_fields__, OptimizerSettings.__struct_defaults__, strict=True))
