"""What an agent's core hands a run to that goes on from order to order: see `PeerSession` and `GossipRun`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device_agent.effects import Effect
from device_agent.gossip.run import GossipRun
from device_agent.orders import OrderInHand
from device_agent.peers.session import PeerSession
from device_agent.wire.messages import Hello, Order
from firmware_profiles.errors import PeerError
from models.bundle import Bundle
from models.prototypes.classifier import NUM_PLACES, prototype_graph
from models.prototypes.classifier import scales_of as fleet_scales
from models.subnet import Array
from models.weights import unpack

Arrays = Mapping[str, NDArray[np.generic]]


class Session(Protocol):
    """A device's part of a run in which it learns by itself and from its neighbours."""

    @property
    def bundle(self) -> Bundle:
        """Of the newest order."""
        ...

    @property
    def bundle_digest(self) -> str:
        """Of that bundle."""
        ...

    def begin(self) -> list[Effect]:
        """The session is made."""
        ...

    def end(self) -> list[Effect]:
        """The run is over, or another one begins."""
        ...

    def takes(self, run: str, order: Order) -> bool:
        """Whether an order may belong to this session, which then goes on until its bundle is here."""
        ...

    def fits(self, bundle: Bundle) -> bool:
        """Whether a later order's bundle is this session's."""
        ...

    def on_order(
        self, in_hand: OrderInHand, bundle: Bundle, content: bytes, weights: Mapping[str, Array]
    ) -> list[Effect]:
        """A later order of the run."""
        ...

    def on_timer(self, now_s: float, key: str) -> list[Effect]:
        """A timer is due."""
        ...


def make_session(
    hello: Hello,
    in_hand: OrderInHand,
    bundle: Bundle,
    content: bytes,
    weights: bytes,
    learned: Arrays | None,
) -> Session:
    """The session that a run's first order begins.

    Args:
        hello: who the device is.
        in_hand: the order.
        bundle: decoded.
        content: the bundle as it came.
        weights: of the order, as they came.
        learned: what an earlier life of the agent learned in this run, of prototypes; None: nothing.

    Raises:
        PeerError: order, bundle and weights do not fit together.
    """
    graph = bundle.graph
    tensors = unpack(weights, graph.parameters)
    if bundle.settings.gossip is not None:
        if graph.parameters != prototype_graph(graph.input_shape, graph.num_classes, NUM_PLACES).parameters:
            raise PeerError(f"an order to learn prototypes has the network {graph.name!r}, which has none")
        return GossipRun(
            device=hello.device,
            boot_epoch=hello.boot_epoch,
            in_hand=in_hand,
            bundle=bundle,
            scales=fleet_scales(tensors),
            learned=learned,
        )
    return PeerSession(
        device=hello.device,
        boot_epoch=hello.boot_epoch,
        in_hand=in_hand,
        bundle=bundle,
        content=content,
        weights=tensors,
    )
