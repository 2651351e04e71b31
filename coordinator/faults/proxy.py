"""Stands between one agent and the broker, as the agent's bad network.

It knows where MQTT packets begin and end, and of a PUBLISH its topic and QoS; nothing else is looked at.
The same `LinkNetwork` decides as in the simulator: QoS 0 is lost, QoS 1 comes late, as over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct

from coordinator.embedded_mailbox import decode_publish
from coordinator.faults.pump import Pump
from coordinator.mqtt_packets import MalformedError, Packet
from coordinator.twins.network import LinkNetwork
from device_agent.wire.memory import Delivery
from device_agent.wire.topics import COORDINATOR, parse_topic
from firmware_profiles.errors import PeerError

log = logging.getLogger(__name__)

_PUBLISH = 0x30
_LINGER_NOT = struct.pack("ii", 1, 0)  # a socket closed so sends RST


class AgentProxy:
    """One agent's way to the broker, on a port of its own.

    Args:
        device: the agent's id.
        broker: its host and port.
        network: what links do, in seconds of the running loop's clock.

    Attributes:
        port: of the loopback interface; 0 before `start`.
    """

    def __init__(self, device: str, broker: tuple[str, int], network: LinkNetwork) -> None:
        self.port = 0
        self._device, self._broker, self._network = device, broker, network
        self._num_cuts, self._num_darks = 0, 0
        self._is_lit = asyncio.Event()
        self._is_lit.set()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all connections and listen no more."""
        assert self._server is not None
        self._server.close()
        self._end_all()
        if self._connections:
            await asyncio.wait(self._connections)

    # ------------------------------------------------------------ what happens to the link

    def cut(self) -> None:
        """End its connections (RST) and refuse new ones, until as many `mend` have come."""
        self._num_cuts += 1
        self._end_all()

    def mend(self) -> None:
        """One reason for refusing connections is gone."""
        self._num_cuts -= 1

    def darken(self) -> None:
        """Let nothing through, and nobody know, until as many `lighten` have come."""
        self._num_darks += 1
        self._is_lit.clear()

    def lighten(self) -> None:
        """One reason for letting nothing through is gone."""
        self._num_darks -= 1
        if self._num_darks == 0:
            self._is_lit.set()

    def _end_all(self) -> None:
        for task, writers in self._connections.items():
            for writer in writers:
                _reset(writer)
            task.cancel()

    # ------------------------------------------------------------ connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._num_cuts:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        writers = self._connections[task] = [writer]
        try:
            await self._is_lit.wait()
            to_broker = await asyncio.open_connection(*self._broker)
            writers.append(to_broker[1])
            await self._carry((reader, writer), to_broker)
        except MalformedError as error:
            log.warning("%s: connection cut: %s", self._device, error)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or this was cut
        finally:
            del self._connections[task]
            for one in writers:
                _reset(one)

    async def _carry(
        self,
        agent: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry packets both ways until one side ends."""
        pumps = {
            asyncio.create_task(Pump(agent[0], broker[1], self._up, self._is_lit).run()),
            asyncio.create_task(Pump(broker[0], agent[1], self._down, self._is_lit).run()),
        }
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
            for writer in (agent[1], broker[1]):  # what was written shall arrive: no RST
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for pump in pumps:
                if not pump.cancelled():
                    pump.exception()

    # ------------------------------------------------------------ when a packet may go on

    def _up(self, packet: Packet) -> float | None:
        now_s = asyncio.get_running_loop().time()
        if packet.head & 0xF0 != _PUBLISH:
            return now_s
        delivery, is_peers, _ = _delivery(packet, self._device, COORDINATOR, now_s)
        at_broker_s = self._network.up(delivery)
        if at_broker_s is None or is_peers:  # what is for a neighbour passes the pair's faults at its end
            return at_broker_s
        return self._network.between(delivery, at_broker_s)

    def _down(self, packet: Packet) -> float | None:
        now_s = asyncio.get_running_loop().time()
        if packet.head & 0xF0 != _PUBLISH:
            return now_s
        delivery, _, is_retained = _delivery(packet, None, self._device, now_s)
        there_s = self._network.down(delivery, now_s)
        return there_s if there_s is None or is_retained else self._network.between(delivery, there_s)


def _delivery(packet: Packet, sender: str | None, receiver: str, now_s: float) -> tuple[Delivery, bool, bool]:
    """A PUBLISH as the modelled network knows it, whether it is between neighbours, and whether retained.

    Args:
        packet: of the stream.
        sender: None: by the topic, a neighbour or the coordinator.
        receiver: who it is for.
        now_s: when it came.

    Raises:
        MalformedError: it is no PUBLISH that a broker would take.
    """
    try:
        message, _ = decode_publish(packet.head & 0x0F, packet.body)
        topic = message.topic.decode()
    except ValueError as error:
        raise MalformedError(str(error)) from error
    try:
        _, author, leaf = parse_topic(topic)
    except PeerError:  # somebody else's topic
        author, leaf = COORDINATOR, ""
    is_peers = leaf.startswith("peer/")
    if sender is None:
        sender = author if is_peers else COORDINATOR
    delivery = Delivery(sender, receiver, topic, message.payload, message.qos, now_s)
    return delivery, is_peers, message.retain


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, and let the other side see a broken connection; harmless where it is closed."""
    if writer.transport.is_closing():
        return
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
