"""Does an MQTT broker answer at a URL? One connection, a CONNECT and a DISCONNECT; nothing is published."""

from __future__ import annotations

import os
import socket
import ssl

from device_agent.wire.mqtt_options import Endpoint, TlsFiles, parse_url, tls_context
from firmware_profiles.errors import WorldError

_REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it refuses our client id",
    3: "it is not available now: try again later",
    4: "it refuses the user name or password: correct them in the URL, mqtt://user:password@host",
    5: "it refuses to let us in: give a user name and password in the URL, mqtt://user:password@host",
}


def ask(
    url: str, *, tls_files: TlsFiles | None = None, timeout_s: float = 5.0, must_admit: bool = True
) -> None:
    """Return if a broker answers and would let us in, or, without `must_admit`, refuses us in proper form.

    Raises:
        UserError: the URL is malformed, or a TLS file cannot be used.
        WorldError: nobody answers, the answer is not MQTT, or it is a refusal.
    """
    endpoint = parse_url(url)
    tls = tls_context(endpoint, tls_files)
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout_s) as plain:
            if tls is None:
                answer = _converse(plain, endpoint)
            else:
                with tls.wrap_socket(plain, server_hostname=endpoint.host) as secure:
                    answer = _converse(secure, endpoint)
    except ssl.SSLError as error:
        raise WorldError(
            f"the broker at {endpoint} cannot be trusted or does not speak TLS: {error.reason}"
        ) from error
    except OSError as error:
        raise WorldError(
            f"no broker answers at {endpoint} ({error.strerror or error}): "
            "is it running, and is the address right?"
        ) from error
    if len(answer) != 4 or answer[:2] != b"\x20\x02":
        raise WorldError(f"what answers at {endpoint} is not an MQTT broker: is the port right?")
    if must_admit and answer[3] != 0:
        raise WorldError(f"the broker at {endpoint} refused: {_REFUSALS.get(answer[3], f'code {answer[3]}')}")


def _converse(connection: socket.socket, endpoint: Endpoint) -> bytes:
    """Say CONNECT, hear CONNACK, say DISCONNECT."""
    flags, body = 0x02, _text(f"edgetide-probe-{os.urandom(4).hex()}")
    if endpoint.username is not None:
        flags, body = flags | 0x80, body + _text(endpoint.username)
        if endpoint.password is not None:
            flags, body = flags | 0x40, body + _text(endpoint.password)
    packet = _text("MQTT") + bytes([4, flags, 0, 10]) + body
    connection.sendall(b"\x10" + _length(len(packet)) + packet)
    answer = b""
    while len(answer) < 4 and (part := connection.recv(4 - len(answer))):
        answer += part
    if len(answer) == 4:
        connection.sendall(b"\xe0\x00")
    return answer


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(length: int) -> bytes:
    return bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])
