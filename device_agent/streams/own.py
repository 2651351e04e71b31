"""The stream of this device: its part of stored data, a topic, or a command."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from device_agent.effects import OpenStream
from device_agent.freed_memory import give_back_freed_memory
from device_agent.local_data import DataConfig
from device_agent.loop import Action, Timers
from device_agent.streams.command_stream import CommandStream, check_program
from device_agent.streams.mqtt_stream import MqttStream, Subscribe, check_filter, filled_in
from device_agent.streams.replay import ReplayStream
from device_agent.streams.stream import Stream
from models.data.dataset import Dataset
from models.data.live import LiveSource, parse_live
from models.data.partition import partition
from models.data.stream import load_stream

INTERLEAVED = "iid"
"""Of the schemes: devices share one stream, each row at its own time; in others each has one of its own."""


def own_stream(
    data: DataConfig,
    effect: OpenStream,
    *,
    device: str,
    timers: Timers,
    subscribe: Subscribe,
    post: Callable[[Action], None],
) -> Stream:
    """Make it.

    Args:
        data: which samples are this device's.
        effect: where to begin.
        device: its id.
        timers: of the node.
        subscribe: of the bus; calls back on the node's thread.
        post: runs an action on the node's thread.

    Raises:
        UserError: the data cannot be loaded, or is no stream.
    """
    live = parse_live(data.source)
    if live is not None:
        return _live_stream(live, effect.first_number, device, subscribe, post)
    stream = _stored_stream(data, effect, timers)
    give_back_freed_memory()  # of the other devices' samples
    return stream


def check_live(live: LiveSource, device: str) -> None:
    """Refuse a live source that no stream can be made of, when the agent starts.

    Raises:
        UserError: there is no such program, or the topic is not a stream's.
    """
    if live.kind == "mqtt":
        check_filter(filled_in(live, device))
    else:
        check_program(live)


def replay(
    dataset: Dataset,
    rows: NDArray[np.int64],
    effect: OpenStream,
    timers: Timers,
    label_delay: int = 0,
    times_s: NDArray[np.float64] | None = None,
) -> ReplayStream:
    """A stored stream.

    Args:
        dataset: in the order of time.
        rows: of the device, ascending.
        effect: where to begin, how often to go through it, and how fast.
        timers: of the node.
        label_delay: own samples that come before a sample's label.
        times_s: of each row; None: at the pace that `effect` says.
    """
    vectors, labels = dataset.batch(rows)
    at_s = np.arange(len(rows)) * effect.sample_s if times_s is None else times_s
    return ReplayStream(
        vectors.reshape(len(rows), math.prod(dataset.shape)),
        labels,
        np.asarray(at_s, np.float64),
        timers,
        label_delay=label_delay,
        position=effect.position,
        passes=effect.passes,
    )


def _stored_stream(data: DataConfig, effect: OpenStream, timers: Timers) -> Stream:
    stored = load_stream(data.source, data.seed)
    index, count = data.shard or (0, 1)
    rows = partition(stored.dataset, data.scheme, count, data.seed)[index]
    return replay(stored.dataset, rows, effect, timers, stored.label_delay, _times_s(rows, data, effect))


def _times_s(rows: NDArray[np.int64], data: DataConfig, effect: OpenStream) -> NDArray[np.float64] | None:
    """Where devices share a stream, a row's time is the same whoever has it: nobody is told the future."""
    if data.shard is None or data.scheme != INTERLEAVED:
        return None
    return np.asarray(rows, np.float64) * (effect.sample_s / data.shard[1])


def _live_stream(
    live: LiveSource,
    first_number: int,
    device: str,
    subscribe: Subscribe,
    post: Callable[[Action], None],
) -> Stream:
    if live.kind == "mqtt":
        return MqttStream(live, filled_in(live, device), subscribe, post, first_number=first_number)
    return CommandStream(live, post, first_number=first_number)
