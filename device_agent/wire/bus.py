"""The Bus seam: publish and subscribe, nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Receive = Callable[[str, bytes], None]
"""Called with (topic, payload). It must return soon and must not raise: hand the message to your own loop."""


class Bus(Protocol):
    """Carries payloads between processes. Delivery may repeat, reorder, delay or lose messages."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Send a payload; returns before it has left. Topics that end in `bulk` use a second connection."""
        ...

    def subscribe(self, pattern: str, receive: Receive) -> None:
        """Have `receive` called for each message whose topic matches the MQTT filter, across reconnects."""
        ...

    def close(self) -> None:
        """Disconnect cleanly."""
        ...
