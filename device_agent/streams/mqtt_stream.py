"""A live stream from an MQTT topic of the broker that the fleet uses too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from device_agent.loop import Action
from device_agent.streams.live_events import LiveEvents
from device_agent.streams.stream import Deliver, Sample
from device_agent.wire.topics import ROOT
from firmware_profiles.errors import UserError
from models.data.live import DEVICE, LiveSource

Subscribe = Callable[[str, Callable[[str, bytes], None]], None]
"""Has a callback called with (topic, payload), on the node's thread, for each message a filter matches."""


def filled_in(source: LiveSource, device: str) -> str:
    """The topic of a device: {device} is its id."""
    return source.target.replace(DEVICE, device)


def check_filter(topic: str) -> str:
    """Return the topic or filter if a stream may subscribe to it.

    Raises:
        UserError: it is no MQTT filter, or matches topics of the fleet.
    """
    levels = topic.split("/")
    if not 0 < len(topic.encode("utf-8", "replace")) < 2**16 or "\0" in topic:
        raise UserError(f"topic {topic[:80]!r} is empty, too long or has a null character. Give another.")
    if any("+" in level and level != "+" for level in levels) or any(
        "#" in level and (level != "#" or index < len(levels) - 1) for index, level in enumerate(levels)
    ):
        raise UserError(f"topic '{topic}': + stands for a whole level, # for the last ones. Correct it.")
    if levels[0] == "$share":
        raise UserError(f"topic '{topic}': subscriptions cannot be shared. Give the topic behind the group.")
    if _covers_the_fleet(levels):
        raise UserError(
            f"topic '{topic}' takes in topics below {ROOT}/, which are the fleet's own. "
            "Publish samples elsewhere, such as plant/{device}."
        )
    return topic


class MqttStream:
    """Delivers messages in the order in which they come.

    Args:
        source: says what a payload looks like.
        topic: to subscribe to, {device} filled in.
        subscribe: of the bus.
        post: runs an action on the node's thread.
        first_number: of the first sample; in a later life, one that was not used.

    Raises:
        UserError: the topic cannot be subscribed to, or is the fleet's.
    """

    num_left = None

    def __init__(
        self,
        source: LiveSource,
        topic: str,
        subscribe: Subscribe,
        post: Callable[[Action], None],
        *,
        first_number: int = 0,
    ) -> None:
        self._topic = check_filter(topic)
        self._subscribe = subscribe
        self._events = LiveEvents(
            source, f"topic {topic}", post, deliver=self._came, first_number=first_number
        )
        self._deliver: Deliver | None = None

    @property
    def num_missed(self) -> int:
        """Messages that came while it was held, waited too long, or could not be read."""
        return self._events.num_missed

    def start(self, deliver: Deliver, ended: Callable[[], None]) -> None:  # noqa: ARG002 - it never ends
        """Subscribe."""
        self._deliver = deliver
        self._subscribe(self._topic, lambda _topic, payload: self._events.put(payload))

    def hold(self) -> None:
        """Leave out what comes."""
        self._events.hold()

    def rest(self) -> None:
        """Let wait what comes."""
        self._events.rest()

    def go_on(self) -> None:
        """Take what comes."""
        self._events.go_on()

    def stop(self) -> None:
        """Deliver nothing more. A bus has no way to unsubscribe: what still comes is dropped."""
        self._events.stop()

    def _came(self, samples: Sequence[Sample]) -> None:
        assert self._deliver is not None
        self._deliver(samples)


def _covers_the_fleet(levels: list[str]) -> bool:
    """Whether a filter matches a topic below ROOT."""
    root = ROOT.split("/")
    for index, level in enumerate(levels[: len(root)]):
        if level == "#":
            return True
        if level not in {"+", root[index]}:
            return False
    return len(levels) > len(root)
