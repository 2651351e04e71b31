"""Where live devices operate, as a running coordinator's page says, or a file saved from it.

What comes from there is another process' claim: time and size are bounded, unknown keys are passed over,
and what does not fit is refused.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_profiles.errors import PeerError, UserError, WorldError

TIMEOUT_S = 10.0
MAX_BYTES = 64 * 2**20
"""A fleet of 4096 devices with 40 000 points takes a fifth of it."""

FLEET_PATH = "/api/v1/fleet"

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
_Text = Annotated[str, Meta(max_length=500)]
_Kept = Annotated[int, Meta(ge=1, le=2**20)]


class LiveGroup(msgspec.Struct, frozen=True):
    """A width group of the model that the fleet trains: its name, and channels at full width."""

    name: _Text
    num_channels: _Kept


class LiveDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the coordinator sees it.

    Attributes:
        device: its id.
        state: what it does, such as training, paused or lost.
        online: whether it is connected.
        vector: kept channels of its last mini-batch, None before the first.
        macs_fraction: training MACs of that vector over those of the full network.
        macs_series: (seconds ago, share of the full network's MACs), oldest first; 0 while paused.
    """

    device: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")]
    state: Annotated[str, Meta(max_length=32)]
    online: bool = True
    vector: Annotated[tuple[_Kept, ...], Meta(max_length=4096)] | None = None
    macs_fraction: Fraction | None = None
    macs_series: Annotated[tuple[tuple[float, Fraction], ...], Meta(max_length=10_000)] = ()


class LiveFleet(msgspec.Struct, frozen=True, kw_only=True):
    """The part of `/api/v1/fleet` that is drawn."""

    groups: Annotated[tuple[LiveGroup, ...], Meta(max_length=4096)]
    devices: Annotated[tuple[LiveDevice, ...], Meta(max_length=65536)]


def read_fleet(source: str, timeout_s: float = TIMEOUT_S) -> LiveFleet:
    """Read what the devices do.

    Args:
        source: `http://host:port` of a coordinator's page, or a file that holds its `/api/v1/fleet`.
        timeout_s: longest wait for the page.

    Raises:
        UserError: the file cannot be read, or is none of a fleet.
        WorldError: the page does not answer.
        PeerError: the page answers with something else.
    """
    if source.startswith(("http://", "https://")):
        url = _fleet_url(source)
        return _parse(_fetch(url, timeout_s), url, PeerError)
    if "://" in source:
        raise UserError(f"{source}: give a file, or the http:// address of a coordinator's page")
    try:
        with Path(source).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    return _parse(content, source, UserError)


def _fleet_url(source: str) -> str:
    try:
        parts = urllib.parse.urlsplit(source)
        _ = parts.port
    except ValueError as error:
        raise UserError(f"{source} is no address: {error}") from None
    if not parts.hostname:
        raise UserError(f"{source} names no host; write http://host:port")
    path = parts.path if parts.path.strip("/") else FLEET_PATH
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _fetch(url: str, timeout_s: float) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - http(s) alone, checked before
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 - as above
            return _read(answer, time.monotonic() + timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise WorldError(f"{url} answered {error.code} {error.reason}; is a coordinator there?") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WorldError(f"{url} does not answer: {reason}; is the coordinator running?") from None


def _read(answer: http.client.HTTPResponse, until_s: float) -> bytes:
    """The body as far as anybody needs it; one that drips on is given up."""
    content = bytearray()
    while len(content) <= MAX_BYTES and (part := answer.read1(2**16)):
        content += part
        if time.monotonic() > until_s:
            raise TimeoutError("its answer takes too long")
    return bytes(content)


def _parse(content: bytes, source: str, fault: type[UserError | PeerError]) -> LiveFleet:
    if len(content) > MAX_BYTES:
        raise fault(f"{source} is larger than {MAX_BYTES >> 20} MiB: that is no fleet")
    try:
        return msgspec.json.decode(content, type=LiveFleet)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise fault(f"{source} is not what a coordinator's {FLEET_PATH} answers: {error}") from None
