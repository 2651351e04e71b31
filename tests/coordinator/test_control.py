from __future__ import annotations

import contextlib
import socket
import stat
import struct
import threading

import msgspec
import pytest

from coordinator.control import MAX_BYTES, SOCKET, Answer, ControlServer, Request, ask
from firmware_profiles.errors import UserError, WorldError

POLICY = Request("policy", b"max_cpu_share_fraction: 0.5\n")


class Coordinator:
    """Answers requests as a test says; remembers them."""

    def __init__(self):
        self.requests, self.error = [], None

    def handle(self, request):
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return "policy sent to 2 devices"


@pytest.fixture
def coordinator():
    return Coordinator()


@pytest.fixture
def server(tmp_path, coordinator):
    server = ControlServer(tmp_path, coordinator.handle)
    yield server
    server.close()


def connect(folder):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20.0)
    connection.connect(str(folder / SOCKET))
    return connection


def exchange(folder, data):
    """Send raw bytes; returns all that comes back until the end."""
    with connect(folder) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # what it did not read counts as a reset
            while part := connection.recv(65536):
                answer += part
        return answer


def framed(data):
    return struct.pack("<Q", len(data)) + data


def test_a_request_is_carried_out_and_answered_in_words(tmp_path, server, coordinator):
    assert ask(tmp_path, POLICY, "policy.yaml") == "policy sent to 2 devices"
    assert coordinator.requests == [POLICY]


def test_large_content_comes_through_whole(tmp_path, server, coordinator):
    model = Request("model", bytes(range(256)) * 20_000)
    ask(tmp_path, model, "model.safetensors")
    assert coordinator.requests == [model]


def test_one_request_follows_another(tmp_path, server, coordinator):
    for _ in range(3):
        ask(tmp_path, POLICY, "policy.yaml")
    assert len(coordinator.requests) == 3


def test_a_refusal_names_the_file_and_the_reason(tmp_path, server, coordinator):
    coordinator.error = UserError("policy:1: unknown key")
    with pytest.raises(UserError, match=r"own\.yaml was not rolled out: policy:1: unknown key"):
        ask(tmp_path, POLICY, "own.yaml")


def test_a_defect_of_the_coordinator_is_told_and_the_next_request_is_answered(tmp_path, server, coordinator):
    coordinator.error = ZeroDivisionError("oops")
    with pytest.raises(UserError, match="ZeroDivisionError: oops"):
        ask(tmp_path, POLICY, "policy.yaml")
    coordinator.error = None
    assert ask(tmp_path, POLICY, "policy.yaml")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<Q", MAX_BYTES + 1),
        struct.pack("<Q", 100) + b"too little",
    ],
    ids=["nothing", "half a length", "HTTP", "too long", "too little"],
)
def test_garbage_is_dropped_without_an_answer_and_the_next_request_is_answered(
    tmp_path, server, coordinator, data
):
    assert exchange(tmp_path, data) == b""
    assert ask(tmp_path, POLICY, "policy.yaml")
    assert coordinator.requests == [POLICY]


@pytest.mark.parametrize("data", [b"\xc1", b"\x80", b"[]", msgspec.msgpack.encode({"kind": 1, "content": 2})])
def test_a_framed_message_that_is_no_request_is_refused_in_words(tmp_path, server, coordinator, data):
    answer = msgspec.msgpack.decode(exchange(tmp_path, framed(data))[8:], type=Answer)
    assert not answer.ok
    assert answer.message
    assert coordinator.requests == []


def test_without_a_coordinator_the_user_is_told_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no coordinator runs on the state folder .* --state"):
        ask(tmp_path, POLICY, "policy.yaml")


def test_a_folder_that_does_not_exist_has_no_coordinator(tmp_path):
    with pytest.raises(UserError, match="no coordinator runs"):
        ask(tmp_path / "nowhere", POLICY, "policy.yaml")


def test_the_socket_a_killed_coordinator_left_is_nobody(tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET))
    left.close()
    with pytest.raises(UserError, match="no coordinator runs"):
        ask(tmp_path, POLICY, "policy.yaml")


def test_a_new_coordinator_takes_over_the_socket_a_killed_one_left(tmp_path, coordinator):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET))
    left.close()
    server = ControlServer(tmp_path, coordinator.handle)
    try:
        assert ask(tmp_path, POLICY, "policy.yaml")
    finally:
        server.close()


def test_only_the_owner_can_open_the_socket(tmp_path, server):
    assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600


def test_a_folder_with_a_long_name_works_too(tmp_path, coordinator):
    deep = tmp_path / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    server = ControlServer(deep, coordinator.handle)
    try:
        assert ask(deep, POLICY, "policy.yaml")
    finally:
        server.close()


def test_closing_removes_the_socket(tmp_path, coordinator):
    ControlServer(tmp_path, coordinator.handle).close()
    assert not (tmp_path / SOCKET).exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_worlds(tmp_path, coordinator):
    (tmp_path / SOCKET).mkdir()
    with pytest.raises(WorldError, match="control socket"):
        ControlServer(tmp_path, coordinator.handle)


def test_a_coordinator_that_hangs_up_is_said_not_to_answer(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / SOCKET))
    listener.listen(1)

    def hang_up():
        connection, _ = listener.accept()
        connection.recv(1)
        connection.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    with pytest.raises(WorldError):
        ask(tmp_path, POLICY, "policy.yaml")
    thread.join()
    listener.close()
