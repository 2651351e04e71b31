"""How good the devices' own models are in a run without a server, while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from coordinator.peering import stream_window_s, window_s
from coordinator.strategies.presets import Preset
from coordinator.twins.clock import VirtualClock
from coordinator.twins.scenario import Scenario
from coordinator.twins.twin import Twin
from firmware_profiles.errors import UserError
from models.subnet import Array


class NodePoint(NamedTuple):
    """All nodes at one time.

    Attributes:
        virtual_s: when. mean, least: accuracy of the nodes' own models, 0..1.
    """

    virtual_s: float
    mean: float
    least: float


@dataclass
class NodeAccuracy:
    """Looks at the nodes at even times, whatever pace they have, so that methods can be compared.

    Attributes:
        clock: virtual. twins: those that are looked at.
        accuracy: of weights, 0..1.
        every_s: virtual seconds between two looks.
        curve: what was seen so far.
    """

    clock: VirtualClock
    twins: Iterable[Twin]
    accuracy: Callable[[Mapping[str, Array]], float]
    every_s: float
    curve: list[NodePoint] = field(default_factory=list)

    def start(self) -> None:
        """Look for the first time one period from now, and then for ever."""
        self.clock.call_at(self.clock.now_s + self.every_s, self._next)

    def finish(self) -> None:
        """Look once more, if the last look was a while ago."""
        if not self.curve or self.clock.now_s - self.curve[-1].virtual_s > self.every_s / 2:
            self.look()

    def look(self) -> None:
        """Measure every node that has a model of its own now."""
        models = [twin.own_model for twin in self.twins]
        seen = [self.accuracy(own) for own in models if own is not None]
        if seen:
            self.curve.append(NodePoint(self.clock.now_s, sum(seen) / len(seen), min(seen)))

    def _next(self) -> None:
        self.look()
        self.start()


def windowed_scenario(scenario: Scenario, method: Preset, num_samples: int) -> Scenario:
    """A scenario whose rounds are the windows of its method; the same for a method that has none.

    Args:
        scenario: as written.
        method: its own.
        num_samples: of all devices.

    Raises:
        UserError: the scenario gives what windows have nothing to do with.
    """
    if method.peers is None and method.gossip is None:
        return scenario
    if scenario.budget_fraction is not None:
        pace = "peers: {barrier_s: …}" if method.gossip is None else "gossip: {sample_s: …}"
        raise UserError(
            f"scenario {scenario.name!r}: {scenario.method} goes at a pace of its devices: leave "
            f"budget_fraction out and set {pace}"
        )
    if method.peers is not None:
        return msgspec.structs.replace(scenario, round_s=window_s(method.peers, scenario.round_s))
    assert method.gossip is not None
    if scenario.num_validation:
        raise UserError(
            f"scenario {scenario.name!r}: nothing is held out of a stream: leave num_validation out"
        )
    num_own = -(-num_samples // scenario.num_devices)
    return msgspec.structs.replace(scenario, round_s=stream_window_s(method.gossip, num_own, None))
