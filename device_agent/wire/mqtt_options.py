"""How to reach an MQTT broker, as checked plain data. A password is never part of a repr or an error."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from firmware_profiles.errors import UserError

_FORM = "mqtt://[user:password@]host[:1883] or mqtts://[user:password@]host[:8883]"


@dataclass(frozen=True)
class Endpoint:
    """A broker's address and who we are to it."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The URL without credentials, fit for logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files for mqtts.

    Attributes:
        ca_file: authorities to trust; None trusts the system's.
        cert_file, key_file: our own certificate and key, where the broker asks for them.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class MqttOptions:
    """What may be tuned; the defaults suit a board on Wi-Fi.

    Attributes:
        version: "3.1.1", or "5", which also tells us the broker's packet limit.
        keepalive_s: a silent link is given up, and the last will published, after 1.5 times this.
        connect_timeout_s: from the first packet until every subscription is granted.
        reconnect_base_s, reconnect_cap_s: the n-th attempt waits uniform(0, min(cap, base * 2**n)).
        refused_retry_s: the same, where the broker refused us: only a person can change that.
        stable_s: a connection that lived this long starts the count of attempts again.
        max_queued_messages, max_queued_bytes: what may wait per connection; the outbox is above.
        max_window: messages in flight.
    """

    version: str = "3.1.1"
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0
    reconnect_base_s: float = 1.0
    reconnect_cap_s: float = 30.0
    refused_retry_s: float = 60.0
    stable_s: float = 10.0
    max_queued_messages: int = 1000
    max_queued_bytes: int = 8 * 2**20
    max_window: int = 20

    def __post_init__(self) -> None:
        if self.version not in ("3.1.1", "5"):
            raise UserError(f"MQTT version {self.version!r} is not known: use 3.1.1 or 5")


def parse_url(url: str, *, username: str | None = None, password: str | None = None) -> Endpoint:
    """Return the endpoint of a broker URL; `username` and `password` go before those in the URL.

    Raises:
        UserError: it is not of the form mqtt[s]://[user:password@]host[:port].
    """
    shown = re.sub(r"//.*@", "//…@", url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UserError(f"broker URL {shown!r} has no usable host or port: write {_FORM}") from error
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == 0:
        raise UserError(f"broker URL {shown!r} is not usable: write {_FORM}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UserError(
            f"broker URL {shown!r} has something after the port: write {_FORM}, with / ? # %-encoded"
        )
    user = username if username is not None else unquote(parts.username or "") or None
    secret = password if password is not None else unquote(parts.password or "") or None
    if secret is not None and user is None:
        raise UserError(f"broker URL {shown!r}: a password needs a user name")
    tls = parts.scheme == "mqtts"
    return Endpoint(parts.hostname, port or (8883 if tls else 1883), tls, user, secret)


def tls_context(endpoint: Endpoint, files: TlsFiles | None) -> ssl.SSLContext | None:
    """Return the TLS context of an mqtts endpoint, None for mqtt.

    Raises:
        UserError: a file cannot be read or used, or files were given for a plain mqtt URL.
    """
    if not endpoint.tls:
        if files is not None:
            raise UserError(f"{endpoint} is not encrypted, but certificate files were given: write mqtts://")
        return None
    files = files or TlsFiles()
    if files.key_file is not None and files.cert_file is None:
        raise UserError(f"key file {files.key_file!r} was given without its certificate file")
    name = files.ca_file
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
        context.sslsocket_class = _ClosingSocket
        if files.cert_file is not None:
            name = f"{files.cert_file} with {files.key_file or 'the key inside'}"
            # Without a callback, OpenSSL would ask for a passphrase on the terminal of a service.
            context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UserError(f"cannot use TLS file {name}: {error}. Give PEM files this user may read") from error
    return context


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's signature
        """Shake hands.

        Raises:
            OSError: it failed; the socket is closed.
        """
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self.close()
            raise
