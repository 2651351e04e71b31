"""Which broker carries the fleet, and starting it: one that is there, mosquitto, or the embedded one."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from coordinator.broker_access import hash_passwords, mosquitto_rules
from coordinator.broker_probe import ask
from coordinator.child import log_tail
from coordinator.supervisor import Supervisor
from device_agent.wire.mqtt_options import TlsFiles, parse_url
from firmware_profiles.errors import UserError, WorldError
from firmware_profiles.process import own_argv

logger = logging.getLogger(__name__)

NAME = "broker"
_ADMIN_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
_NUM_PORTS_TRIED = 5
_START_S = 20.0
_MOSQUITTO_LACKS = ("TLS", "connections from other machines")
_EMBEDDED_LACKS = ("MQTT 5", "shared subscriptions", "messages kept across its restart")


@dataclass(frozen=True)
class RunningBroker:
    """A broker that answers. As a context manager it is stopped at the end, if it is ours.

    Attributes:
        url: where clients connect, such as ``mqtt://127.0.0.1:41883``.
        kind: external, mosquitto or embedded.
        description: one line for people: what it is and what it lacks.
        lacks: what it cannot do, empty for an external one.
        log_path: its log, None for an external one.
    """

    url: str
    kind: str
    description: str
    lacks: tuple[str, ...] = ()
    log_path: Path | None = None
    _supervisor: Supervisor | None = field(default=None, repr=False)
    _supervisor_is_ours: bool = field(default=False, repr=False)

    @property
    def pid(self) -> int | None:
        """Process id; None for an external broker, and while a killed one is being started again."""
        return None if self._supervisor is None else self._supervisor.pid(NAME)

    def stop(self) -> None:
        """End it, if we started it."""
        if self._supervisor is not None:
            self._supervisor.stop(NAME)
            if self._supervisor_is_ours:
                self._supervisor.close()

    def __enter__(self) -> RunningBroker:  # noqa: PYI034  typing.Self is younger than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class _Plan:
    """How a broker of ours is started on a port."""

    kind: str
    title: str
    lacks: tuple[str, ...]
    argv: tuple[str, ...]


def start_broker(
    choice: str,
    state_dir: Path,
    *,
    port: int = 0,
    credentials: Mapping[str, str] | None = None,
    tls_files: TlsFiles | None = None,
    supervisor: Supervisor | None = None,
) -> RunningBroker:
    """Find or start the broker and return when it answers.

    Args:
        choice: auto, mosquitto, embedded, or the URL of one that is there.
        state_dir: folder for its configuration, log and data.
        port: TCP port on the loopback interface, 0 for a free one. A restart keeps it.
        credentials: user name -> password. With them every user is held to the topics of its own
            (`broker_access`); without, every program of this machine may connect and use all topics.
        tls_files: PEM files for the URL of an mqtts broker.
        supervisor: who watches the process; without one it gets its own.

    Raises:
        UserError: the choice, the port or the URL cannot be used.
        WorldError: the broker cannot be started or reached.
    """
    if "://" in choice:
        ask(choice, tls_files=tls_files)
        return RunningBroker(choice, "external", f"external broker {parse_url(choice)}")
    if choice not in ("auto", "mosquitto", "embedded"):
        raise UserError(
            f"broker {choice!r} is not known: use auto, mosquitto, embedded or mqtt[s]://host[:port]"
        )
    program = None if choice == "embedded" else find_mosquitto()
    if choice == "mosquitto" and program is None:
        raise WorldError(
            "mosquitto is not on this machine: install it (Debian: apt-get install mosquitto), "
            "or use --broker embedded"
        )
    state_dir.mkdir(parents=True, exist_ok=True)
    passwords = _write_access(state_dir, credentials)
    if program is not None:
        try:
            return _start(_Mosquitto(program, state_dir, passwords), state_dir, port, supervisor)
        except WorldError as error:
            if choice == "mosquitto":
                raise
            logger.warning("mosquitto does not start, the embedded broker takes its place: %s", error)
    return _start(_Embedded(passwords), state_dir, port, supervisor)


def find_mosquitto() -> str | None:
    """Path of mosquitto; the folders for administrators are often not on a user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_ADMIN_FOLDERS)


@dataclass(frozen=True)
class _Embedded:
    """Plans the embedded broker."""

    passwords: Path | None

    def plan(self, port: int) -> _Plan:
        argv = own_argv("coordinator.embedded_broker", "--port", str(port))
        if self.passwords is not None:
            argv += ["--passwords", str(self.passwords)]
        return _Plan(
            "embedded", "embedded broker", ("TLS", *_MOSQUITTO_LACKS[1:], *_EMBEDDED_LACKS), tuple(argv)
        )


