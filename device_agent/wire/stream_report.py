"""What a device tells of its learning from a stream."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from device_agent.wire.fields import Count, Fraction, Id, Seconds

MAX_SAMPLES = 2**40
"""That one device says it has seen: sums over a fleet stay within 64 bits."""


class PairAge(msgspec.Struct, frozen=True, kw_only=True):
    """How old what a device has of a neighbour was, since the run began here.

    Attributes:
        updates: that brought something newer.
        mean_s: over the time since the first. peak_s: just before each of the others. None: too few came.
        expected_s: as the rate of the updates and their mean age on arrival let one expect.
    """

    updates: Count
    mean_s: Seconds | None = None
    peak_s: Seconds | None = None
    expected_s: Seconds | None = None


class DriftSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The rate of errors changed: about at this sample of the device's, from one level to another."""

    sample: Count
    before: Fraction
    after: Fraction


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a device's learning from its stream has gone since the run began on it, over its restarts too.

    So a report that is lost, late or doubled spoils nothing: of a device's reports the one of most samples is
    all there is to know.

    Attributes:
        seen: samples of the stream. is_over: no more will come, nor will labels.
        num_left: samples to come; None: the stream has no end.
        counts: of samples by true class, then predicted one: the rows of a square.
        told, heard: messages to and of neighbours. repeats: of those heard, had come before.
        unread: were in units, or changes of a set, that were lost on the way.
        missed: samples that could not be read, waited too long, or came while the policy said no.
        bytes_sent, bytes_received: of these messages, topics and headers left out.
        drifts: since the last report. ages: by neighbour, since the device's last start.
    """

    seen: Count
    is_over: bool
    num_left: Count | None = None
    counts: Annotated[tuple[Count, ...], Meta(max_length=65_536)] = ()
    told: Count = 0
    heard: Count = 0
    repeats: Count = 0
    unread: Count = 0
    missed: Count = 0
    bytes_sent: Count = 0
    bytes_received: Count = 0
    drifts: Annotated[tuple[DriftSeen, ...], Meta(max_length=64)] = ()
    ages: Annotated[dict[Id, PairAge], Meta(max_length=1000)] = {}
