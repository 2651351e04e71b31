"""A real fleet, as `edgetide up` starts it: separate processes, a real broker, real files."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import psutil
import pytest

PATIENCE_S = 120.0
"""The machine may be busy with others' work: what is awaited comes in seconds on a quiet one."""


def find_mosquitto():
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*arguments):
    return [sys.executable, "-m", "coordinator.cli", *map(str, arguments)]


@dataclass
class Ended:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def errors(self):
        return [line for line in self.stderr.splitlines() if "edgetide: error:" in line]


def run(*arguments, timeout_s=PATIENCE_S):
    """Run one `edgetide` command to its end."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def wait_for(what, condition, timeout_s=PATIENCE_S, explain=lambda: ""):
    """Poll until the condition's value is true and return it."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s in vain for: {what}\n{explain()}")


class Fleet:
    """`edgetide up` in a process of its own."""

    def __init__(self, state: Path, options, variables=None):
        self.state = state
        self._variables = variables or {}
        self.options = [str(option) for option in options]
        self._said = state.with_name(f"{state.name}.stderr")
        self._printed = state.with_name(f"{state.name}.stdout")
        self.pids_seen = set()
        self.start()

    def start(self, *more):
        """Start it (again) with the same command, and perhaps more options."""
        with self._said.open("w") as said, self._printed.open("w") as printed:
            self.process = subprocess.Popen(
                command("up", "--state", self.state, *self.options, *more),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
                env={**environment(), **self._variables},
                start_new_session=True,
            )

    # ------------------------------------------------------------ what it says

    @property
    def said(self):
        return self._said.read_text()

    @property
    def report(self):
        """The last line of stdout, which --json promises to be one object."""
        return json.loads(self._printed.read_text().splitlines()[-1])

    def log(self, name):
        path = self.state / ("broker/broker.log" if name == "broker" else f"logs/{name}.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def explain(self):
        """What a person needs to see why a test failed."""
        names = ["coordinator", *(path.stem for path in (self.state / "logs").glob("device-*.log")), "broker"]
        tails = ["\n".join([f"== {name}", *self.log(name).splitlines()[-25:]]) for name in names]
        return "\n".join(["== up", self.said, *tails])

    def wait_for(self, what, condition, timeout_s=PATIENCE_S):
        """Wait for an observable event; fail at once if the fleet ends first."""

        def met_or_over():
            if value := condition():
                return (value,)
            if self.process.poll() is not None:
                if value := condition():
                    return (value,)
                raise AssertionError(
                    f"it ended with {self.process.returncode} before: {what}\n{self.explain()}"
                )
            return None

        (value,) = wait_for(what, met_or_over, timeout_s, self.explain)
        return value

    def wait_for_line(self, name, pattern, since=0):
        """Wait until a log has a matching line after a position; returns the match."""
        return self.wait_for(
            f"{pattern!r} in the log of {name}", lambda: re.search(pattern, self.log(name)[since:])
        )

    # ------------------------------------------------------------ the page

    def get(self, name):
        """A JSON twin of the page, or None while the coordinator does not answer."""
        page = re.search(r"page: (http://\S+)", self.said)
        if page is None:
            return None
        try:
            with urllib.request.urlopen(f"{page[1]}api/v1/{name}", timeout=5.0) as answer:
                return json.load(answer)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
            return None

    def device(self, name):
        """A device as the page shows it; empty while it is not shown."""
        devices = (self.get("fleet") or {}).get("devices", [])
        return next((device for device in devices if device["device"] == name), {})

    def wait_until_training(self, *names):
        self.wait_for(
            f"{names} training", lambda: all(self.device(name).get("state") == "training" for name in names)
        )

    @property
    def broker_url(self):
        return self.wait_for("a broker", lambda: re.search(r"on (mqtt://127\.0\.0\.1:\d+)", self.said))[1]

    # ------------------------------------------------------------ its processes

    def pids(self):
        """Process ids by name, from the cohort file that the supervisor keeps."""
        try:
            cohort = json.loads((self.state / "cohort.json").read_text())
        except (OSError, ValueError):
            return {}
        found = {}
        for pid in cohort["agents"] + cohort["others"]:
            with contextlib.suppress(psutil.Error):
                found[_name_of(psutil.Process(pid).cmdline())] = pid
        self.pids_seen |= set(found.values())
        return found

    def pid(self, name):
        return self.wait_for(f"a process id of {name}", lambda: self.pids().get(name))

    def kill(self, name):
        """kill -9, and wait until another has taken its place."""
        old = self.pid(name)
        os.kill(old, signal.SIGKILL)
        self.wait_for(f"{name} started again", lambda: self.pids().get(name, old) != old)

    def interrupt(self):
        """Ctrl-C."""
        self.pids()
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout_s=PATIENCE_S):
        """Wait for its end; returns the exit status."""
        wait_for("the end of up", lambda: self.process.poll() is not None, timeout_s, self.explain)
        return self.process.returncode

    def end(self):
        """Leave nothing running, whatever happened."""
        self.pids()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()  # its children die with it
                self.process.wait(30)

    # ------------------------------------------------------------ its books

    def database(self, query):
        path = self.state / "coordinator" / "coordinator.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    def outbox(self, name):
        """(boot epoch, sequence) of every message that waits in a device's outbox."""
        path = self.state / "agents" / name / "outbox.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return set(connection.execute("SELECT boot_epoch, sequence FROM message"))