@dataclass(frozen=True)
class _Mosquitto:
    """Plans mosquitto with a configuration of ours."""

    program: str
    state_dir: Path
    passwords: Path | None

    def plan(self, port: int) -> _Plan:
        """Write the configuration for a port."""
        config = self.state_dir / "mosquitto.conf"
        config.write_text(mosquitto_config(port, self.state_dir, self.passwords), encoding="utf-8")
        return _Plan(
            "mosquitto", _mosquitto_title(self.program), _MOSQUITTO_LACKS, (self.program, "-c", str(config))
        )


def mosquitto_config(port: int, state_dir: Path, passwords: Path | None) -> str:
    """The configuration of a mosquitto that only this machine can reach."""
    lines = [
        f"listener {port} 127.0.0.1",
        "persistence true",
        f"persistence_location {state_dir.resolve()}/",
        "persistence_file mosquitto.db",
        "autosave_interval 5",
        "persistent_client_expiration 7d",
        "log_dest stderr",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        "connection_messages false",
        "set_tcp_nodelay true",
        "max_packet_size 262144",
        # A large number: 0, no limit, is broken in some 2.0 releases, and at the default of 1000
        # messages are lost without a word.
        "max_queued_messages 100000",
        "max_queued_bytes 67108864",
        "max_inflight_messages 20",
    ]
    if os.geteuid() == 0:
        # It would become the user mosquitto, who cannot read this folder, and Linux would
        # forget to end it with its parent.
        lines.append("user root")
    if passwords is None:
        lines.append("allow_anonymous true")
    else:
        rules = passwords.with_name("broker.acl")
        lines += [
            "allow_anonymous false",
            f"password_file {passwords.resolve()}",
            f"acl_file {rules.resolve()}",
        ]
    return "\n".join(lines) + "\n"


def _mosquitto_title(program: str) -> str:
    try:
        said = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    version = re.search(r"version (\S+)", said)
    return f"mosquitto {version[1]}" if version else "mosquitto"


def _write_access(state_dir: Path, credentials: Mapping[str, str] | None) -> Path | None:
    if credentials is None:
        return None
    passwords = state_dir / "broker.passwords"
    for path, text in (
        (passwords, hash_passwords(credentials)),
        (state_dir / "broker.acl", mosquitto_rules()),
    ):
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    return passwords


def _start(
    planner: _Mosquitto | _Embedded, state_dir: Path, port: int, supervisor: Supervisor | None
) -> RunningBroker:
    with contextlib.ExitStack() as undo:
        watcher = supervisor or undo.enter_context(Supervisor(signals=False))
        for _ in range(_NUM_PORTS_TRIED):
            started = _start_on(
                planner, _reserve(port), state_dir / "broker.log", watcher, ours=supervisor is None
            )
            if started is not None:
                undo.pop_all()
                return started
        raise WorldError(f"no free port was found for the broker in {_NUM_PORTS_TRIED} attempts: try again")


def _start_on(
    planner: _Mosquitto | _Embedded, port: int, log_path: Path, watcher: Supervisor, *, ours: bool
) -> RunningBroker | None:
    """Start on a port that was free a moment ago; None when somebody was quicker."""
    plan, url = planner.plan(port), f"mqtt://127.0.0.1:{port}"
    log_from = log_path.stat().st_size if log_path.exists() else 0
    watcher.start(NAME, plan.argv, log_path=log_path, restart=True)

    def died() -> bool:
        return watcher.pid(NAME) is None or watcher.num_restarts(NAME) > 0

    if _answers(url, died, watcher):
        description = f"{plan.title} on {url}; lacks {', '.join(plan.lacks)}"
        return RunningBroker(url, plan.kind, description, plan.lacks, log_path, watcher, ours)
    watcher.stop(NAME)
    with log_path.open("rb") as log:
        log.seek(log_from)
        if b"in use" in log.read():
            return None
    raise WorldError(f"{plan.title} does not start. The end of its log {log_path}:\n{log_tail(log_path)}")


def _reserve(port: int) -> int:
    """A port that is free now. Somebody may take it before the broker does: then we try another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise WorldError(
                f"port {port} of 127.0.0.1 cannot be used for the broker ({error}): "
                "end what uses it, or choose another port"
            ) from error
        return probe.getsockname()[1]


def _answers(url: str, died: Callable[[], bool], watcher: Supervisor) -> bool:
    """Wait until a broker answers; False when it died instead or takes too long."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s and not died():
        with contextlib.suppress(WorldError):
            ask(url, timeout_s=1.0, must_admit=False)
            return not died()
        watcher.wait_until(died, timeout_s=0.05)
    return False
