"""What an agent takes of a board, idle and training, and what a decision costs.

    python -m benchmarks.agent [--quick] [--json]

It starts real agents (`edgetide agent run`) against a real broker with nothing announced, and in turn
a process that only connects with paho-mqtt and says hello: the least any Python MQTT device takes.
For both it measures the time from the start of the process to its hello, the resident memory some
seconds later, and the CPU time of an idle stretch. Then, in this process, a reading of the sensors
(the peer: psutil's calls for the same quantities) and the choice of a vector from the shipped table,
as they are made before every mini-batch.

Then agents train the default network in one fleet, each on another engine: their highest resident
memory, and what they still hold after the run. Last, what an agent's environment takes of the disk with
onnxruntime, and with torch as it is installed here (`benchmarks.installed`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.engine_worker import peak_rss_bytes
from benchmarks.installed import installed_bytes, needed
from benchmarks.report import Check, Report, median, parser, publish, time_interleaved
from coordinator.broker import start_broker
from device_agent.sensors import Sensors
from device_agent.wire.mqtt_options import parse_url
from device_agent.wire.topics import device_topic
from firmware_profiles.resources import Budget
from models.engines.choose import ENGINES
from models.step_times import StepTimes
from models.table import select
from models.zoo import shipped_table

ROOT = Path(__file__).resolve().parent.parent
FLEET = "bench"
MAX_IDLE_RSS_MB = 60.0
MAX_TRAINING_RSS_MB = 130.0
"""The issue's limits for an agent process, idle, and training the default network on `onnx`."""

SETTLE_S = 3.0
HELLO_LIMIT_S = 60.0
MODEL = "cnn-28"
TRAINING_ENGINES = ("onnx", "torch")
ROUND_S = 300

PEER = """
import sys
import paho.mqtt.client as paho
host, port, topic, client_id = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id)
client.on_connect = lambda client, *_: client.publish(topic, b"{}", 1)
client.connect(host, port)
client.loop_forever()
"""


@dataclass(frozen=True)
class Idle:
    """What one process did: start to hello, resident memory afterwards, CPU share of one core when idle."""

    hello_s: float
    rss_bytes: int
    cpu_fraction: float


class Hellos:
    """Hears every device's hello on the bus."""

    def __init__(self, host: str, port: int) -> None:
        self._heard: dict[str, threading.Event] = {}
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench-listener")
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect(host, port)
        self._client.loop_start()
        if not self._subscribed.wait(HELLO_LIMIT_S):
            raise RuntimeError("the broker did not grant the benchmark's own subscription")

    def expect(self, device: str) -> threading.Event:
        """What is set when this device says hello."""
        return self._heard.setdefault(device_topic(FLEET, device, "hello"), threading.Event())

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: paho.Client, *_arguments: object) -> None:
        client.subscribe(device_topic(FLEET, "+", "hello"), 1)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        heard = self._heard.get(message.topic)
        if heard is not None:
            heard.set()


