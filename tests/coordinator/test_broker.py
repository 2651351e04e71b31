"""Choosing and starting a broker."""

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import broker as broker_module
from coordinator.broker import NAME, find_mosquitto, mosquitto_config, start_broker
from coordinator.broker_access import (
    covers,
    hash_passwords,
    may_publish,
    may_subscribe,
    may_use_client_id,
    password_is,
    read_passwords,
)
from coordinator.broker_probe import ask
from coordinator.supervisor import Patience, Supervisor
from device_agent.wire.topics import matches
from firmware_profiles.errors import UserError, WorldError

PATIENCE_S = 20.0
needs_mosquitto = pytest.mark.skipif(not find_mosquitto(), reason="mosquitto is not installed")
BOTH = ["embedded", pytest.param("mosquitto", marks=needs_mosquitto)]


@pytest.fixture
def no_mosquitto(monkeypatch):
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)


@pytest.fixture
def listener():
    """Somebody on a port: accepts one connection and answers with the bytes given."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_with(data):
            def serve():
                with contextlib.suppress(OSError):  # nobody came, or they left early
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1024)
                        connection.sendall(data)

            threading.Thread(target=serve, daemon=True).start()
            return server.getsockname()[1]

        yield answer_with


@needs_mosquitto
def test_auto_takes_mosquitto_where_it_is_installed(tmp_path):
    with start_broker("auto", tmp_path) as broker:
        assert broker.kind == "mosquitto"
        ask(broker.url)


def test_auto_takes_the_embedded_broker_elsewhere_and_says_what_it_lacks(tmp_path, no_mosquitto):
    with start_broker("auto", tmp_path) as broker:
        assert broker.kind == "embedded"
        assert broker.url in broker.description
        assert "TLS" in broker.description
        ask(broker.url)


def test_auto_takes_the_embedded_broker_where_mosquitto_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: shutil.which("false"))
    with start_broker("auto", tmp_path) as broker:
        assert broker.kind == "embedded"


def test_a_mosquitto_that_does_not_start_is_an_error_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: shutil.which("false"))
    with pytest.raises(WorldError, match="mosquitto does not start"):
        start_broker("mosquitto", tmp_path)


def test_mosquitto_asked_for_and_missing_says_how_to_install_it(tmp_path, no_mosquitto):
    with pytest.raises(WorldError, match="apt-get install mosquitto"):
        start_broker("mosquitto", tmp_path)


def test_an_unknown_choice_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="auto, mosquitto, embedded"):
        start_broker("rabbit", tmp_path)


@pytest.mark.parametrize("kind", BOTH)
def test_a_killed_broker_comes_back_on_the_same_port(kind, tmp_path):
    with Supervisor(signals=False, patience=Patience(first_wait_s=0.01)) as supervisor:
        broker = start_broker(kind, tmp_path, supervisor=supervisor)
        first = broker.pid
        os.kill(first, signal.SIGKILL)
        assert supervisor.wait_until(lambda: supervisor.pid(NAME) not in (None, first), PATIENCE_S)
        assert broker_module._answers(broker.url, lambda: False, supervisor)


@pytest.mark.parametrize("kind", BOTH)
def test_the_port_asked_for_is_the_port_taken(kind, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with start_broker(kind, tmp_path, port=port) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", BOTH)
def test_a_busy_port_is_named(kind, tmp_path, listener):
    port = listener(b"")
    with pytest.raises(WorldError, match=rf"port {port} .*choose another port"):
        start_broker(kind, tmp_path, port=port)


@pytest.mark.parametrize("kind", BOTH)
def test_a_port_lost_to_somebody_quicker_is_replaced(kind, tmp_path, listener, monkeypatch):
    taken, real = listener(b""), broker_module._reserve
    offers = iter([taken])
    monkeypatch.setattr(broker_module, "_reserve", lambda port: next(offers, None) or real(port))
    with start_broker(kind, tmp_path) as broker:
        assert broker.url != f"mqtt://127.0.0.1:{taken}"
        ask(broker.url)


@pytest.mark.parametrize("kind", BOTH)
def test_a_stopped_broker_is_gone(kind, tmp_path):
    broker = start_broker(kind, tmp_path)
    broker.stop()
    with pytest.raises(WorldError, match="no broker answers"):
        ask(broker.url)


def test_an_external_broker_is_used_as_it_is(tmp_path):
    with start_broker("embedded", tmp_path) as ours, start_broker(ours.url, tmp_path) as external:
        assert (external.kind, external.url, external.pid) == ("external", ours.url, None)


def test_an_external_broker_that_does_not_answer_is_an_error_at_once(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(WorldError, match=rf"no broker answers at mqtt://127.0.0.1:{port}.*is it running"):
            start_broker(f"mqtt://127.0.0.1:{port}", tmp_path)


def test_something_else_behind_the_url_is_told_from_a_broker(tmp_path, listener):
    port = listener(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(WorldError, match="not an MQTT broker"):
        start_broker(f"mqtt://127.0.0.1:{port}", tmp_path)


def test_a_refusal_says_what_to_correct(tmp_path, listener):
    port = listener(b"\x20\2\0\4")
    with pytest.raises(WorldError, match="refuses the user name or password"):
        start_broker(f"mqtt://me:wrong@127.0.0.1:{port}", tmp_path)


def test_a_password_in_the_url_is_not_shown(tmp_path, listener):
    port = listener(b"\x20\2\0\0")
    broker = start_broker(f"mqtt://me:secret@127.0.0.1:{port}", tmp_path)
    assert "secret" not in broker.description


@pytest.mark.parametrize("url", ["http://host", "mqtt://", "mqtt://host:x", "mqtt://host/topic"])
def test_a_url_that_is_none_of_ours_is_refused(url, tmp_path):
    with pytest.raises(UserError, match="broker URL"):
        start_broker(url, tmp_path)


@needs_mosquitto
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_mosquitto_started_by_root_reads_a_folder_that_only_root_may_read(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with start_broker("mosquitto", private, credentials={"coordinator": "secret"}) as broker:
        ask(broker.url.replace("://", "://coordinator:secret@"))


@needs_mosquitto
def test_the_passwords_file_is_one_mosquitto_passwd_understands(tmp_path):
    path = tmp_path / "passwords"
    path.write_text(hash_passwords({"dev1": "secret"}))
    subprocess.run(["mosquitto_passwd", "-b", str(path), "dev2", "other"], check=True, capture_output=True)
    hashes = read_passwords(path.read_text(), str(path))
    assert password_is("secret", hashes["dev1"])
    assert password_is("other", hashes["dev2"])


def test_the_passwords_file_is_for_us_alone(tmp_path):
    with start_broker("embedded", tmp_path, credentials={"dev1": "secret"}):
        assert (tmp_path / "broker.passwords").stat().st_mode & 0o077 == 0


def test_mosquitto_is_not_told_to_lose_messages_or_to_listen_to_others(tmp_path):
    config = mosquitto_config(1883, tmp_path, None).splitlines()
    assert "listener 1883 127.0.0.1" in config
    assert "max_queued_messages 100000" in config
    assert "set_tcp_nodelay true" in config


# ---------------------------------------------------------------- access rules


def test_a_password_is_stored_as_the_published_function_says():
    stored = hash_passwords({"dev1": "secret"}).strip()
    _, _, iterations, salt, digest = stored.split("$")
    expected = hashlib.pbkdf2_hmac("sha512", b"secret", base64.b64decode(salt), int(iterations), 64)
    assert base64.b64decode(digest) == expected


def test_a_wrong_password_is_wrong():
    hashes = read_passwords(hash_passwords({"dev1": "secret"}), "here")
    assert not password_is("Secret", hashes["dev1"])


@pytest.mark.parametrize("line", ["dev1", "dev1:plain", "dev1:$6$x$y", ""])
def test_a_broken_passwords_file_names_the_line(line):
    with pytest.raises(UserError, match="passwords:2 "):
        read_passwords(hash_passwords({"dev0": "x"}) + line + "\n", "passwords")


def test_a_user_name_that_is_not_an_id_is_refused():
    with pytest.raises(UserError, match="user name"):
        hash_passwords({"dev:1": "x"})


LEVEL = st.sampled_from(["a", "b", ""])
PATTERN = st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"])])
)
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join)


@given(PATTERN, PATTERN, TOPIC)
@settings(deadline=None, max_examples=300)
def test_what_a_covered_filter_matches_the_covering_one_matches_too(allowed, asked, topic):
    if covers(allowed, asked) and matches(asked, topic):
        assert matches(allowed, topic)


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        ("edgetide/v1/home/dev1/up", True),
        ("edgetide/v1/home/dev1/up/bulk", True),
        ("edgetide/v1/home/dev1/peer/dev2", True),
        ("edgetide/v1/home/dev1/down", False),
        ("edgetide/v1/home/dev2/up", False),
        ("edgetide/v1/home/coordinator/run", False),
    ],
)
def test_where_a_device_may_publish(topic, allowed):
    assert may_publish("dev1", topic) is allowed


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("edgetide/v1/home/dev1/down/#", True),
        ("edgetide/v1/home/dev1/down/bulk", True),
        ("edgetide/v1/home/coordinator/run", True),
        ("edgetide/v1/home/+/peer/all", True),
        ("edgetide/v1/home/dev2/peer/dev1", True),
        ("edgetide/v1/home/dev2/peer/+", False),
        ("edgetide/v1/home/+/down", False),
        ("edgetide/#", False),
        ("#", False),
    ],
)
def test_what_a_device_may_subscribe_to(pattern, allowed):
    assert may_subscribe("dev1", pattern) is allowed


@pytest.mark.parametrize(
    ("client_id", "allowed"),
    [
        ("dev1", True),
        ("home-dev1", True),
        ("home/dev1/bulk", True),
        ("home-dev1-bulk", True),
        ("home-dev2", False),
    ],
)
def test_which_client_ids_a_device_may_use(client_id, allowed):
    assert may_use_client_id("dev1", client_id) is allowed
