"""MQTT packets as they stand in the stream: type, length, body. What is in a body is for others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


class MalformedError(Exception):
    """The client broke the protocol; its connection ends."""


@dataclass(frozen=True)
class Packet:
    """One packet as received: first byte (type and flags) and body."""

    head: int
    body: bytes


async def read_packet(reader: asyncio.StreamReader, limit_bytes: int) -> Packet:
    """Read one packet.

    Raises:
        MalformedError: its length is malformed or over the limit; the body is not read then.
        asyncio.IncompleteReadError, OSError: the connection ended.
    """
    head = (await reader.readexactly(1))[0]
    length = 0
    for shift in (0, 7, 14, 21):
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        if digit < 0x80:
            break
    else:
        raise MalformedError("a packet's length is malformed")
    if length > limit_bytes:
        raise MalformedError(f"a packet of {length} bytes is over the limit of {limit_bytes}")
    return Packet(head, await reader.readexactly(length))
