"""Faults of the way from one to another: loss, latency and jitter of a pair, perhaps by a schedule.

Each pair and direction has a generator of its own, so that one device more changes nothing for the others.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coordinator.twins.faults import Members, PairFault
from coordinator.twins.trace_kinds import Csv
from coordinator.twins.traces import read_columns
from firmware_profiles.errors import UserError

FIRST_TIMEOUT_S = 1.0
MAX_TIMEOUT_S = 60.0
MAX_RETRY_LOSS_FRACTION = 0.9
"""Of what is sent again, at most so many tries are lost: it comes late, and it comes."""

Condition = Callable[[float], tuple[float, float]]
"""(loss_fraction, latency in ms) at a time in seconds."""


def extra_delay_s(rng: random.Random, loss_fraction: float, qos: int) -> float | None:
    """Seconds that losses cost one message: None if it is gone, for nobody sends QoS 0 again.

    Each try comes after twice the timeout of the one before, as TCP's (RFC 6298).
    """
    delay_s, timeout_s = 0.0, FIRST_TIMEOUT_S
    lost_fraction = loss_fraction if qos == 0 else min(loss_fraction, MAX_RETRY_LOSS_FRACTION)
    while rng.random() < lost_fraction:
        if qos == 0:
            return None
        delay_s += timeout_s
        timeout_s = min(2 * timeout_s, MAX_TIMEOUT_S)
    return delay_s


@dataclass
class _Pair:
    """One direction of a pair.

    Attributes:
        link: names the link, both ways alike.
        arrived_s: when the last message of each connection arrives: order holds within one.
    """

    rule: PairFault
    condition: Condition
    rng: random.Random
    link: str
    arrived_s: dict[bool, float] = field(default_factory=dict)

    def carry(
        self, condition: tuple[float, float], *, qos: int, bulk: bool, at_s: float, since_s: float
    ) -> float | None:
        loss_fraction, latency_ms = condition
        delay_s = (latency_ms + self.rule.jitter_ms * self.rng.random()) / 1000
        if self.rule.coherence_s is not None and qos == 0:
            is_down = self._fading(int(since_s // self.rule.coherence_s)) < loss_fraction
            lost_s = None if is_down else 0.0
        else:
            lost_s = extra_delay_s(self.rng, loss_fraction, qos)
        if lost_s is None:
            return None
        self.arrived_s[bulk] = max(at_s + delay_s + lost_s, self.arrived_s.get(bulk, 0.0))
        return self.arrived_s[bulk]

    def _fading(self, span: int) -> float:
        """0..1, the same both ways, drawn anew for each span."""
        return random.Random(f"{self.link}/{span}").random()


class PairLinks:
    """What happens to messages between devices, and between them and the coordinator.

    Args:
        rules: the first that fits a pair is the pair's. members: what names stand for.
        seed: of losses and jitter.

    Attributes:
        began_s: when schedules begin.

    Raises:
        UserError: a schedule cannot be used.
    """

    def __init__(self, rules: Sequence[PairFault], members: Members, seed: str) -> None:
        self._rules = [
            (frozenset(members[rule.from_]), frozenset(members[rule.to]), rule, read_condition(rule))
            for rule in rules
        ]
        self.began_s = 0.0
        self._seed = seed
        self._pairs: dict[tuple[str, str], _Pair | None] = {}

    def carry(self, from_: str, to: str, *, qos: int, bulk: bool, at_s: float) -> float | None:
        """When a message that sets out at a time is through, seconds since the start; None if it is lost."""
        if not self._rules:
            return at_s
        key = (from_, to)
        if key not in self._pairs:
            self._pairs[key] = self._pair(from_, to)
        pair = self._pairs[key]
        if pair is None:
            return at_s
        since_s = max(0.0, at_s - self.began_s)
        return pair.carry(pair.condition(since_s), qos=qos, bulk=bulk, at_s=at_s, since_s=since_s)

    def _pair(self, from_: str, to: str) -> _Pair | None:
        for froms, tos, rule, condition in self._rules:
            if from_ in froms and to in tos:
                link = f"{self._seed}/fading/{min(from_, to)}/{max(from_, to)}"
                return _Pair(rule, condition, random.Random(f"{self._seed}/pair/{from_}/{to}"), link)
        return None


def read_condition(rule: PairFault) -> Condition:
    """A rule's loss and latency as a function of time.

    A line of a schedule holds until the next one; the time of the last line is that of the first again.

    Raises:
        UserError: the schedule cannot be read, or a value is out of range.
    """
    if rule.schedule is None:
        constant = (rule.loss_fraction, rule.latency_ms)
        return lambda _time_s: constant
    times_s, losses = read_columns(Csv(file=rule.schedule, column="loss_fraction"))
    latencies = _latencies(rule, len(times_s))
    rows = [
        (
            _checked(rule, "loss_fraction", loss, rule.loss_fraction, 1.0),
            _checked(rule, "latency_ms", latency, rule.latency_ms, 60_000.0),
        )
        for loss, latency in zip(losses, latencies, strict=True)
    ]
    period_s = times_s[-1] - times_s[0]

    def condition(time_s: float) -> tuple[float, float]:
        at_s = times_s[0] + (time_s - times_s[0]) % period_s if period_s > 0 else times_s[0]
        return rows[bisect_right(times_s, at_s) - 1]

    return condition


def _latencies(rule: PairFault, num_rows: int) -> Sequence[float | None]:
    assert rule.schedule is not None
    with open(rule.schedule, encoding="utf-8") as file:  # noqa: PTH123 - the text is the path
        has_column = "latency_ms" in file.readline().strip().split(",")
    if not has_column:
        return [None] * num_rows
    return read_columns(Csv(file=rule.schedule, column="latency_ms"))[1]


def _checked(rule: PairFault, column: str, value: float | None, otherwise: float, high: float) -> float:
    """A cell's value; an empty cell means the rule's own."""
    if value is None:
        return otherwise
    if not 0.0 <= value <= high:
        raise UserError(f"{rule.schedule}: {column} {value:g} is not from 0 to {high:g}")
    return value
