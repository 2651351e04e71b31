"""Outbox, codec, chunks and MQTT together, with a real broker that dies in between."""

from __future__ import annotations

import queue
import random
import threading
import time

import pytest

from device_agent.outbox import Outbox
from device_agent.wire.chunks import CHUNK_BYTES, Downloads, Finished, Request, serve
from device_agent.wire.codec import decode, digest_of, encode
from device_agent.wire.dedupe import SeenMessages
from device_agent.wire.messages import SCHEMA_VERSION, Ack, ChunkRequest, Decline, Envelope
from device_agent.wire.mqtt import MqttBus
from device_agent.wire.mqtt_options import MqttOptions
from device_agent.wire.partial import PartialFolder
from device_agent.wire.topics import device_topic, down_topic

WAIT_S = 30
FAST = MqttOptions(reconnect_base_s=0.05, reconnect_cap_s=0.2)
UP, UP_BULK = device_topic("barn", "pi-1", "up"), device_topic("barn", "pi-1", "up/bulk")
DOWN, DOWN_BULK = down_topic("barn", "pi-1"), down_topic("barn", "pi-1", bulk=True)


class Loop:
    """The thinnest runtime: callbacks only put events into a queue, and one thread takes them."""

    def __init__(self, broker, name, *patterns):
        self.events = queue.Queue()
        self.bus = MqttBus(
            broker.url,
            name,
            options=FAST,
            rng=random.Random(1),
            on_connect=lambda: self.events.put("connected"),
        )
        for pattern in patterns:
            self.bus.subscribe(pattern, lambda topic, payload: self.events.put(decode(payload, topic)))
        self.bus.start()

    def get(self, timeout_s=WAIT_S):
        try:
            return self.events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def close(self):
        self.bus.close(flush_s=0.1)


def coordinator_envelope(body, sequence):
    return Envelope(
        schema=SCHEMA_VERSION,
        run="run-1",
        sender="coordinator",
        boot_epoch=1,
        sequence=sequence,
        body=body,
        age_ms=0,
    )


def acknowledge_everything(loop, applied, stop):
    """A coordinator that applies each message once and acknowledges it each time."""
    seen = SeenMessages()
    for count in range(10**9):
        event = loop.get()
        if event is None or stop.is_set():
            return
        if event == "connected":
            continue
        if seen.is_new(event):
            applied.append(event.body.order)
            seen.remember(event)
        ack = Ack(boot_epoch=event.boot_epoch, sequence=event.sequence, outcome="applied")
        loop.bus.publish(DOWN, encode(coordinator_envelope(ack, count)))


def test_everything_in_the_outbox_arrives_once_although_the_broker_is_killed(mosquitto_broker, tmp_path):
    num_messages = 60
    applied, stop = [], threading.Event()
    coordinator = Loop(mosquitto_broker, "coordinator", UP)
    thread = threading.Thread(target=acknowledge_everything, args=(coordinator, applied, stop))
    thread.start()
    device = Loop(mosquitto_broker, "pi-1", DOWN)
    with Outbox(tmp_path / "outbox", "pi-1", rng=random.Random(1), resend_base_s=0.2) as outbox:
        for number in range(num_messages):
            outbox.put(run="run-1", body=Decline(order=number, round=1, reason=""))
        num_acks, killed = 0, 0
        until_s = time.monotonic() + WAIT_S
        while len(outbox) and time.monotonic() < until_s:
            for envelope in outbox.due(time.monotonic(), max_messages=5):
                device.bus.publish(UP, encode(envelope))
            event = device.get(min(1.0, (outbox.next_due_s() or 0.0) - time.monotonic()))
            if event == "connected":
                outbox.on_reconnect(time.monotonic())
            elif event is not None:
                num_acks += outbox.acknowledge(event.body.boot_epoch, event.body.sequence)
            if num_acks >= 20 * (killed + 1) and killed < 2:
                mosquitto_broker.kill()
                mosquitto_broker.start()
                killed += 1
        assert (len(outbox), killed) == (0, 2)
    stop.set()
    coordinator.events.put("connected")
    thread.join()
    device.close()
    coordinator.close()
    assert sorted(applied) == list(range(num_messages))


def hold(loop, content, served, stop):
    """A device that serves the chunks it is asked for."""
    for count in range(10**9):
        event = loop.get()
        if stop.is_set():
            return
        if isinstance(event, Envelope) and isinstance(event.body, ChunkRequest):
            served.append(event.body.index)
            chunk = serve({digest_of(content): content}.get, event.body)
            envelope = Envelope(
                schema=SCHEMA_VERSION,
                run="run-1",
                sender="pi-1",
                boot_epoch=1,
                sequence=count,
                body=chunk,
                age_ms=0,
            )
            loop.bus.publish(UP_BULK, encode(envelope))


@pytest.fixture
def content():
    return random.Random(5).randbytes(20 * CHUNK_BYTES + 17)


def test_a_large_blob_goes_on_where_it_was_after_the_broker_was_killed(mosquitto_broker, tmp_path, content):
    digest = digest_of(content)
    served = []
    holder = Loop(mosquitto_broker, "pi-1", DOWN)
    stop = threading.Event()
    thread = threading.Thread(target=hold, args=(holder, content, served, stop))
    thread.start()
    receiver = Loop(mosquitto_broker, "coordinator", UP_BULK)
    downloads = Downloads(random.Random(1), store=PartialFolder(tmp_path), retry_s=0.5)
    assert receiver.bus.wait_connected(WAIT_S)
    assert holder.bus.wait_connected(WAIT_S)
    effects = downloads.start("pi-1", digest, len(content), time.monotonic())
    result, num_chunks, num_sent, killed = None, 0, 0, False
    until_s = time.monotonic() + WAIT_S
    while result is None and time.monotonic() < until_s:
        for effect in effects:
            if isinstance(effect, Request):
                num_sent += 1
                receiver.bus.publish(DOWN, encode(coordinator_envelope(effect.message, num_sent)))
            else:
                result = effect
        if num_chunks == 10 and not killed:
            mosquitto_broker.kill()
            mosquitto_broker.start()
            killed = True
        event = receiver.get((downloads.next_timer_s() or 0.0) - time.monotonic())
        if event == "connected":
            effects = downloads.on_reconnect(time.monotonic())
        elif event is None:
            effects = downloads.on_timer(time.monotonic())
        else:
            num_chunks += 1
            effects = downloads.on_chunk("pi-1", event.body, time.monotonic())
    stop.set()
    holder.events.put(None)
    thread.join()
    receiver.close()
    holder.close()
    assert result == Finished("pi-1", digest, content)
    assert killed
    assert len(served) < 2 * 21  # it did not begin again
