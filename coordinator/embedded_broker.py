"""The broker for machines without mosquitto: amqtt with its defects closed, on the loopback interface only.

amqtt gives listener, plugins, packet formats and session expiry. Ours are, because amqtt 0.12.1 gets them
wrong (each is a test): keepalive, takeover, wills under the access rules, retained messages only to those
who asked, QoS 1 redelivery, one copy at the lower QoS, shared subscriptions refused, bounded memory.
Not there: TLS, websockets, MQTT 5, anything kept across a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from amqtt.adapters import BufferReader, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session
from amqtt.utils import gen_client_id

from coordinator.embedded_connection import (
    SUBSCRIPTION_REFUSED,
    Connection,
    MalformedError,
    Packet,
    read_packet,
)
from coordinator.embedded_mailbox import Limits, Message, encode_length
from coordinator.embedded_routing import Routing
from coordinator.subscriptions import is_topic
from firmware_profiles.errors import EdgetideError, UserError, WorldError

logger = logging.getLogger(__name__)

AMQTT_VERSION = "0.12.1"
_LISTENER = "default"
_WATCH_S = 0.5
_ACCEPTED, _UNAVAILABLE, _NOT_AUTHORIZED = 0, 3, 5
_NO_SUCH_PROTOCOL = bytes([0x20, 2, 0, 1])
_NO_SUCH_PROTOCOL_5 = bytes([0x20, 3, 0, 0x84, 0])


def check_amqtt_version() -> None:
    """Refuse to start on an amqtt whose private methods we have not tested.

    Raises:
        UserError: another version is installed, or none.
    """
    try:
        found = importlib.metadata.version("amqtt")
    except importlib.metadata.PackageNotFoundError:
        found = "missing"
    if found != AMQTT_VERSION:
        raise UserError(
            f"the embedded broker needs amqtt {AMQTT_VERSION} and finds {found}: "
            f"run `pip install amqtt=={AMQTT_VERSION}`, or install mosquitto"
        )


class HardenedBroker(Broker):
    """amqtt's broker with everything between CONNECT and the end of a connection done by us."""

    def __init__(self, port: int, *, passwords: Path | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._guarded = passwords is not None
        access: dict[str, dict[str, str]] = {"coordinator.embedded_access.Anyone": {}}
        if passwords is not None:
            access = {
                "coordinator.embedded_access.Passwords": {"passwords_path": str(passwords)},
                "coordinator.embedded_access.FleetTopics": {},
            }
        super().__init__(
            BrokerConfig(
                listeners={_LISTENER: ListenerConfig(bind=f"127.0.0.1:{port}")},
                session_expiry_interval=self.limits.session_expiry_s,
                plugins=access,
            )
        )
        self.routing = Routing(self.limits)
        self._live: dict[str, Connection] = {}
        self._num_connections = 0
        self._watcher: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def port(self) -> int:
        """The port it listens on, also where 0 was asked for."""
        instance = self._servers[_LISTENER].instance
        return instance.sockets[0].getsockname()[1]  # type: ignore[union-attr,index]  # a TCP listener, started

    async def start(self) -> None:
        """Listen.

        Raises:
            BrokerError: the port is in use.
        """
        await super().start()
        self._watcher = asyncio.create_task(self._watch())

    async def shutdown(self) -> None:
        """End every connection and stop listening; wills are not sent, nobody is there to read them."""
        self._ending = True
        if self._watcher:
            self._watcher.cancel()
        live = tuple(self._live.values())
        for connection in live:
            connection.drop("the broker ends")
        await asyncio.gather(*(connection.finished.wait() for connection in live))
        await super().shutdown()

    # ------------------------------------------------------------ a connection's life

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve one connection from its first byte to its end."""
        self._num_connections += 1
        try:
            if self._num_connections > self.limits.connections:
                logger.warning("connection refused: %d are open", self.limits.connections)
            else:
                await self._serve(reader, writer, listener_name)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("a connection failed")
        finally:
            self._num_connections -= 1
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        try:
            packet = await asyncio.wait_for(
                read_packet(reader, self.limits.packet_bytes), self.limits.connect_s
            )
            session = await self._introduce(packet, writer)
        except (MalformedError, asyncio.IncompleteReadError, asyncio.TimeoutError, OSError) as error:
            logger.info("a connection ended before CONNECT was understood: %s", error or "timeout")
            return
        if not await self._authenticate(session, self.listeners_config[listener_name]):
            logger.warning("client refused: %s", session.client_id)
            await _say(writer, _connack(_NOT_AUTHORIZED))
            return
        client = session.client_id or ""
        while (older := self._live.get(client)) is not None:
            older.succeeded = continues(self._sessions[client][0], session)
            older.drop("another connection took its client id")
            await older.finished.wait()
        session, resumed = await self._resume(session)
        if client not in self._sessions and len(self._sessions) >= self.limits.sessions:
            await _say(writer, _connack(_UNAVAILABLE))
            return
        connection = Connection(
            self.plugins_manager, session, (reader, writer), self.routing.mailbox(client), self.limits
        )
        await self._attend(connection, session, writer, resumed=resumed)

    async def _introduce(self, packet: Packet, writer: asyncio.StreamWriter) -> Session:
        """The session that a CONNECT packet asks for."""
        if packet.head != 0x10:
            raise MalformedError("the first packet is not CONNECT")
        if packet.body[:6] == b"\0\4MQTT" and packet.body[6:7] != b"\4":
            await _say(writer, _NO_SUCH_PROTOCOL_5 if packet.body[6:7] == b"\5" else _NO_SUCH_PROTOCOL)
            raise MalformedError("it does not speak MQTT 3.1.1")
        whole = BufferReader(bytes([packet.head]) + encode_length(len(packet.body)) + packet.body)
        try:
            _, session = await BrokerProtocolHandler.init_from_connect(
                whole, StreamWriterAdapter(writer), self.plugins_manager
            )
        except Exception as error:  # hostile bytes break a foreign parser in any way
            raise MalformedError("CONNECT is malformed") from error
        session.client_id = session.client_id or gen_client_id()
        return session

    async def _resume(self, asked: Session) -> tuple[Session, bool]:
        """The session to go on with, and whether it is an older one. Another user's is not inherited."""
        client = asked.client_id or ""
        kept, _ = self._sessions.get(client, (None, None))
        if kept is None or not continues(kept, asked):
            await self._delete_session(client)
            return asked, False
        for name in (
            "will_flag",
            "will_retain",
            "will_qos",
            "will_topic",
            "will_message",
            "keep_alive",
            "password",
        ):
            setattr(kept, name, getattr(asked, name))
        return kept, True

    async def _attend(
        self, connection: Connection, session: Session, writer: asyncio.StreamWriter, *, resumed: bool
    ) -> None:
        """Serve a session that may come in, then do what its end demands."""
        client, said_goodbye = session.client_id or "", False
        self._live[client] = connection
        self._sessions[client] = (session, connection)
        session.parent = int(resumed)
        session.transitions.connect()
        try:
            await self._check_will(session)
            writer.write(_connack(_ACCEPTED, present=resumed))
            said_goodbye = await connection.serve(self)
        finally:
            session.transitions.disconnect()
            if session.will_flag and not (said_goodbye or connection.succeeded or self._ending):
                self._route_will(session)
            del self._live[client]
            if session.clean_session:
                await self._delete_session(client)
            connection.finished.set()

    async def _watch(self) -> None:
        """Drop clients that have been silent for too long; reading or writing may hang, this does not."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for connection in tuple(self._live.values()):
                if connection.overdue:
                    connection.drop("keepalive passed without a sign of life")

    async def _delete_session(self, client_id: str) -> None:
        self.routing.forget(client_id)
        await super()._delete_session(client_id)

    async def _cleanup_session(self, client_id: str) -> None:
        self.routing.forget(client_id)
        await super()._cleanup_session(client_id)

    # ------------------------------------------------------------ what a connection asks for

    async def publish(self, session: Session, message: Message) -> None:
        """Route a message that its sender may publish; another is dropped, which MQTT 3.1.1 cannot say."""
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("a topic is not UTF-8") from error
        if not is_topic(topic):
            raise MalformedError(f"topic {topic[:80]!r} cannot be published to")
        if await self._may(session, topic, Action.PUBLISH):
            self.routing.route(topic, message)
        else:
            logger.warning("%s may not publish to %s", session.client_id, topic)

    async def subscribe(self, session: Session, pattern: str, qos: int) -> int:
        """Subscribe a session; the granted QoS or 0x80, refused."""
        client, granted = session.client_id or "", None
        if await self._may(session, pattern, Action.SUBSCRIBE):
            granted = self.routing.subscribe(client, pattern, qos)
        if granted is None:
            logger.warning("%s may not subscribe to %s", client, pattern[:200])
            return SUBSCRIPTION_REFUSED
        return granted

    def unsubscribe(self, session: Session, pattern: str) -> None:
        """End a subscription of a session."""
        self.routing.unsubscribe(session.client_id or "", pattern)

    def greet(self, session: Session, pattern: str, granted: int) -> None:
        """Queue the retained messages for a new subscription."""
        self.routing.greet(session.client_id or "", pattern, granted)

    async def _may(self, session: Session, topic: str, action: Any) -> bool:
        return not self._guarded or await self._topic_filtering(session, topic, action)

    async def _check_will(self, session: Session) -> None:
        """Strip a will that its client could not publish itself."""
        topic = session.will_topic or ""
        if session.will_flag and not (is_topic(topic) and await self._may(session, topic, Action.PUBLISH)):
            logger.warning("%s may not leave a will on %s", session.client_id, topic[:200])
            session.will_flag = False

    def _route_will(self, session: Session) -> None:
        topic, payload = session.will_topic or "", bytes(session.will_message or b"")
        self.routing.route(
            topic, Message(topic.encode(), payload, session.will_qos or 0, bool(session.will_retain))
        )


def continues(kept: Session, asked: Session) -> bool:
    """Whether a client goes on with its own older session."""
    return not (kept.clean_session or asked.clean_session) and kept.username == asked.username


def _connack(code: int, *, present: bool = False) -> bytes:
    return bytes([0x20, 2, int(present), code])


async def _say(writer: asyncio.StreamWriter, packet: bytes) -> None:
    """Write a last word and let it leave before the connection is closed."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        writer.write(packet)
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), 1.0)


async def run(port: int, passwords: Path | None) -> None:
    """Run the broker until SIGTERM or SIGINT.

    Raises:
        WorldError: it cannot listen on the port.
    """
    broker = HardenedBroker(port, passwords=passwords)
    ended = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    try:
        await broker.start()
    except Exception as error:
        raise WorldError(f"the embedded broker cannot listen on 127.0.0.1:{port}: {error}") from error
    logger.info("embedded broker listens on 127.0.0.1:%d", broker.port)
    await ended.wait()
    await broker.shutdown()


def main(argv: list[str] | None = None) -> int:
    """Run it as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.embedded_broker", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument(
        "--passwords", type=Path, help="passwords file; without it anyone on this machine may connect"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.WARNING)
    try:
        check_amqtt_version()
        asyncio.run(run(options.port, options.passwords))
    except EdgetideError as error:
        print(f"edgetide broker: {error}", file=sys.stderr)  # noqa: T201  one clear line is this program's output
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
