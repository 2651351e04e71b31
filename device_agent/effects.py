"""What a core decides: plain data that a runtime or the simulator carries out.

Cores own no thread, socket, file or clock. They are told what happened and when (`now_s`, seconds
of a monotonic clock) and answer with effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_agent.gossip.telling import Tell
from device_agent.wire.messages import Body, Hello, Run, Status, Telemetry


@dataclass(frozen=True)
class Send:
    """Send one machine message to a device, or from a device to the coordinator (`to` = "coordinator").

    What a device sends to another one goes to a neighbour, and may be lost.

    Attributes:
        durable: keep it in the outbox, and send it again until it is acknowledged.
        blobs: content that the receiver may fetch by digest while the message is unacknowledged.
    """

    to: str
    body: Body
    run: str
    base_version: int | None = None
    base_digest: str | None = None
    durable: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Announce:
    """Publish on one of the people's topics, under the sender's own id."""

    message: Status | Hello | Telemetry | Run


@dataclass(frozen=True)
class SetTimer:
    """Call `on_timer(key)` after `delay_s`; replaces a timer of the same key."""

    key: str
    delay_s: float


@dataclass(frozen=True)
class CancelTimer:
    """Forget a timer."""

    key: str


@dataclass(frozen=True)
class Fetch:
    """Get content by digest from a holder, then call `on_fetched(digest, bytes)` or `on_fetch_failed`.

    Attributes:
        keep: later orders will name it again: fetch it once, and keep it over restarts.
    """

    holder: str
    digest: str
    size_bytes: int
    keep: bool = False


@dataclass(frozen=True)
class StopFetch:
    """Nobody waits for this content any more: it need not come."""

    holder: str
    digest: str


@dataclass(frozen=True)
class Listen:
    """Hear what these neighbours say to this device, from now on."""

    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class Overhear:
    """Hear what these neighbours tell of prototypes, to this device and to all, from now on."""

    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class OpenStream:
    """Bring the device's own samples, one after another, to the session.

    Attributes:
        position: where a stored stream goes on. first_number: of samples that a live one brings.
        passes: over a stored stream. sample_s: between two samples of one that is replayed.
    """

    position: int
    first_number: int
    passes: int
    sample_s: float


@dataclass(frozen=True)
class CloseStream:
    """No more samples are wanted."""


@dataclass(frozen=True)
class KeepLearned:
    """Keep what a learner learned over restarts, in place of anything kept before.

    Attributes:
        run: that it belongs to. arrays: its state.
    """

    run: str
    arrays: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class StartJob:
    """Run a training job; progress comes back by `on_progress`, the end by `on_job_done`."""

    job: Any


@dataclass(frozen=True)
class StopJob:
    """Stop the running job within one mini-batch and forget it."""


@dataclass(frozen=True)
class Prepare:
    """A run is on: load what training needs before the first order comes."""


@dataclass(frozen=True)
class Install:
    """Put rolled-out content in force (a policy or a table), then call `on_installed`."""

    kind: str
    digest: str
    content: bytes


@dataclass(frozen=True)
class Acknowledged:
    """The outbox may forget the message (boot_epoch, sequence).

    Attributes:
        is_refused: it was an update that could not be used.
    """

    boot_epoch: int
    sequence: int
    is_refused: bool = False


@dataclass(frozen=True)
class Note:
    """A change of state worth a log line and a place on the dashboard.

    Attributes:
        event: a constant phrase.
        device: whom it concerns, "" for the coordinator.
        details: values, JSON-ready.
    """

    event: str
    device: str = ""
    details: dict[str, Any] = field(default_factory=dict)


Effect = (
    Send
    | Announce
    | SetTimer
    | CancelTimer
    | Fetch
    | StopFetch
    | Listen
    | Overhear
    | Tell
    | OpenStream
    | CloseStream
    | KeepLearned
    | StartJob
    | StopJob
    | Prepare
    | Install
    | Acknowledged
    | Note
)
