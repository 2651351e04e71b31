"""The bus over MQTT: two connections, so that a model on its way does not hold up telemetry."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from device_agent.wire.bus import Receive
from device_agent.wire.mqtt_connection import MqttConnection
from device_agent.wire.mqtt_options import MqttOptions, TlsFiles, parse_url, tls_context
from device_agent.wire.outgoing import Message
from device_agent.wire.topics import matches
from firmware_profiles.errors import UserError, WorldError

_log = logging.getLogger(__name__)

BULK_SUFFIX = "/bulk"
"""What the second connection adds to the client id. An access list must allow both ids."""


def _nothing(*_arguments: object) -> None:
    """Do nothing when called back."""


class MqttBus:
    """A Bus over MQTT. Connects in the background from `start` on, and keeps trying until `close`.

    Subscribe before `start`, so that nothing retained or early is missed. What is published before
    waits in the queue.

    Topics and filters whose last level is `bulk` use a second connection, opened when first needed;
    so subscribe to `…/down` and `…/down/bulk` one by one, not to `…/down/#`. Receivers and callbacks
    run on the connections' threads, two of them, and only hand over to the caller's own loop.
    As a context manager it starts and closes.

    Args:
        url: mqtt://[user:password@]host[:port] or mqtts://…
        client_id: names us at the broker; a second client of the same id throws the first one out.
        will: (topic, payload) that the broker publishes, retained, when the main connection breaks.
        username, password: go before those in the URL.
        tls: certificate files for mqtts.
        on_connect: called each time the main connection is up and its subscriptions are granted:
            the place to publish the retained status again.
        on_disconnect: called with the reason when the main connection is lost.
        options: timeouts and bounds.
        rng: source of the jitter of reconnecting.

    Raises:
        UserError: the URL or a TLS file is unusable.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: TlsFiles | None = None,
        on_connect: Callable[[], None] = _nothing,
        on_disconnect: Callable[[str], None] = _nothing,
        options: MqttOptions | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not client_id:
            raise UserError("an MQTT client id must not be empty")
        self._endpoint = parse_url(url, username=username, password=password)
        self._client_id = client_id
        self._context = tls_context(self._endpoint, tls)
        self._options = options or MqttOptions()
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._receivers: tuple[tuple[str, Receive], ...] = ()
        self._bulk: MqttConnection | None = None
        self._main = self._connect(client_id, will, on_connect, on_disconnect, bulk=False)

    def __repr__(self) -> str:
        return f"MqttBus({str(self._endpoint)!r}, {self._client_id!r}, state={self.state!r})"

    def __enter__(self) -> MqttBus:  # noqa: PYI034 - typing.Self came with Python 3.11
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def state(self) -> str:
        """State of the main connection: connecting, connected, refused or closed."""
        return self._main.state

    @property
    def last_error(self) -> str:
        """Why the main connection was last lost or refused, "" if it never was."""
        return self._main.last_error

    @property
    def counters(self) -> dict[str, int]:
        """Messages by what became of them, both connections together; see `outgoing.Counters`."""
        total: dict[str, int] = {}
        for connection in self._connections():
            for name, value in connection.counters.items():
                total[name] = total.get(name, 0) + value
        return total

    def start(self) -> None:
        """Begin to connect; returns at once. Twice is harmless."""
        with self._lock:
            if self._started or self._closed:
                return
            self._started = True
            for connection in self._connections():
                connection.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Queue a payload; returns before it has left. What the queue cannot hold is dropped, counted.

        Raises:
            ValueError: larger than MAX_MESSAGE_BYTES, the topic is a filter, or QoS is not 0 or 1.
        """
        self._connection_for(topic).publish(Message(topic, payload, qos=qos, retain=retain))

    def subscribe(self, pattern: str, receive: Receive) -> None:
        """Have `receive` called with (topic, payload) for each matching message, across reconnects."""
        with self._lock:
            self._receivers = (*self._receivers, (pattern, receive))
        self._connection_for(pattern).subscribe(pattern)

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until connected and every subscription so far is granted; False if that takes too long.

        Raises:
            WorldError: the broker refuses us, so that waiting is of no use.
        """
        return self._wait_for("ready", timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is queued any more; False if that takes too long.

        Raises:
            WorldError: the broker refuses us.
        """
        return self._wait_for("sent", timeout_s)

    def close(self, flush_s: float = 2.0) -> None:
        """Send what is queued within `flush_s`, disconnect without the will, end the threads.

        Twice is harmless. A receiver or callback may call it, too; then it does not wait for its thread.
        """
        with self._lock:
            self._closed = True
        connections = self._connections()
        for connection in connections:  # together: one after the other would take twice as long
            connection.begin_to_close(flush_s)
        for connection in connections:
            connection.close(flush_s)

    def _connections(self) -> list[MqttConnection]:
        return [self._main] if self._bulk is None else [self._main, self._bulk]

    def _connection_for(self, topic: str) -> MqttConnection:
        if not _is_bulk(topic):
            return self._main
        with self._lock:
            if self._bulk is None:
                if self._closed:
                    return self._main  # which is closed too and drops it
                self._bulk = self._connect(self._client_id + BULK_SUFFIX, None, _nothing, _nothing, bulk=True)
                if self._started:
                    self._bulk.start()
            return self._bulk

    def _connect(
        self,
        client_id: str,
        will: tuple[str, bytes] | None,
        on_connect: Callable[[], None],
        on_disconnect: Callable[[str], None],
        *,
        bulk: bool,
    ) -> MqttConnection:
        def deliver(topic: str, payload: bytes) -> None:
            for pattern, receive in self._receivers:
                if _is_bulk(pattern) == bulk and matches(pattern, topic):
                    try:
                        receive(topic, payload)
                    except Exception:  # noqa: BLE001 - our caller's fault; the network goes on
                        _log.exception("%s: receiver failed on %s", client_id, topic)

        return MqttConnection(
            self._endpoint,
            client_id,
            options=self._options,
            tls=self._context,
            will=will,
            deliver=deliver,
            on_connect=on_connect,
            on_disconnect=on_disconnect,
            rng=self._rng,
        )

    def _wait_for(self, condition: str, timeout_s: float) -> bool:
        if not self._started:
            raise RuntimeError("start the bus before waiting for it")
        until_s = time.monotonic() + timeout_s
        for connection in self._connections():
            if not connection.wait_for(condition, max(0.0, until_s - time.monotonic())):
                if connection.state == "refused":
                    raise WorldError(f"{self._endpoint} refuses {self._client_id!r}: {connection.last_error}")
                return False
        return True


def _is_bulk(topic: str) -> bool:
    return topic == "bulk" or topic.endswith("/bulk")
