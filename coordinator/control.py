"""How the command line reaches a running coordinator: a socket file in its state folder.

Only the user who owns the folder can open it, so nothing that changes a run is ever on the network.
One request a connection: a MessagePack map {kind, content}; the answer is {ok, message}.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from firmware_profiles.errors import EdgetideError, UserError, WorldError

log = logging.getLogger(__name__)

SOCKET = "control.sock"
MAX_BYTES = 512 * 2**20
TIMEOUT_S = 60.0
_LENGTH = struct.Struct("<Q")


class Request(msgspec.Struct, frozen=True):
    """What to roll out: kind is policy, table or model; content is the file's."""

    kind: str
    content: bytes


class Answer(msgspec.Struct, frozen=True):
    """Whether it was done, and in words."""

    ok: bool
    message: str


class ControlServer:
    """Listens in the state folder until it is closed.

    Args:
        directory: the state folder.
        handle: carries a request out and says what was done; EdgetideErrors are told to the asker.

    Raises:
        WorldError: the socket cannot be made.
    """

    def __init__(self, directory: Path, handle: Callable[[Request], str]) -> None:
        self._handle = handle
        self._path = directory / SOCKET
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._path.unlink(missing_ok=True)
            _with_short_path(self._path, self._listener.bind)
            self._path.chmod(0o600)
            self._listener.listen(4)
        except OSError as error:
            self._listener.close()
            raise WorldError(f"control socket {self._path} cannot be made: {error.strerror}") from error
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._path.unlink(missing_ok=True)
        # Wakes accept(), which closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(TIMEOUT_S)
                try:
                    _send(connection, msgspec.msgpack.encode(self._answer(_receive(connection))))
                except (OSError, EdgetideError) as error:
                    log.warning("control request dropped: %s", error)

    def _answer(self, data: bytes) -> Answer:
        try:
            return Answer(ok=True, message=self._handle(msgspec.msgpack.decode(data, type=Request)))
        except (EdgetideError, msgspec.MsgspecError) as error:
            return Answer(ok=False, message=str(error))
        except Exception as error:
            log.exception("control request failed")
            return Answer(
                ok=False, message=f"{type(error).__name__}: {error}; the coordinator's log says more"
            )


def ask(directory: Path, request: Request, source: str) -> str:
    """Have a running coordinator carry out a request; returns what it says it did.

    Args:
        directory: the coordinator's state folder.
        request: what to do.
        source: what to call the request's content in messages, such as its file.

    Raises:
        UserError: no coordinator runs on this state folder, or it refused.
        WorldError: it does not answer.
    """
    path = directory / SOCKET
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            _with_short_path(path, connection.connect)
        except OSError as error:
            raise UserError(
                f"no coordinator runs on the state folder {directory} ({error.strerror}): "
                "start one, or name its folder with --state"
            ) from error
        try:
            _send(connection, msgspec.msgpack.encode(request))
            answer = msgspec.msgpack.decode(_receive(connection), type=Answer)
        except (OSError, msgspec.MsgspecError) as error:
            raise WorldError(f"the coordinator on {directory} did not answer: {error}") from error
    if not answer.ok:
        raise UserError(f"{source} was not rolled out: {answer.message}")
    return answer.message


def _with_short_path(path: Path, use: Callable[[str], object]) -> None:
    """Socket names are limited to 108 bytes; a descriptor of the folder makes any path short."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        use(f"/proc/self/fd/{descriptor}/{path.name}")
    finally:
        os.close(descriptor)


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    if length > MAX_BYTES:
        raise WorldError(f"a message of {length} bytes is over the limit of {MAX_BYTES}")
    return _read(connection, length)


def _read(connection: socket.socket, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        part = connection.recv(min(num_bytes - len(data), 2**20))
        if not part:
            raise WorldError("the connection ended in the middle of a message")
        data += part
    return bytes(data)
