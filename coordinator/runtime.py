"""The live coordinator: builds the node with its real ports and runs it until it is told to stop."""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # another class before Python 3.11
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from coordinator.blobs import Blobs
from coordinator.control import ControlServer, Request
from coordinator.cores import core_of
from coordinator.dashboard.app import create_app
from coordinator.dashboard.server import Server, listen
from coordinator.database import Database, Run, Version, move_aside, open_database
from coordinator.evaluator import Evaluator
from coordinator.fleet import Fleet, to_json
from coordinator.fleet_core import FleetCore
from coordinator.intake import Intake
from coordinator.model_store import ModelStore
from coordinator.node import CoordinatorNode
from coordinator.orders import RunConfig
from coordinator.peering import assignment_of, refuse_draws, stream_window_s, window_s, windowed
from coordinator.rollout import keep, restore, roll_out
from coordinator.run_state import DurableRun, make_report, peers_of, streams_of
from coordinator.settings import Learning, LearningConfig, deadline_on_one_machine, prepare_learning
from coordinator.state_lock import locked
from coordinator.stream_view import newest_window
from device_agent.loop import Action, Loop
from device_agent.wire.chunks import Downloads
from device_agent.wire.mqtt import MqttBus
from device_agent.wire.mqtt_options import TlsFiles, parse_url, tls_context
from firmware_profiles.errors import WorldError
from models.bundle import encode as encode_bundle
from models.engines.choose import make_engine, resolve_engine
from models.engines.engine import Engine
from models.export import GRAPH_FILE
from models.graph import encode as encode_graph
from models.subnet import Array
from models.weights import pack

log = logging.getLogger(__name__)

DATABASE = "coordinator.sqlite"
MODELS = "models"
REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """What `edgetide coordinator run` was told.

    Attributes:
        broker: mqtt[s]:// address; tls: certificate files for mqtts; broker_description: for people.
        fleet: name of the fleet. learning: what to learn.
        min_devices: devices that must be online to begin a round.
        round_s: seconds per round, or None: what the devices need if they all share this machine.
        host, port: of the web page. state: folder. database: URL, or None for a file in `state`.
        fresh: begin a new run instead of resuming. exit_when_finished: end the process with the run.
        keep_finished: go on showing a run whose report is still there, instead of beginning the next.
        devices_per_round: how many get an order in a round; None: all.
    """

    broker: str
    tls: TlsFiles | None
    broker_description: str
    fleet: str
    learning: LearningConfig
    min_devices: int
    round_s: float | None
    host: str
    port: int
    state: Path
    database: str | None
    fresh: bool
    exit_when_finished: bool
    keep_finished: bool = False
    devices_per_round: int | None = None


def run_coordinator(config: CoordinatorConfig) -> dict[str, Any]:
    """Run until the run is finished (with exit_when_finished) or SIGTERM or SIGINT; returns the report.

    Raises:
        UserError: an option, a file or the state folder cannot be used.
        WorldError: disk, database or broker fail.
    """
    with locked(config.state, "edgetide coordinator run"), ExitStack() as ending:
        # What options can be wrong about comes first: a run that cannot begin changes nothing that is kept.
        learning = prepare_learning(config.learning)
        method = learning.method
        refuse_draws(method, config.learning.strategy, config.devices_per_round)
        assignment_of(method, config.learning.seed, boot_epoch=0)
        tls_context(parse_url(config.broker), config.tls)
        listener = listen(config.host, config.port)
        ending.callback(listener.close)
        database = _open(config)
        ending.callback(database.close)
        return _run(config, learning, database, listener, ending)


def _open(config: CoordinatorConfig) -> Database:
    path = config.state / DATABASE
    if config.fresh and config.database is None and (aside := move_aside(path)) is not None:
        log.info("starting anew: the old run is now %s", aside.name)
    if not config.keep_finished:
        (config.state / REPORT).unlink(missing_ok=True)
    return open_database(config.database or path)


