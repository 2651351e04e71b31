"""The MQTT bus against a real mosquitto."""

from __future__ import annotations

import logging
import queue
import random
import shutil
import socket
import subprocess
import threading
import time

import pytest

from device_agent.wire.mqtt import MqttBus
from device_agent.wire.mqtt_options import MqttOptions, TlsFiles
from firmware_profiles.errors import WorldError

WAIT_S = 20
FAST = MqttOptions(reconnect_base_s=0.05, reconnect_cap_s=0.2, keepalive_s=5)


@pytest.fixture
def make_bus():
    buses = []

    def make(url, client_id, **arguments):
        arguments.setdefault("options", FAST)
        bus = MqttBus(url, client_id, rng=random.Random(1), **arguments)
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        bus.close(flush_s=0.1)


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate for localhost with its key, in one PEM file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate to test with")
    path = tmp_path / "broker.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command = [openssl, "req", "-x509", *key, *subject, "-keyout", path, "-out", tmp_path / "certificate"]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("ab") as stream:
        stream.write((tmp_path / "certificate").read_bytes())
    return path


class Inbox:
    """Collects what a bus receives; `get` waits for the next one."""

    def __init__(self):
        self._messages = queue.Queue()

    def __call__(self, topic, payload):
        self._messages.put((topic, payload))

    def get(self):
        return self._messages.get(timeout=WAIT_S)


@pytest.fixture
def listen(make_bus):
    """A function that connects a listener with filters and returns its inbox."""

    def start(url, *patterns, client_id="listener"):
        inbox = Inbox()
        bus = make_bus(url, client_id)
        for pattern in patterns:
            bus.subscribe(pattern, inbox)
        bus.start()
        assert bus.wait_connected(WAIT_S)
        return inbox

    return start


def test_a_message_reaches_a_subscriber(mosquitto_broker, make_bus, listen):
    inbox = listen(mosquitto_broker.url, "a/+")
    bus = make_bus(mosquitto_broker.url, "sender")
    bus.start()
    bus.publish("a/b", b"hello")
    assert inbox.get() == ("a/b", b"hello")


def test_a_message_published_before_the_broker_is_there_arrives_when_it_is(make_mosquitto, make_bus, listen):
    broker = make_mosquitto()
    broker.stop()
    bus = make_bus(broker.url, "sender")
    bus.start()
    bus.publish("a", b"early", retain=True)
    broker.start()
    assert listen(broker.url, "a").get() == ("a", b"early")


def test_subscriptions_hold_after_the_broker_was_killed_and_restarted(mosquitto_broker, make_bus):
    connected = queue.Queue()
    inbox = Inbox()
    bus = make_bus(mosquitto_broker.url, "device", on_connect=lambda: connected.put(1))
    bus.subscribe("a", inbox)
    bus.start()
    connected.get(timeout=WAIT_S)
    mosquitto_broker.kill()
    mosquitto_broker.start()
    connected.get(timeout=WAIT_S)
    bus.publish("a", b"again")
    assert inbox.get() == ("a", b"again")


def test_the_status_published_in_on_connect_is_retained_again_after_a_restart(
    mosquitto_broker, make_bus, listen
):
    connected = queue.Queue()

    def announce():
        bus.publish("status", b"online", retain=True)
        connected.put(1)

    bus = make_bus(mosquitto_broker.url, "device", on_connect=announce, will=("status", b"lost"))
    bus.start()
    connected.get(timeout=WAIT_S)
    mosquitto_broker.kill()  # without persistence it forgets what was retained
    mosquitto_broker.start()
    connected.get(timeout=WAIT_S)
    assert bus.flush(WAIT_S)
    assert listen(mosquitto_broker.url, "status").get() == ("status", b"online")


