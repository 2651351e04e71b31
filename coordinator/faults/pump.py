"""One direction of a proxied connection: packets are read, held until they are due, and written.

What is held is bounded: while it is too much nothing is read, and TCP slows the sender down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from coordinator.embedded_mailbox import encode_length
from coordinator.mqtt_packets import Packet, read_packet

MAX_PACKET_BYTES = 512 * 1024
"""A longer one ends the connection; the brokers themselves take half of it."""

MAX_HELD_BYTES = 1024 * 1024

DISCONNECT = 0xE0

Due = Callable[[Packet], "float | None"]
"""When a packet may go on, in the loop's seconds, None: never."""


class Pump:
    """Carries one direction.

    Args:
        reader, writer: where packets come from and go to.
        due: when each may go on. Packets of equal times keep their order; a goodbye goes last.
        is_lit: while it is not set, nothing is read and nothing is written.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: Due, is_lit: asyncio.Event
    ) -> None:
        self._reader, self._writer = reader, writer
        self._due, self._is_lit = due, is_lit
        self._loop = asyncio.get_running_loop()
        self._held: list[tuple[float, int, bytes]] = []
        self._held_bytes, self._num_taken, self._last_due_s = 0, 0, 0.0
        self._has_ended = False
        self._wake, self._has_room = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Carry packets until the reader's side has ended and all that is held is written.

        Raises:
            MalformedError: what came is not MQTT.
            OSError: one side broke.
        """
        reading = asyncio.create_task(self._read())
        try:
            await self._write()
            await reading
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # raised above, or of less weight than what was

    async def _read(self) -> None:
        try:
            while True:
                await self._is_lit.wait()
                packet = await read_packet(self._reader, MAX_PACKET_BYTES)
                await self._is_lit.wait()
                self._take(packet)
                while self._held_bytes > MAX_HELD_BYTES:
                    self._has_room.clear()
                    await self._has_room.wait()
        except asyncio.IncompleteReadError:
            await self._is_lit.wait()  # the end of a connection is not seen through the dark either
        finally:
            self._has_ended = True
            self._wake.set()

    def _take(self, packet: Packet) -> None:
        due_s = self._last_due_s if packet.head == DISCONNECT else self._due(packet)
        if due_s is None:
            return
        content = bytes([packet.head]) + encode_length(len(packet.body)) + packet.body
        self._last_due_s = max(self._last_due_s, due_s)
        self._num_taken += 1
        self._held_bytes += len(content)
        heappush(self._held, (due_s, self._num_taken, content))
        self._wake.set()

    async def _write(self) -> None:
        while self._held or not self._has_ended:
            self._wake.clear()
            if not self._held:
                await self._wake.wait()
                continue
            await self._is_lit.wait()
            if self._held[0][0] > self._loop.time():
                alarm = self._loop.call_at(self._held[0][0], self._wake.set)
                await self._wake.wait()
                alarm.cancel()
                continue
            _, _, content = heappop(self._held)
            self._held_bytes -= len(content)
            self._has_room.set()
            self._writer.write(content)
            await self._writer.drain()