def _run(
    config: CoordinatorConfig,
    learning: Learning,
    database: Database,
    listener: socket.socket,
    ending: ExitStack,
) -> dict[str, Any]:
    store = ModelStore(config.state / MODELS)
    wanted = Run(
        id=f"run-{secrets.token_hex(4)}",
        strategy=config.learning.strategy,
        graph_digest=learning.graph_digest,
        config=_plain(config),
        seed=config.learning.seed,
    )
    is_reported = (config.state / REPORT).exists()
    run, resumed = database.begin_or_resume_run(wanted, even_finished=is_reported, fresh=config.fresh)
    latest = database.latest_version(run.id)
    log.info(
        "run %s %s", run.id, f"resumed at version {latest.version if latest else 0}" if resumed else "begins"
    )
    blobs = Blobs()
    core = _core(config, learning, database, store, run.id, latest, blobs)
    state = DurableRun(
        database,
        store,
        run.id,
        base_bytes=latest.bytes_sent if latest else 0,
        base_wall_s=latest.wall_s if latest else 0.0,
    )
    (config.state / GRAPH_FILE).write_bytes(encode_graph(learning.bundle.graph))
    if latest is None:
        digest = store.put(learning.weights)
        database.commit_round(run.id, Version(version=0, digest=digest, round=0))
    about = {
        "broker": config.broker_description,
        "engine": resolve_engine(config.learning.engine),
        "model": learning.bundle.graph.name,
        "data": config.learning.data,
        "strategy": config.learning.strategy,
        "seed": config.learning.seed,
        "resumed": resumed,
    }
    loop = Loop()
    evaluate, close_evaluator = _evaluation(
        learning,
        state,
        post=loop.post,
        node=lambda: node,
    )
    running = ending.enter_context(ExitStack())
    running.callback(close_evaluator)

    def report() -> dict[str, Any]:
        return make_report(database, run.id, about, learning.window, learning.num_windows)

    def finished() -> None:
        _write_report(config.state, report())
        log.info("run %s finished", run.id)
        if config.exit_when_finished:
            # Give the last announcement the time to leave.
            loop.set_timer("exit", 1.0, loop.stop)

    bus = MqttBus(
        config.broker,
        client_id=f"{config.fleet}/coordinator",
        tls=config.tls,
        on_connect=lambda: loop.post(node.connected),
    )
    running.callback(bus.close)
    node = CoordinatorNode(
        fleet=config.fleet,
        core=core,
        bus=bus,
        downloads=Downloads(random.Random()),
        timers=loop,
        blobs=blobs,
        state=state,
        evaluate=evaluate,
        finished=finished,
        view=Fleet(
            groups=learning.bundle.plan.groups,
            peers=peers_of(database, run.id, loop.now_s() - state.base_wall_s),
            streams=streams_of(database, run.id, loop.now_s() - state.base_wall_s),
        ),
    )
    app = create_app(
        lambda: to_json(node.view, loop.now_s(), about),
        lambda: _curve(database, run.id),
    )
    server = Server(app, listener)
    running.callback(server.stop)
    log.info("web page at %s", server.url)

    def take(request: Request) -> str:
        told = roll_out(node, learning, request)
        keep(config.state, run.id, request)
        return told

    control = ControlServer(config.state, lambda request: _on_loop(loop, lambda: take(request)))
    running.callback(control.close)
    node.subscribe(lambda topic, payload: loop.post(lambda: node.received(topic, payload)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    restore(config.state, run.id, node, learning)
    node.start()
    bus.start()
    loop.run()
    running.close()
    return report()


def _evaluation(
    learning: Learning, state: DurableRun, post: Callable[[Action], None], node: Callable[[], CoordinatorNode]
) -> tuple[Callable[[int, dict[str, Array]], None], Action]:
    """What measures a version, and what ends it.

    Of a stream each prediction was made before its label was known: there is nothing to measure but reports.
    """
    if learning.method.gossip is None:
        evaluator = Evaluator(
            lambda: _make_engine(learning),
            learning.data.train,
            learning.data.test,
            done=lambda version, accuracy, loss: post(lambda: node().evaluated(version, accuracy, loss)),
            keep=state.keep_measured,
            failed=lambda error: post(lambda: _raise(error)),
        )
        return evaluator.submit, evaluator.close

    def count(version: int) -> None:
        if version:  # before the first window nothing was predicted
            node().evaluated(version, *newest_window(node().view.streams))

    return lambda version, _weights: post(lambda: count(version)), lambda: None


def _make_engine(learning: Learning) -> Engine:
    """The coordinator's own, to measure with."""
    bundle = learning.bundle
    return make_engine(learning.config.engine, bundle.graph, bundle.settings.loss, 1, bundle.artifacts)


def _core(
    config: CoordinatorConfig,
    learning: Learning,
    database: Database,
    store: ModelStore,
    run: str,
    latest: Version | None,
    blobs: Blobs,
) -> FleetCore:
    """The core where the database left it."""
    weights = store.get(latest.digest).weights if latest else learning.weights
    deadline_s = _deadline_s(config, learning)
    boot_epoch = database.next_boot_epoch(run)
    log.info("a round takes %.1f s", deadline_s)
    measured = [version.accuracy for version in database.curve(run) if version.accuracy is not None]
    momentum = learning.method.averages.server_momentum
    return core_of(learning.strategy)(
        config=windowed(
            RunConfig(
                run=run,
                strategy_name=config.learning.strategy,
                num_rounds=learning.num_rounds,
                min_devices=config.min_devices,
                deadline_s=deadline_s,
                grace_s=max(2.0, 0.25 * deadline_s),
                passes=config.learning.passes,
                batch_size=config.learning.batch_size,
                seed=config.learning.seed,
                learning_rates=learning.learning_rates(),
                devices_per_round=config.devices_per_round,
            ),
            learning.method,
        ),
        strategy=learning.strategy,
        bundle=learning.bundle,
        bundle_ref=blobs.put(encode_bundle(learning.bundle)),
        weights=weights,
        weights_ref=blobs.put(pack(weights)),
        boot_epoch=boot_epoch,
        assignment=assignment_of(learning.method, config.learning.seed, boot_epoch),
        version=latest.version if latest else 0,
        round=latest.round + 1 if latest else 1,
        oldest_base=_last_replacement(database.curve(run)),
        before=_weights_before(database.curve(run), store) if momentum else None,
        accuracy=measured[-1] if measured else None,
        intake=Intake(
            {
                (one.update.device, one.update.boot_epoch, one.update.sequence): one.outcome
                for one in database.outcomes(run)
            }
        ),
    )


def _deadline_s(config: CoordinatorConfig, learning: Learning) -> float:
    peers, gossip = learning.method.peers, learning.method.gossip
    if peers is not None:
        return window_s(peers, config.round_s or 0.0)
    if gossip is not None:
        return stream_window_s(gossip, len(learning.data.train) // config.min_devices, config.round_s)
    return config.round_s or deadline_on_one_machine(learning, config.min_devices, os.cpu_count() or 1)


def _last_replacement(curve: list[Version]) -> int:
    """The newest version that completed no round: a model that was rolled out, or the first."""
    replacements = [version.version for before, version in pairwise(curve) if version.round == before.round]
    return replacements[-1] if replacements else 0


def _weights_before(curve: list[Version], store: ModelStore) -> dict[str, Array] | None:
    """Weights of the version before the newest, which server momentum goes on from; None: it begins anew."""
    if len(curve) < 2 or _last_replacement(curve) == curve[-1].version:
        return None
    try:
        return store.get(curve[-2].digest).weights
    except WorldError as error:
        log.warning("server momentum begins anew: %s", error)
        return None


def _raise(error: Exception) -> None:
    raise error


def _on_loop(loop: Loop, action: Any) -> Any:
    """Run an action on the loop's thread and wait for what it returns or raises."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked for
            future.set_exception(error)

    loop.post(run)
    try:
        return future.result(timeout=30.0)
    except FutureTimeoutError as error:
        raise WorldError("the coordinator is busy; try again") from error


def _curve(database: Database, run: str) -> list[dict[str, Any]]:
    return [
        {
            "version": version.version,
            "round": version.round,
            "accuracy": version.accuracy,
            "loss": version.loss,
            "wall_s": version.wall_s,
            "num_updates": version.num_updates,
        }
        for version in database.curve(run)
    ]


def _plain(config: CoordinatorConfig) -> dict[str, Any]:
    learning = msgspec.to_builtins(asdict(config.learning), enc_hook=str)  # str: of a Path
    return {"learning": learning, "min_devices": config.min_devices, "round_s": config.round_s}


def _write_report(state: Path, report: dict[str, Any]) -> None:
    unfinished = state / f"{REPORT}.unfinished"
    unfinished.write_text(json.dumps(report), encoding="utf-8")
    unfinished.replace(state / REPORT)
