"""One connection to an MQTT broker, kept up: a thread that connects, subscribes, sends, and begins again."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from device_agent.wire.bus import Receive
from device_agent.wire.mqtt_options import Endpoint, MqttOptions
from device_agent.wire.mqtt_session import End, MqttSession
from device_agent.wire.outgoing import Message, Outgoing

_log = logging.getLogger(__name__)

_POLL_S = 1.0  # how often a quiet session looks at its keepalive
_GOODBYE_S = 1.0  # how long a goodbye may take to leave
_MANY_BREAKS = 3  # short-lived connections in a row that are worth a hint


class MqttConnection:
    """A connection that is kept up from `start` to `close`. Its methods may be called from any thread.

    Args:
        endpoint: where the broker is.
        client_id: names this connection at the broker.
        options: see MqttOptions.
        tls: context for mqtts, else None.
        will: (topic, payload) the broker publishes, retained, if this connection breaks.
        deliver: called with (topic, payload) on the connection's thread.
        on_connect: called on that thread each time every subscription has been granted.
        on_disconnect: called on that thread with the reason each time such a connection is lost.
        rng: source of the jitter.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        *,
        options: MqttOptions,
        tls: ssl.SSLContext | None,
        will: tuple[str, bytes] | None,
        deliver: Receive,
        on_connect: Callable[[], None],
        on_disconnect: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        self._new_session = lambda: MqttSession(
            endpoint, client_id, options=options, tls=tls, will=will, deliver=deliver
        )
        self._endpoint = endpoint
        self._client_id = client_id
        self._options = options
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._rng = rng
        self._changed = threading.Condition()  # guards what follows
        self._outgoing = Outgoing(
            max_messages=options.max_queued_messages,
            max_bytes=options.max_queued_bytes,
            max_window=options.max_window,
        )
        self._state = "connecting"
        self._last_error = ""
        self._patterns: list[str] = []
        self._num_subscribed = 0  # of these, granted or refused in this session
        self._dropping = False
        self._closing_at_s: float | None = None
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{client_id}", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    @property
    def state(self) -> str:
        """One of connecting, connected, refused, closed."""
        return self._state

    @property
    def last_error(self) -> str:
        """Why the last attempt or connection ended, "" if none did."""
        return self._last_error

    @property
    def counters(self) -> dict[str, int]:
        """Messages sent and dropped so far, and waiting now."""
        with self._changed:
            return {**vars(self._outgoing.counters), "num_queued": len(self._outgoing)}

    def publish(self, message: Message) -> None:
        """Queue a message; never blocks."""
        with self._changed:
            accepted = self._outgoing.offer(message, connected=self._state == "connected")
            full = not accepted and message.qos > 0
            started, ended = full and not self._dropping, accepted and self._dropping
            self._dropping = full or (self._dropping and not accepted)
            num_dropped = self._outgoing.counters.num_dropped_full
        if started:
            _log.warning("%s: send queue full, dropping messages until there is room", self._client_id)
        elif ended:
            _log.info(
                "%s: send queue has room again, %d messages dropped so far", self._client_id, num_dropped
            )
        self._wake()

    def subscribe(self, pattern: str) -> None:
        """Subscribe now and at each connect."""
        with self._changed:
            self._patterns.append(pattern)
        self._wake()

    def wait_for(self, condition: str, timeout_s: float) -> bool:
        """Wait until "ready" (connected, all subscriptions granted) or "sent" (nothing queued), or refused.

        Returns:
            Whether the condition holds.
        """

        def holds() -> bool:
            if condition == "sent":
                return not len(self._outgoing)
            return self._state == "connected" and self._num_subscribed == len(self._patterns)

        with self._changed:
            self._changed.wait_for(lambda: holds() or self._state in ("refused", "closed"), timeout_s)
            return holds()

    def begin_to_close(self, flush_s: float) -> None:
        """Send what is queued within `flush_s`, then say goodbye (no will); returns at once."""
        with self._changed:
            if self._closing_at_s is None:
                self._closing_at_s = time.monotonic() + flush_s
            self._changed.notify_all()
        self._wake()

    def close(self, flush_s: float) -> None:
        """Send what is queued within `flush_s`, say goodbye (no will) and end the thread."""
        self.begin_to_close(flush_s)
        if self._thread.ident is None:
            self._thread_ended()
        elif threading.current_thread() is not self._thread:
            self._thread.join(flush_s + _GOODBYE_S + 2 * self._options.connect_timeout_s)

    # ------------------------------------------------------------ what follows runs on the thread

    def _run(self) -> None:
        attempt = num_breaks = 0
        while not self._finished():
            started_s = time.monotonic()
            session = self._new_session()
            try:
                end = self._run_session(session)
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a broker does
                _log.exception("%s: session failed in an unexpected way", self._client_id)
                end = End(f"unexpected {type(error).__name__}")
            finally:
                session.close()
            self._session_ended(end)
            is_stable = time.monotonic() - started_s > self._options.stable_s
            attempt = 0 if is_stable else attempt + 1
            num_breaks = num_breaks + 1 if session.accepted and end.by_broker and not is_stable else 0
            if num_breaks == _MANY_BREAKS:
                _log.warning(
                    "%s: the broker breaks the connection again and again: is another client connected"
                    " under this id? Every device of a fleet needs an id of its own",
                    self._client_id,
                )
            if not self._finished():
                self._wait_to_reconnect(attempt, refused=end.refused)
        self._thread_ended()

    def _thread_ended(self) -> None:
        with self._changed:
            was_closed, self._state = self._state == "closed", "closed"
            self._changed.notify_all()
            num_left = len(self._outgoing)
        if num_left and not was_closed:
            _log.warning("%s: closed with %d messages unsent", self._client_id, num_left)
        self._wake_receiver.close()
        self._wake_sender.close()

    def _finished(self) -> bool:
        with self._changed:
            if self._closing_at_s is None:
                return False
            return not len(self._outgoing) or time.monotonic() >= self._closing_at_s

    def _run_session(self, session: MqttSession) -> End:
        session.open()
        ready = False
        give_up_at_s = time.monotonic() + self._options.connect_timeout_s
        num_asked = 0
        while session.end is None:
            if ready:
                self._send(session)
            if session.accepted:
                num_asked = self._ask_for_subscriptions(session, num_asked)
            if session.end is None and session.accepted and not ready and not session.num_ungranted:
                ready = True
                give_up_at_s = math.inf
                self._session_ready(session)
                continue
            if self._finished():
                give_up_at_s = min(give_up_at_s, time.monotonic() + _GOODBYE_S)
                session.goodbye()
            if session.end is None and time.monotonic() >= give_up_at_s:
                return End("the broker did not answer in time")
            if session.end is None:
                session.step(self._wake_receiver, _POLL_S)
            self._settle(session)
        return session.end

    def _ask_for_subscriptions(self, session: MqttSession, num_asked: int) -> int:
        with self._changed:
            wanted = self._patterns[num_asked:]
            if not wanted and not session.num_ungranted and self._num_subscribed != num_asked:
                self._num_subscribed = num_asked
                self._changed.notify_all()
        for pattern in wanted:
            session.subscribe(pattern)
        return num_asked + len(wanted)

    def _send(self, session: MqttSession) -> None:
        while session.end is None:
            with self._changed:
                taken = self._outgoing.take()
            if taken is None:
                return
            ticket, message = taken
            if not session.publish(ticket, message):
                self._refused(ticket, f"larger than its limit of {session.max_packet_bytes} bytes")
            self._settle(session)

    def _settle(self, session: MqttSession) -> None:
        for ticket, objection in session.take_published():
            if objection is not None:
                self._refused(ticket, objection)
                continue
            with self._changed:
                self._outgoing.acknowledged(ticket)
                if not len(self._outgoing):
                    self._changed.notify_all()

    def _refused(self, ticket: int, reason: str) -> None:
        with self._changed:
            message = self._outgoing.refused(ticket)
            self._changed.notify_all()
        _log.error("%s: the broker refused a message for %s: %s", self._client_id, message.topic, reason)

    def _session_ready(self, session: MqttSession) -> None:
        with self._changed:
            if session.receive_maximum is not None:
                self._outgoing.max_window = min(self._options.max_window, session.receive_maximum)
            self._state = "connected"
            self._changed.notify_all()
        _log.info("%s: connected to %s", self._client_id, self._endpoint)
        self._guard(self._on_connect)

    def _session_ended(self, end: End) -> None:
        with self._changed:
            was_connected = self._state == "connected"
            told_before = self._last_error == end.reason and not was_connected
            self._last_error = end.reason
            self._state = "refused" if end.refused else "connecting"
            self._num_subscribed = 0
            poison = self._outgoing.connection_lost(by_broker=end.by_broker)
            self._changed.notify_all()
        for message in poison:
            _log.error(
                "%s: dropped %d bytes for %s: the broker closed the connection over them again and again",
                self._client_id,
                len(message.payload),
                message.topic,
            )
        if self._closing_at_s is None and not told_before:
            level = logging.ERROR if end.refused else logging.WARNING
            _log.log(level, "%s: no connection to %s: %s", self._client_id, self._endpoint, end.reason)
        if was_connected:
            self._guard(self._on_disconnect, end.reason)

    def _wait_to_reconnect(self, attempt: int, *, refused: bool) -> None:
        options = self._options
        if refused:
            delay_s = self._rng.uniform(options.refused_retry_s / 2, options.refused_retry_s)
        else:  # full jitter: a fleet must not return as one
            ceiling_s = min(options.reconnect_cap_s, options.reconnect_base_s * 2.0 ** min(attempt, 30))
            delay_s = self._rng.uniform(0.0, ceiling_s)
        with self._changed:
            if not self._changed.wait_for(lambda: self._closing_at_s is not None, delay_s):
                return
            # Closing, with messages left: one more try every now and then, until the time is up.
            self._changed.wait(
                min(delay_s, _POLL_S, max(0.0, (self._closing_at_s or 0.0) - time.monotonic()))
            )

    def _wake(self) -> None:
        # A full buffer means that a wake-up is due anyway; a closed one, that there is nobody to wake.
        with contextlib.suppress(OSError):
            self._wake_sender.send(b"\0")

    def _guard(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - our caller's fault; the connection goes on
            _log.exception("%s: callback failed", self._client_id)
