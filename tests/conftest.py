"""Fixtures of more than one test directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading

import pytest


def find_mosquitto():
    """Return the mosquitto program, also where /usr/sbin is not on the path."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Mosquitto:
    """A real broker as a child process on a port of its own, which it keeps when started again.

    `extra` are lines of mosquitto.conf; where they name no listener, one without passwords is made.
    """

    def __init__(self, directory, extra=""):
        self._program = find_mosquitto()
        self._directory = directory
        self._extra = extra
        self._process = None
        self.port = free_port()

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self):
        config = self._directory / "mosquitto.conf"
        access = "" if "allow_anonymous" in self._extra else "allow_anonymous true\n"
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(f"listener {self.port} 127.0.0.1\n{access}{user}log_dest stderr\n{self._extra}\n")
        self._process = subprocess.Popen(
            [self._program, "-c", str(config)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if line.rstrip().endswith("running"):
                # The pipe must be read on, or the broker blocks when it is full.
                self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
                self._drain.start()
                return
        self._process.wait()
        pytest.fail(f"mosquitto did not start: {''.join(lines)}")

    def kill(self):
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self):
        self._end(signal.SIGTERM)

    def _end(self, how):
        if self._process is None:
            return
        while self._process.poll() is None:
            self._process.send_signal(how)
            # A signal that arrives just before its main loop is forgotten, so it is sent again.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
        self._drain.join()
        self._process.stderr.close()
        self._process = None


@pytest.fixture
def make_mosquitto(tmp_path_factory):
    """A function that starts a broker with extra configuration lines."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: tests of MQTT itself need a real broker")
    brokers = []

    def make(extra=""):
        broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), extra)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def mosquitto_broker(make_mosquitto):
    """A running broker: `.url`, `.port`, `.kill()`, `.stop()`, `.start()`."""
    return make_mosquitto()
