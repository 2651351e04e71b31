"""Who exchanges with whom in a window of a decentralised run, and how long a window may take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from coordinator.orders import RunConfig
from coordinator.strategies.presets import Preset
from device_agent.peers.topology import Neighbours, Topology, load_topology, neighbours
from device_agent.peers.topology_settings import MOST_NEIGHBOURS
from device_agent.wire.messages import Neighbour, Peering
from firmware_profiles.errors import UserError
from models.gossip_settings import GossipSettings
from models.peer_settings import PeerSettings

LIVE_WINDOW_S = 30.0
"""Between two reports of a live stream."""

WINDOW_SLACK, WINDOW_MARGIN_S = 1.5, 5.0
"""Of what a stored stream takes for a window, and besides: pauses, and learning that takes its time."""

SLACK = 1.1
PATIENCE = 10
"""Times the nominal seconds of a window, for devices that step at a pace of their own."""


@dataclass
class Assignment:
    """The neighbours of the window that is open.

    Attributes:
        topology: what they follow from.
        epoch: counts the changes; begins with the coordinator's boot epoch in its upper bits, so that it
            rises over restarts.
        joins_at_once: a device that comes within a window may hear the others at once.
    """

    topology: Topology
    epoch: int = 0
    joins_at_once: bool = False
    _found: Neighbours = field(default_factory=dict)

    def open(self, devices: Iterable[str], window: int) -> None:
        """A window begins: those that are here now are connected anew.

        Args:
            devices: that get an order.
            window: counted from 0.
        """
        found = neighbours(self.topology, devices, window)
        self.epoch += found != self._found
        self._found = found

    def of(self, device: str) -> Peering:
        """Whom a device exchanges with.

        One that comes within a window may have all others, where all are each other's neighbours; they learn
        of it with the next. Else it has nobody until then.
        """
        found = self._found.get(device)
        if found is None and self.joins_at_once and self.topology.settings.kind == "full":
            num = min(len(self._found), MOST_NEIGHBOURS)
            found = tuple(Neighbour(device=one, degree=num) for one in sorted(self._found)[:num])
        return Peering(neighbours=found or (), epoch=self.epoch)


def assignment_of(method: Preset, seed: int, boot_epoch: int) -> Assignment | None:
    """The assignment of a coordinator that has just started; None for a method without exchanges.

    Raises:
        UserError: the topology's file cannot be used.
    """
    if method.peers is None and method.gossip is None:
        return None
    topology = load_topology(method.topology, seed)
    return Assignment(topology, epoch=boot_epoch << 24, joins_at_once=method.gossip is not None)


def refuse_draws(method: Preset, strategy: str, devices_per_round: int | None) -> None:
    """Refuse to draw devices for a round where all of them exchange all the time.

    Raises:
        UserError: they are to be drawn.
    """
    if devices_per_round is not None and (method.peers is not None or method.gossip is not None):
        raise UserError(
            f"strategy {strategy} has no rounds that some devices are drawn for: leave devices_per_round out"
        )


def windowed(config: RunConfig, method: Preset) -> RunConfig:
    """A run's config as its windows need it; the same for a method without exchanges.

    An order is for the mini-batches of its window, and a report that comes after its window was closed tells
    of weights that have moved on since: it is not in the next one's mean.

    Raises:
        UserError: devices are to be drawn for a round, and all of them exchange all the time.
    """
    peers = method.peers
    if peers is None and method.gossip is None:
        return config
    refuse_draws(method, config.strategy_name, config.devices_per_round)
    num_batches = 1 if peers is None else peers.window * peers.unit_batches
    return replace(config, max_staleness=0, batches_per_order=num_batches)


def stream_window_s(gossip: GossipSettings, num_samples: int, round_s: float | None) -> float:
    """Seconds from a window's orders until its reports should be on their way at the latest.

    Args:
        gossip: of the run.
        num_samples: of a device's stored stream; 0: its stream is live.
        round_s: what the user wants; None: half as long again as a stored stream takes for a window.
    """
    if round_s is not None:
        return round_s
    if not num_samples:
        return LIVE_WINDOW_S
    return WINDOW_MARGIN_S + WINDOW_SLACK * gossip.sample_s * num_samples / gossip.windows


def window_s(peers: PeerSettings, round_s: float) -> float:
    """Seconds from a window's orders until its reports should be on their way at the latest.

    Devices report when their window is over, and a window of which all have reported is closed at once: this
    is how long is waited for one that is not heard of.

    Args:
        peers: at the paces `barrier` and `overlapped` they say it, and a tenth and a barrier more keep the
            last barrier in.
        round_s: at least, where devices step at a pace of their own.
    """
    nominal_s = peers.window * peers.barrier_s
    if peers.has_timed_barriers:
        return SLACK * nominal_s + peers.barrier_s
    return max(round_s, PATIENCE * nominal_s)
