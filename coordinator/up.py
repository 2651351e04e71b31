"""`edgetide up`: a whole fleet on one machine, as separate processes over a real broker."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from coordinator.broker import RunningBroker, start_broker
from coordinator.faults.live import LiveFaults, read_live_faults
from coordinator.runtime import REPORT
from coordinator.screen import Screen, print_report
from coordinator.state_lock import locked
from coordinator.supervisor import Supervisor
from coordinator.twins.scenario import Scenario
from firmware_profiles.errors import UserError
from firmware_profiles.process import own_argv
from models.engines.choose import resolve_engine

FLEET = "edgetide"
BOARD_SHARES = (1.0, 0.8, 0.6, 0.45)
"""The agents stand for unlike boards: each may take this share of what its part of the machine is."""
MIN_SHARE = 0.1
"""Taken however busy the machine is, at low priority: a demonstration should end."""
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class UpConfig:
    """What `edgetide up` was told; see `edgetide up --help`.

    Attributes:
        engine: one name, or several with commas between, which the devices take in turn. The first is
            the coordinator's too.
        faults: scenario whose devices' names, networks and faults the agents have.
    """

    devices: int
    rounds: int
    strategy: str
    model: str
    data: str
    broker: str
    engine: str
    port: int
    seed: int
    table: Path | None
    passes: float
    round_seconds: str
    optimizer: str
    learning_rate: float | None
    compression: str
    topology: str | None
    barrier_s: float | None
    sample_s: float | None
    gossip: Path | None
    partition: str
    plan: Path | None
    faults: Path | None
    state: Path
    fresh: bool
    exit_when_finished: bool


def run_up(config: UpConfig) -> dict[str, Any]:
    """Start everything, show it, end everything; returns the report.

    Raises:
        UserError: the port is busy, the folder is in use, or an option cannot be used.
        WorldError: a process fails again and again.
    """
    _check_port(config.port)
    engines = [resolve_engine(name.strip()) for name in config.engine.split(",")]
    port, report = config.port or _free_port(), None
    faulty = None if config.faults is None else read_live_faults(config.faults, config.devices)
    with (
        locked(config.state, "edgetide up"),
        ExitStack() as until_end,  # the agents say goodbye through what is in it
        Supervisor(config.state / "cohort.json") as supervisor,
    ):
        try:
            with Screen() as screen:
                faults = _start_all(config, engines, supervisor, screen, port, faulty, until_end)
                report = _watch(config, supervisor, screen, port, faults)
            print_report(report)
            if not config.exit_when_finished:
                _stay(supervisor, port)
        except KeyboardInterrupt:
            sys.stderr.write("stopping\n")
    if report is None:
        raise UserError(
            f"stopped before the run was finished; the same command resumes it from {config.state}, "
            "--fresh begins a new one"
        )
    return report


def _start_all(
    config: UpConfig,
    engines: list[str],
    supervisor: Supervisor,
    screen: Screen,
    port: int,
    faulty: tuple[Scenario, tuple[str, ...]] | None,
    until_end: ExitStack,
) -> LiveFaults | None:
    """Start broker, coordinator and agents; with faults, which begin when they are told, between them."""
    (config.state / "coordinator" / REPORT).unlink(missing_ok=True)
    broker = start_broker(config.broker, config.state / "broker", supervisor=supervisor)
    screen.say(f"broker: {broker.description}")
    scenario, names = faulty or (None, tuple(f"device-{index + 1}" for index in range(config.devices)))
    # Where devices come and go, waiting for all of them may mean for ever: the scenario says how many.
    enough = None if scenario is None else scenario.min_devices
    _start_coordinator(config, engines[0], supervisor, broker, port, min(enough or len(names), len(names)))
    faults = None
    if scenario is not None:
        faults = until_end.enter_context(LiveFaults(scenario, names, broker.url, supervisor, config.seed))
        screen.say(f"faults: {config.faults}")
    for index, name in enumerate(names):
        url = broker.url if faults is None else faults.url(name)
        _start_agent(config, engines[index % len(engines)], supervisor, url, index, name)
    screen.say(f"page: http://127.0.0.1:{port}/   logs and state: {config.state}")
    return faults


def _start_coordinator(
    config: UpConfig, engine: str, supervisor: Supervisor, broker: RunningBroker, port: int, min_devices: int
) -> None:
    options = {
        "--broker": broker.url,
        "--broker-description": broker.description.partition(";")[0],
        "--fleet": FLEET,
        "--devices": min_devices,
        "--rounds": config.rounds,
        "--strategy": config.strategy,
        "--model": config.model,
        "--data": config.data,
        "--engine": engine,
        "--port": port,
        "--seed": config.seed,
        "--passes": config.passes,
        "--round-seconds": config.round_seconds,
        "--optimizer": config.optimizer,
        "--compression": config.compression,
        "--state": config.state / "coordinator",
    }
    argv = ["coordinator", "run", *_flat(options)]
    argv += ["--keep-finished", *(["--table", str(config.table)] if config.table else [])]
    argv += [] if config.plan is None else ["--plan", str(config.plan)]
    for option, value in (
        ("--topology", config.topology),
        ("--barrier-seconds", config.barrier_s),
        ("--sample-seconds", config.sample_s),
        ("--gossip", config.gossip),
    ):
        argv += [] if value is None else [option, str(value)]
    if config.learning_rate is not None:
        argv += ["--learning-rate", str(config.learning_rate)]
    # A restart after a crash must resume, so the old run is moved aside here, once.
    if config.fresh:
        from coordinator.database import move_aside  # noqa: PLC0415
        from coordinator.runtime import DATABASE  # noqa: PLC0415

        move_aside(config.state / "coordinator" / DATABASE)
    _start(config, supervisor, "coordinator", argv, agent=False)


def _start_agent(
    config: UpConfig, engine: str, supervisor: Supervisor, broker_url: str, index: int, name: str
) -> None:
    folder = config.state / "agents" / name
    folder.mkdir(parents=True, exist_ok=True)
    policy, share = folder / "board.yaml", _board_share(config, index)
    policy.write_text(
        f"# Stands for one board of an unlike fleet.\nmax_cpu_share_fraction: {share:.4f}\n"
        f"min_cpu_share_fraction: {min(MIN_SHARE, share):.4f}\n",
        encoding="utf-8",
    )
    options = {
        "--broker": broker_url,
        "--fleet": FLEET,
        "--id": name,
        "--data": config.data,
        "--shard": f"{index}/{config.devices}",
        "--partition": config.partition,
        "--seed": config.seed,
        "--policy": policy,
        "--state": folder,
        "--engine": engine,
        "--cohort": config.state / "cohort.json",
    }
    _start(config, supervisor, name, ["agent", "run", *_flat(options)], agent=True)


def _board_share(config: UpConfig, index: int) -> float:
    """What all agents together would take if they were like this one (a policy speaks of the machine)."""
    one_thread_each = min(1.0, config.devices / (os.cpu_count() or 1))
    return BOARD_SHARES[index % len(BOARD_SHARES)] * one_thread_each


def _start(config: UpConfig, supervisor: Supervisor, name: str, argv: list[str], *, agent: bool) -> None:
    # One thread each: the processes share the cores, and a BLAS that spins for more takes from the others.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    supervisor.start(
        name,
        own_argv("coordinator.cli", *argv),
        log_path=config.state / "logs" / f"{name}.log",
        agent=agent,
        env=env,
    )


def _flat(options: dict[str, Any]) -> list[str]:
    return [str(part) for pair in options.items() for part in pair]


def _watch(
    config: UpConfig, supervisor: Supervisor, screen: Screen, port: int, faults: LiveFaults | None
) -> dict[str, Any]:
    """Show the fleet until the report is there; faults begin with the first round."""
    path = config.state / "coordinator" / REPORT
    told_resumed = False
    while not path.exists():
        supervisor.wait_until(path.exists, POLL_S)
        view = _get(port, "fleet")
        if view is None or view["run"] is None:
            continue
        if not told_resumed:
            told_resumed = True
            verb = "resumes" if view["about"]["resumed"] else "begins"
            screen.say(f"{verb} {view['run']['run']} (seed {config.seed})")
        if faults is not None and view["run"]["state"] != "waiting":
            faults.begin()
        screen.show(view, _get(port, "curve") or [])
    return json.loads(path.read_text(encoding="utf-8"))


def _stay(supervisor: Supervisor, port: int) -> NoReturn:
    sys.stderr.write(f"The page stays at http://127.0.0.1:{port}/ until Ctrl-C.\n")
    while True:
        supervisor.wait_until(lambda: False, 3600.0)


def _get(port: int, name: str) -> Any:
    """A JSON twin of the page, or None while the coordinator does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{name}", timeout=2.0) as answer:
            return json.load(answer)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
        return None


def _check_port(port: int) -> None:
    if port:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise UserError(
                    f"port {port} is busy ({error.strerror}), perhaps with another `edgetide up`: "
                    "choose one with --port"
                ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