@contextlib.contextmanager
def started(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def agent_argv(broker_url: str, device: str, folder: str, options: Sequence[str] = ()) -> list[str]:
    """The command of an agent that keeps its state in a folder of its own."""
    argv = [sys.executable, "-m", "coordinator.cli", "agent", "run", "--broker", broker_url, "--fleet", FLEET]
    return [*argv, "--id", device, "--state", f"{folder}/{device}", *options]


def watch_idle(hellos: Hellos, device: str, argv: list[str], idle_s: float) -> Idle:
    """Start a process, wait for its hello, let it settle, and look at it."""
    heard = hellos.expect(device)
    began_s = time.monotonic()
    with started(argv) as child:
        if not heard.wait(HELLO_LIMIT_S):
            raise RuntimeError(f"{device} did not say hello within {HELLO_LIMIT_S:.0f} s: {' '.join(argv)}")
        hello_s = time.monotonic() - began_s
        time.sleep(SETTLE_S)
        process = psutil.Process(child.pid)
        cpu_s, from_s = _cpu_s(process), time.monotonic()
        time.sleep(idle_s)
        cpu_fraction = (_cpu_s(process) - cpu_s) / (time.monotonic() - from_s)
        return Idle(hello_s, process.memory_info().rss, cpu_fraction)


def measure_idle(report: Report, num_repeats: int, idle_s: float) -> None:
    """Agents and bare clients in turn."""
    measured: dict[str, list[Idle]] = {"agent": [], "bare paho-mqtt client": []}
    with (
        tempfile.TemporaryDirectory(prefix="edgetide-bench-") as folder,
        start_broker("auto", Path(folder, "broker")) as broker,
    ):
        endpoint = parse_url(broker.url)
        hellos = Hellos(endpoint.host, endpoint.port)
        for index in range(num_repeats):
            agent, bare = f"agent-{index}", f"bare-{index}"
            bare_argv = [sys.executable, "-c", PEER, endpoint.host, str(endpoint.port)]
            bare_argv += [device_topic(FLEET, bare, "hello"), bare]
            measured["agent"].append(watch_idle(hellos, agent, agent_argv(broker.url, agent, folder), idle_s))
            measured["bare paho-mqtt client"].append(watch_idle(hellos, bare, bare_argv, idle_s))
        hellos.close()
        kind = broker.kind
    for name, repeats in measured.items():
        report.rows.append(
            {
                "process": name,
                "broker": kind,
                "rss_mb": median([one.rss_bytes / 1e6 for one in repeats]),
                "hello_s": median([one.hello_s for one in repeats]),
                "idle_cpu_fraction": median([one.cpu_fraction for one in repeats]),
                "repeats": num_repeats,
            }
        )
    ours, peer = report.rows[-2], report.rows[-1]
    report.checks.append(
        Check(
            "resident memory of an idle agent, MB",
            ours["rss_mb"],
            "<=",
            MAX_IDLE_RSS_MB,
            f"a bare paho-mqtt client: {peer['rss_mb']:.1f} MB",
        )
    )


def measure_training(report: Report, num_rounds: int, passes: float) -> None:
    """Agents that train in one fleet, one on each engine that is installed."""
    kinds = [kind for kind in TRAINING_ENGINES if ENGINES[kind].is_installed()]
    with (
        tempfile.TemporaryDirectory(prefix="edgetide-bench-") as folder,
        start_broker("auto", Path(folder, "broker")) as broker,
        contextlib.ExitStack() as stack,
    ):
        agents = {
            kind: stack.enter_context(started(agent_argv(broker.url, kind, folder, ["--engine", kind])))
            for kind in kinds
        }
        argv = [sys.executable, "-m", "coordinator.cli", "coordinator", "run", "--exit", "--port", "0"]
        argv += ["--broker", broker.url, "--fleet", FLEET, "--model", MODEL, "--devices", str(len(kinds))]
        argv += ["--rounds", str(num_rounds), "--passes", str(passes), "--round-seconds", str(ROUND_S)]
        argv += ["--state", f"{folder}/coordinator", "--json"]
        ran = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        trained = {
            device["id"]: device["updates"] for device in json.loads(ran.stdout.splitlines()[-1])["devices"]
        }
        for kind, agent in agents.items():
            report.rows.append(
                {
                    "training_agent": kind,
                    "model": MODEL,
                    "updates": trained[kind],
                    "peak_rss_mb": peak_rss_bytes(agent.pid) / 1e6,
                    "rss_afterwards_mb": psutil.Process(agent.pid).memory_info().rss / 1e6,
                }
            )
    others = [row for row in report.rows if row.get("training_agent") == "torch"]
    peer = f"the same agent on torch: {others[0]['peak_rss_mb']:.0f} MB" if others else "no torch here"
    for row in report.rows:
        if row.get("training_agent") == "onnx":
            name = "peak resident memory of an agent that trains on onnx, MB"
            report.checks.append(Check(name, row["peak_rss_mb"], "<=", MAX_TRAINING_RSS_MB, peer))


def measure_environments(report: Report) -> None:
    """Disk that an agent's environment takes with each engine, of the packages installed here."""
    for kind, requirements in {"onnx": ["edgetide[onnx]"], "torch": ["edgetide", "torch"]}.items():
        if ENGINES[kind].is_installed():
            names = needed(requirements)
            report.rows.append(
                {
                    "environment": " and ".join(requirements),
                    "num_packages": len(names),
                    "installed_mb": installed_bytes(names) / 1e6,
                    "version": metadata.version("torch" if kind == "torch" else "onnxruntime"),
                }
            )


def measure_decisions(report: Report, num_repeats: int) -> None:
    """A reading of the sensors, and a choice from the table."""
    table = shipped_table(MODEL)
    assert table is not None
    sensors, times = Sensors(interval_s=0.0), StepTimes(table)
    budget = Budget(cpu_share_fraction=0.5, memory_bytes=2**30, time_left_s=60.0, num_batches_left=2000)
    runs: dict[str, Callable[[], object]] = {
        "read every sensor": sensors.read,
        "the same with psutil": _read_with_psutil,
        f"select of {len(table.entries)} vectors": lambda: select(table, budget, 4, times.predict),
    }
    seconds = time_interleaved(runs, num_repeats, min_sample_s=0.02)
    report.rows += [{"decision": name, "us": 1e6 * median(values)} for name, values in seconds.items()]


def _read_with_psutil() -> object:
    own = psutil.Process()
    return (
        psutil.cpu_times(percpu=True),
        own.cpu_times(),
        own.memory_info(),
        psutil.virtual_memory(),
        psutil.sensors_battery(),
        psutil.sensors_temperatures(),
        psutil.cpu_freq(),
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> int:
    """Measure and print."""
    options = parser("What an agent takes of a board, idle and training.").parse_args()
    report = Report("agent")
    if options.quick:
        measure_idle(report, num_repeats=1, idle_s=8.0)
    else:
        measure_idle(report, num_repeats=5, idle_s=10.0)
    measure_decisions(report, num_repeats=15 if options.quick else 50)
    measure_training(report, num_rounds=1 if options.quick else 3, passes=0.2 if options.quick else 2.0)
    measure_environments(report)
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
