"""What an agent's core hands a run to that goes on from order to order.

These are `device_agent.peers.session.PeerSession` and `device_agent.gossip.session.GossipSession`, which are
imported when a run asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from device_agent.effects import Effect
from device_agent.orders import OrderInHand
from device_agent.wire.messages import Hello, Order
from models.bundle import Bundle
from models.subnet import Array
from models.weights import unpack

Arrays = Mapping[str, NDArray[np.generic]]


class Session(Protocol):
    """A device's part of a run in which it learns by itself and from its neighbours."""

    kind: ClassVar[str]
    """peers or gossip."""

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

    def needs(self, order: Order, /) -> bool:
        """Whether what a later order names must be here before it is taken."""
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
    tensors = unpack(weights, bundle.graph.parameters)
    if bundle.settings.gossip is not None:
        from device_agent.gossip.session import begin_session  # noqa: PLC0415 - see the module's text

        return begin_session(hello, in_hand, bundle, tensors, learned)
    from device_agent.peers.session import PeerSession  # noqa: PLC0415 - as above

    return PeerSession(
        device=hello.device,
        boot_epoch=hello.boot_epoch,
        in_hand=in_hand,
        bundle=bundle,
        content=content,
        weights=tensors,
    )
