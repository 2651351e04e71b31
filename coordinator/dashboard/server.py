"""The page's web server, in a thread of its own."""

from __future__ import annotations

import errno
import socket
import threading

import uvicorn
from fastapi import FastAPI

from coordinator.dashboard.app import Pushes
from firmware_profiles.errors import UserError

STOP_TIMEOUT_S = 10.0


class Server:
    """A running server.

    Args:
        app: made by `create_app`, and not served already.
        listener: of `listen`; closed in the end.

    Attributes:
        url: where the page is, such as "http://127.0.0.1:8080/".
        port: the port it listens on.
    """

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        host, self.port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"
        self._pushes: Pushes = app.state.pushes
        self._listener = listener
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                limit_concurrency=512,
            ),
            self._pushes,
        )
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every stream and close the port. Further calls do nothing."""
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._listener.close()


class _Uvicorn(uvicorn.Server):
    """Tells the streams to end before it waits for open connections to close."""

    def __init__(self, config: uvicorn.Config, pushes: Pushes) -> None:
        super().__init__(config)
        self._pushes = pushes

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._pushes.closing.set()
        await super().shutdown(sockets)


def listen(host: str = "127.0.0.1", port: int = 8080) -> socket.socket:
    """Take a port for the page; `Server` answers there.

    Args:
        host: address to listen on; the page has no passwords, so another than loopback shows the
            fleet to everyone who reaches it.
        port: 0 lets the system choose.

    Raises:
        UserError: the port is taken or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"web page: {port} is not a port: choose 1 to 65535 with --port, or 0 for any")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"web page: {host!r} port {port} is not an address: {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise UserError(_explain(error, host, port)) from error
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"web page: port {port} of {host} is busy (another edgetide?): choose another with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"web page: port {port} is not allowed for this user: choose one above 1023 with --port"
    return f"web page: cannot listen on {host} port {port}: {error}"
