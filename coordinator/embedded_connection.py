"""One client's connection to the embedded broker: packets in, packets out, and its end.

It takes the place of amqtt's protocol handler after CONNECT: packets are handled in order and one at a
time, so that a client that sends faster than we work is slowed by TCP and not kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Protocol, cast

from amqtt.adapters import BufferReader
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket
from amqtt.plugins.manager import PluginManager
from amqtt.session import Session

from coordinator.embedded_mailbox import (
    Limits,
    Mailbox,
    Message,
    decode_publish,
    encode_length,
    encode_publish,
)
from coordinator.mqtt_packets import MalformedError, Packet, read_packet

logger = logging.getLogger(__name__)

_PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP = 0x30, 0x40, 0x50, 0x62, 0x70
_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK = 0x82, 0x90, 0xA2, 0xB0
_PINGREQ, _PINGRESP, _DISCONNECT = 0xC0, 0xD0, 0xE0
SUBSCRIPTION_REFUSED = 0x80
_WRITE_BUFFER_BYTES = 256 * 1024


class Actions(Protocol):
    """What the broker does for a connection."""

    async def publish(self, session: Session, message: Message) -> None:
        """Route one message of this session."""
        ...

    async def subscribe(self, session: Session, pattern: str, qos: int) -> int:
        """Subscribe this session; the granted QoS, or 0x80 for a refusal."""
        ...

    def unsubscribe(self, session: Session, pattern: str) -> None:
        """End a subscription of this session."""
        ...

    def greet(self, session: Session, pattern: str, granted: int) -> None:
        """Queue the retained messages for a new subscription."""
        ...


class Connection(BrokerProtocolHandler):
    """One open connection of one session.

    Attributes:
        finished: set when the broker has done everything that follows its end.
        succeeded: whether a newer connection goes on with the session, so that nobody is lost.
        heard_s: when the last packet came, seconds of the loop's clock.
    """

    def __init__(
        self,
        plugins: PluginManager,
        session: Session,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        mailbox: Mailbox,
        limits: Limits,
    ) -> None:
        super().__init__(plugins, session)
        self._streams = streams
        self._mailbox = mailbox
        self._limits = limits
        self._sender: asyncio.Task[None] | None = None
        self.finished = asyncio.Event()
        self.succeeded = False
        self.heard_s = self._loop.time()
        streams[1].transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    @property
    def overdue(self) -> bool:
        """Whether nothing came for one and a half keepalives, the slack the standard gives."""
        keepalive_s = cast("Session", self.session).keep_alive
        return keepalive_s > 0 and self._loop.time() - self.heard_s > 1.5 * keepalive_s

    def drop(self, reason: str) -> None:
        """End the connection now, whatever is still to be written."""
        logger.info("%s: connection dropped: %s", cast("Session", self.session).client_id, reason)
        self._streams[1].transport.abort()

    async def stop(self) -> None:
        """End the connection; the broker calls this when it forgets a session or shuts down."""
        if not self.finished.is_set():
            self._streams[1].transport.abort()

    async def serve(self, actions: Actions) -> bool:
        """Handle packets until the connection ends; True when the client said goodbye (DISCONNECT)."""
        session = cast("Session", self.session)
        self._mailbox.connected = True
        self._sender = asyncio.create_task(self._send_mail())
        try:
            while True:
                packet = await read_packet(self._streams[0], self._limits.packet_bytes)
                self.heard_s = self._loop.time()
                if packet.head == _DISCONNECT:
                    return True
                await self._handle(session, packet, actions)
                await self._streams[1].drain()
        except MalformedError as error:
            logger.warning("%s: connection ended: %s", session.client_id, error)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the ordinary end of a connection
        finally:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sender
            self._streams[1].transport.abort()
            self._mailbox.disconnected()
        return False

    async def _handle(self, session: Session, packet: Packet, actions: Actions) -> None:
        kind = packet.head & 0xF0
        if kind == _PUBLISH:
            await self._receive(session, packet, actions)
        elif packet.head == _PUBACK:
            self._mailbox.acknowledged(_packet_id(packet))
        elif packet.head == _PUBREL:
            self._mailbox.seen.discard(_packet_id(packet))
            self._write(_PUBCOMP, packet.body[:2])
        elif packet.head == _SUBSCRIBE:
            asked = (await _parse(SubscribePacket, packet)).payload.topics
            granted = [await actions.subscribe(session, pattern, qos) for pattern, qos in asked]
            self._write(_SUBACK, packet.body[:2] + bytes(granted))
            for (pattern, _), code in zip(asked, granted, strict=True):
                if code != SUBSCRIPTION_REFUSED:
                    actions.greet(session, pattern, code)
        elif packet.head == _UNSUBSCRIBE:
            for pattern in (await _parse(UnsubscribePacket, packet)).payload.topics:
                actions.unsubscribe(session, pattern)
            self._write(_UNSUBACK, packet.body[:2])
        elif packet.head == _PINGREQ:
            self._write(_PINGRESP, b"")
        else:
            raise MalformedError(f"packet type 0x{packet.head:02x} is not expected")

    async def _receive(self, session: Session, packet: Packet, actions: Actions) -> None:
        try:
            message, packet_id = decode_publish(packet.head & 0x0F, packet.body)
        except ValueError as error:
            raise MalformedError(str(error)) from error
        repeated = message.qos == 2 and packet_id in self._mailbox.seen
        if message.qos == 2:
            self._mailbox.seen.add(packet_id)
        if not repeated:
            await actions.publish(session, message)
        if message.qos:
            self._write(_PUBACK if message.qos == 1 else _PUBREC, packet_id.to_bytes(2, "big"))

    def _write(self, head: int, body: bytes) -> None:
        self._streams[1].write(bytes([head]) + encode_length(len(body)) + body)

    async def _send_mail(self) -> None:
        """Send what was in flight when the last connection ended, then what waits, as the window allows."""
        writer = self._streams[1]
        with contextlib.suppress(OSError):  # the reading side notices the end as well
            for packet_id, message in tuple(self._mailbox.inflight.items()):
                writer.write(encode_publish(message, packet_id, dup=True))
                await writer.drain()
            while True:
                self._mailbox.wake.clear()
                while (sending := self._mailbox.take()) is not None:
                    writer.write(encode_publish(*sending))
                    await writer.drain()
                await self._mailbox.wake.wait()


def _packet_id(packet: Packet) -> int:
    if len(packet.body) != 2:
        raise MalformedError("an acknowledgement is malformed")
    return int.from_bytes(packet.body, "big")


async def _parse(kind: type[SubscribePacket | UnsubscribePacket], packet: Packet) -> Any:
    """Parse a packet with amqtt's codec, out of a buffer that ends where the packet ends."""
    header = kind.FIXED_HEADER(packet.head >> 4, packet.head & 0x0F, len(packet.body))
    try:
        parsed = await kind.from_stream(BufferReader(packet.body), fixed_header=header)
    except Exception as error:  # hostile bytes break a foreign parser in any way
        raise MalformedError(f"a {kind.__name__} is malformed") from error
    if parsed.payload is None or not parsed.payload.topics:
        raise MalformedError(f"a {kind.__name__} names no filter")
    return parsed