def test_the_will_is_published_when_the_link_breaks(mosquitto_broker, make_bus, listen):
    inbox = listen(mosquitto_broker.url, "status")
    bus = make_bus(mosquitto_broker.url, "device", will=("status", b"lost"))
    bus.start()
    assert bus.wait_connected(WAIT_S)
    # A second client of the same id makes the broker break the first one's connection.
    with socket.create_connection(("127.0.0.1", mosquitto_broker.port)) as thief:
        thief.sendall(b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06device")
        assert inbox.get() == ("status", b"lost")


def test_two_clients_of_one_id_are_told_why_they_lose_the_connection(mosquitto_broker, make_bus):
    hinted = threading.Event()
    listener = logging.Handler()
    listener.emit = lambda record: hinted.set() if "needs an id of its own" in record.getMessage() else None
    logger = logging.getLogger("device_agent.wire.mqtt_connection")
    logger.addHandler(listener)
    try:
        for _ in range(2):
            make_bus(mosquitto_broker.url, "raspberrypi").start()
        assert hinted.wait(WAIT_S)
    finally:
        logger.removeHandler(listener)


def test_a_clean_close_keeps_the_will_back(mosquitto_broker, make_bus, listen):
    inbox = listen(mosquitto_broker.url, "#")
    bus = make_bus(mosquitto_broker.url, "device", will=("status", b"lost"))
    bus.start()
    assert bus.wait_connected(WAIT_S)
    bus.publish("last-words", b"stopping")
    bus.close()
    marker = make_bus(mosquitto_broker.url, "marker")
    marker.start()
    marker.publish("marker", b"")
    assert [inbox.get()[0], inbox.get()[0]] == ["last-words", "marker"]


def test_closing_twice_is_harmless_and_leaves_no_thread(mosquitto_broker, make_bus):
    before = threading.active_count()
    bus = make_bus(mosquitto_broker.url, "device")
    bus.start()
    bus.publish("a/bulk", b"x")
    assert bus.wait_connected(WAIT_S)
    bus.close()
    bus.close()
    assert (bus.state, threading.active_count()) == ("closed", before)


def test_a_close_with_everything_sent_waits_for_nothing(mosquitto_broker, make_bus):
    patient = MqttOptions(reconnect_base_s=30.0)  # what a broken connection would wait
    bus = make_bus(mosquitto_broker.url, "done", options=patient)
    bus.subscribe("x/bulk", lambda *_: None)
    bus.start()
    assert bus.wait_connected(20)
    began_s = time.monotonic()
    bus.close()
    assert time.monotonic() - began_s < 0.9


def test_both_connections_to_a_silent_broker_are_given_up_together(make_bus):
    with socket.create_server(("127.0.0.1", 0)) as broker:
        bus = make_bus(f"mqtt://127.0.0.1:{broker.getsockname()[1]}", "both")
        bus.publish("x", b"unsent")
        bus.publish("x/bulk", b"unsent")
        bus.start()
        accepted = [broker.accept() for _ in range(2)]
        began_s = time.monotonic()
        bus.close(1.0)
        assert time.monotonic() - began_s < 1.9  # one after the other: two seconds
        for connection, _ in accepted:
            connection.close()


def test_publishing_after_close_is_silent(mosquitto_broker, make_bus):
    bus = make_bus(mosquitto_broker.url, "device")
    bus.start()
    bus.close()
    bus.publish("a", b"too late")
    bus.publish("a/bulk", b"too late")


def test_bulk_topics_travel_on_a_second_connection(make_mosquitto, make_bus, tmp_path):
    access = tmp_path / "access"
    access.write_text("pattern readwrite %c/#\n")  # a client may use topics under its own id alone
    access.chmod(0o644)
    broker = make_mosquitto(f"acl_file {access}")
    inbox = Inbox()
    bus = make_bus(broker.url, "device")
    for topic in ("device/small", "device/bulk/bulk"):
        bus.subscribe(topic, inbox)
    bus.start()
    assert bus.wait_connected(WAIT_S)
    bus.publish("device/small", b"")
    assert inbox.get() == ("device/small", b"")
    bus.publish("device/bulk/bulk", b"")
    assert inbox.get() == ("device/bulk/bulk", b"")


def test_a_receiver_that_raises_does_not_stop_the_next_message(mosquitto_broker, make_bus, caplog):
    inbox = Inbox()

    def fragile(topic, payload):
        inbox(topic, payload)
        raise RuntimeError("bug in a receiver")

    bus = make_bus(mosquitto_broker.url, "device")
    bus.subscribe("a", fragile)
    bus.start()
    assert bus.wait_connected(WAIT_S)
    bus.publish("a", b"1")
    bus.publish("a", b"2")
    assert [inbox.get()[1], inbox.get()[1]] == [b"1", b"2"]
    bus.close()
    assert "receiver failed on a" in caplog.text


def test_wrong_credentials_are_a_clear_error_and_not_tried_again_at_once(make_mosquitto, make_bus, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    broker = make_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    bus = make_bus(f"mqtt://anna:hunter2@127.0.0.1:{broker.port}", "device")
    bus.start()
    with pytest.raises(WorldError, match=r"refuses 'device'.*(Not authorized|Bad user name)") as error:
        bus.wait_connected(WAIT_S)
    assert bus.state == "refused"
    assert "hunter2" not in str(error.value) + repr(bus) + repr(vars(bus))


def test_a_fleet_with_certificates_is_spoken_to_over_tls(make_mosquitto, make_bus, certificate):
    broker = make_mosquitto(f"certfile {certificate}\nkeyfile {certificate}")
    inbox = Inbox()
    bus = make_bus(
        f"mqtts://localhost:{broker.port}", "device", tls=TlsFiles(ca_file=str(certificate)), options=FAST
    )
    bus.subscribe("a", inbox)
    bus.start()
    assert bus.wait_connected(WAIT_S)
    bus.publish("a", bytes(150_000))
    assert inbox.get() == ("a", bytes(150_000))


def test_a_broker_with_a_strange_certificate_is_not_spoken_to(make_mosquitto, make_bus, certificate):
    broker = make_mosquitto(f"certfile {certificate}\nkeyfile {certificate}")
    bus = make_bus(f"mqtts://anna:hunter2@localhost:{broker.port}", "device")
    bus.start()
    with pytest.raises(WorldError, match="certificate is not trusted"):
        bus.wait_connected(WAIT_S)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_message_the_broker_cannot_take_is_dropped_and_the_rest_arrives(
    make_mosquitto, make_bus, listen, version
):
    broker = make_mosquitto("max_packet_size 2000")
    inbox = listen(broker.url, "small")
    options = MqttOptions(reconnect_base_s=0.01, reconnect_cap_s=0.02, version=version)
    bus = make_bus(broker.url, "device", options=options)
    bus.publish("large", bytes(5000))
    for number in range(5):
        bus.publish("small", b"%d" % number)
    bus.start()
    assert {inbox.get()[1] for _ in range(5)} == {b"0", b"1", b"2", b"3", b"4"}
    assert bus.flush(WAIT_S)
    assert bus.counters["num_dropped_refused"] == 1


def test_the_queue_is_bounded_while_the_broker_is_away(make_bus):
    bus = make_bus("mqtt://127.0.0.1:1", "device", options=MqttOptions(max_queued_messages=10))
    for _ in range(100):
        bus.publish("a", b"x")
    bus.publish("a", b"x", qos=0)
    assert bus.counters == {
        "num_sent": 0,
        "num_dropped_offline": 1,
        "num_dropped_full": 90,
        "num_dropped_refused": 0,
        "num_queued": 10,
    }


def test_small_messages_are_sent_without_delay(mosquitto_broker, make_bus, monkeypatch):
    seen = []
    real = socket.socket.setsockopt
    monkeypatch.setattr(
        socket.socket, "setsockopt", lambda sock, *option: (seen.append(option), real(sock, *option))[1]
    )
    bus = make_bus(mosquitto_broker.url, "device")
    bus.start()
    assert bus.wait_connected(WAIT_S)
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in seen


def test_a_broker_that_speaks_nonsense_does_not_end_the_thread(make_mosquitto, make_bus):
    with socket.create_server(("127.0.0.1", 0)) as server:
        disconnects = queue.Queue()
        bus = make_bus(f"mqtt://127.0.0.1:{server.getsockname()[1]}", "device", on_disconnect=disconnects.put)
        bus.start()
        for nonsense in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00", b"\xff" * 100, b"\x20\x00"):
            peer, _ = server.accept()
            with peer:
                peer.sendall(nonsense)
        server.accept()[0].close()  # it still comes back


def test_waiting_gives_up_when_there_is_no_broker(make_bus):
    bus = make_bus("mqtt://127.0.0.1:1", "device")
    bus.start()
    assert not bus.wait_connected(0.1)
