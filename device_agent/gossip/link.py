"""A gossip run's way out of the core and in: whispers between neighbours, and the device's own stream.

A device tells on `<itself>/peer/all` or `<itself>/peer/<neighbour>`, at quality of service 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from device_agent.agent import AgentCore
from device_agent.effects import Effect, OpenStream, Overhear
from device_agent.gossip.session import GossipSession
from device_agent.gossip.telling import ALL, Tell
from device_agent.loop import Timers
from device_agent.streams.stream import Sample, Stream
from device_agent.throttle import DutyCycle
from device_agent.wire.topics import device_topic, parse_topic
from device_agent.wire.whispers import decode_whisper, encode_whisper
from firmware_profiles.errors import EdgetideError, UserError
from firmware_profiles.resources import Pause

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often it is looked whether the device may learn, and how much it may take."""

LEAST_REST_S = 0.05
"""What is owed is saved up to it."""

PERMISSION, REST = "stream/permission", "stream/rest"

Streams = Callable[[OpenStream], Stream]
"""Makes a device's stream.

Raises:
    EdgetideError: it has none that can be used.
"""


def no_stream(_effect: OpenStream) -> Stream:
    """Of a device without one.

    Raises:
        UserError: always.
    """
    raise UserError("this device has no stream to learn from")


class GossipLink:
    """A device's link to its stream and, in a gossip run, to its neighbours.

    Args:
        fleet: its name. core: whose session learns and tells.
        timers: of the node; the keys PERMISSION and REST are taken.
        publish: (topic, payload), at quality of service 0.
        listen: subscribes to a topic; what comes there reaches `received`, on the node's thread.
        streams: makes the device's stream.
        allowance: cores that it may take on average at this moment, or why it may not learn.
        core_seconds: computed so far.
        perform: carries out what the core answers.
    """

    def __init__(
        self,
        *,
        fleet: str,
        core: AgentCore,
        timers: Timers,
        publish: Callable[[str, bytes], None],
        listen: Callable[[str], None],
        streams: Streams,
        allowance: Callable[[], float | Pause],
        core_seconds: Callable[[], float],
        perform: Callable[[Sequence[Effect]], None],
    ) -> None:
        self._fleet, self._device, self._core = fleet, core.hello.device, core
        self._timers, self._publish, self._listen = timers, publish, listen
        self._streams, self._allowance, self._perform = streams, allowance, perform
        self._core_seconds, self._learning_core_s = core_seconds, 0.0
        # Only what a rest can save: what neighbours say is heard, and a command read, all the same.
        self._account = DutyCycle(clock=timers.now_s, cpu_clock=lambda: self._learning_core_s)
        self._cores: float | None = None
        self._heard: set[str] = set()
        self._stream: Stream | None = None
        self._session: GossipSession | None = None
        self._num_missed = 0

    # ------------------------------------------------------------ neighbours

    def overhear(self, effect: Overhear) -> None:
        """Hear these, too; what those heard before say is looked at by the session."""
        for neighbour in effect.neighbours:
            for to in (ALL, self._device):
                topic = device_topic(self._fleet, neighbour, f"peer/{to}")
                if topic not in self._heard:
                    self._heard.add(topic)
                    self._listen(topic)

    def tell(self, tell: Tell) -> None:
        """Say something, which may be lost."""
        payload = encode_whisper(tell.whisper)
        if (session := self._core.gossip) is not None:
            session.on_told(len(payload))
        self._publish(device_topic(self._fleet, self._device, f"peer/{tell.to}"), payload)

    def hears(self, topic: str) -> bool:
        """Whether what comes here is a whisper."""
        return self._core.gossip is not None and topic in self._heard

    def received(self, topic: str, payload: bytes) -> None:
        """A neighbour told something.

        Raises:
            PeerError: it cannot be trusted or used.
        """
        session = self._core.gossip
        if session is None:
            return
        _, sender, _ = parse_topic(topic)
        whisper = decode_whisper(payload, topic)
        self._perform(session.on_whisper(self._timers.now_s(), sender, whisper, len(payload)))

    def connected(self) -> None:
        """The bus is (again) connected."""
        if (session := self._core.gossip) is not None:
            session.on_connected()

    def leave(self) -> None:
        """The process ends: what was learned is kept."""
        self.close_stream()
        if (session := self._core.gossip) is not None:
            self._perform([session.keep()])

    # ------------------------------------------------------------ the stream

    def open_stream(self, effect: OpenStream) -> None:
        """Bring the device's samples to the session; where there are none, the order is declined."""
        self.close_stream()
        try:
            self._stream = stream = self._streams(effect)
            stream.start(lambda samples: self._came(stream, samples), lambda: self._ended(stream))
        except EdgetideError as error:
            self._stream = None
            self._perform(self._core.on_session_failed(str(error)))
            return
        self._session, self._num_missed = self._core.gossip, 0
        self._account.reset()
        self._look()

    def close_stream(self) -> None:
        """No more samples are wanted."""
        if self._stream is not None:
            self._stream.stop()
            self._count_missed(self._stream)
            self._stream = None
            self._timers.cancel_timer(PERMISSION)
            self._timers.cancel_timer(REST)

    def _count_missed(self, stream: Stream) -> None:
        num_missed = stream.num_missed  # which another thread may raise
        if self._session is not None:
            self._session.on_missed(num_missed - self._num_missed)
            self._num_missed = num_missed

    def _came(self, stream: Stream, samples: Sequence[Sample]) -> None:
        session = self._core.gossip
        if stream is self._stream and session is not None:
            self._count_missed(stream)
            began_core_s = self._core_seconds()
            self._perform(session.on_samples(self._timers.now_s(), samples, stream.num_left))
            self._learning_core_s += self._core_seconds() - began_core_s
            self._rest_or_go_on()

    def _ended(self, stream: Stream) -> None:
        session = self._core.gossip
        if stream is self._stream and session is not None:
            self._count_missed(stream)
            self._perform(session.on_ended(self._timers.now_s()))

    def _look(self) -> None:
        """Hold the stream where the device may not learn; count what was missed."""
        stream, session = self._stream, self._core.gossip
        if stream is None or session is None:
            return
        allowance = self._allowance()
        if isinstance(allowance, Pause):
            self._cores = None
            self._timers.cancel_timer(REST)
            stream.hold()
            self._perform(self._core.on_paused(allowance))
        else:
            if self._cores is None:
                self._account.reset()
            self._cores = allowance
            self._perform(self._core.on_learning())
            self._rest_or_go_on()
        self._count_missed(stream)
        self._timers.set_timer(PERMISSION, LOOK_S, self._look)

    def _rest_or_go_on(self) -> None:
        """Rest as long as learning has taken more than it may."""
        stream, cores = self._stream, self._cores
        if stream is None or cores is None:
            return
        owed_s = self._account.owed_s(cores, 1)
        if owed_s < LEAST_REST_S:
            stream.go_on()
        else:
            stream.rest()
            self._timers.set_timer(REST, min(owed_s, LOOK_S), self._rest_or_go_on)