def _name_of(arguments):
    line = " ".join(arguments)
    if "embedded_broker" in line or "mosquitto.conf" in line:
        return "broker"
    if " coordinator run " in line:
        return "coordinator"
    device = re.search(r" agent run .*--id (\S+)", line)
    return device[1] if device else "up"


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """Ten patterns under noise: learned in a few steps."""
    path = tmp_path_factory.mktemp("data") / "patterns.npz"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 700)
    patterns = rng.integers(0, 256, (10, 28, 28))
    images = np.clip(0.7 * patterns[labels] + rng.normal(0, 30, (700, 28, 28)), 0, 255).astype(np.uint8)
    np.savez(path, x_train=images[:600], y_train=labels[:600], x_test=images[600:], y_test=labels[600:])
    return path


@pytest.fixture(scope="session")
def make_fleet(tmp_path_factory, data_file):
    """A function that starts a fleet; whatever still runs at the end is ended."""
    fleets = []

    def make(*options, broker="embedded", devices=2, rounds=3, state=None, variables=None):
        if broker == "mosquitto" and find_mosquitto() is None:
            pytest.skip("mosquitto is not installed")
        # A round trains until its deadline, whatever the machine can do: more passes than there is time.
        fixed = {
            "--data": data_file,
            "--port": 0,
            "--broker": broker,
            "--devices": devices,
            "--rounds": rounds,
            "--passes": 400,
            "--round-seconds": 2,
            "--learning-rate": 0.03,
        }
        state = state or tmp_path_factory.mktemp("fleet") / "state"
        fleet = Fleet(
            state, [part for pair in fixed.items() for part in pair] + ["--json", *options], variables
        )
        fleets.append(fleet)
        return fleet

    yield make
    for fleet in fleets:
        fleet.end()


@pytest.fixture(params=["mosquitto", "embedded"], scope="module")
def broker(request):
    return request.param


class Observer:
    """An MQTT client of no role: hears everything, says what it is told to."""

    def __init__(self, url):
        host, _, port = url.removeprefix("mqtt://").rpartition(":")
        self.heard = []
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=f"observer-{secrets.token_hex(4)}"
        )
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = lambda _client, _data, message: self.heard.append(
            (message.topic, message.payload)
        )
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.connect(host, int(port))
        self.client.loop_start()

    def payloads(self, leaf):
        """(sender, payload) of everything heard on a topic of devices so far."""
        return [
            (topic.split("/")[3], payload)
            for topic, payload in list(self.heard)
            if topic.split("/", 4)[-1] == leaf
        ]

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="session")
def observe():
    """A function that puts an observer on a broker."""
    observers = []

    def make(url):
        observers.append(Observer(url))
        return observers[-1]

    yield make
    for observer in observers:
        observer.end()


@pytest.fixture
def edgetide():
    """A function that runs one command to its end."""
    return run


@pytest.fixture
def start_agent(tmp_path):
    """A function that starts a lone agent; returns its process and the file of its log."""
    processes = []

    def start(*options):
        log = tmp_path / f"agent-{len(processes)}.log"
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(
                    command("agent", "run", *options),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment(),
                )
            )
        return processes[-1], log

    yield start
    for process in processes:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="session")
def wait_until():
    """`wait_for`, for tests without a fleet."""
    return wait_for
