"""The live agent: builds the node with its real ports and runs it until it is told to stop."""

from __future__ import annotations

import logging
import random
import signal
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from device_agent.agent import AgentCore
from device_agent.effects import OpenStream
from device_agent.kept_content import KeptContent
from device_agent.learned_store import FileLearned
from device_agent.live_jobs import Listener, LiveJobs
from device_agent.local_data import DataConfig, LocalData
from device_agent.loop import Loop
from device_agent.node import AgentNode
from device_agent.optimizer_store import FileStore
from device_agent.outbox import Outbox
from device_agent.residual_store import FileResiduals
from device_agent.sensors import Sensors
from device_agent.stored_policy import StoredPolicy
from device_agent.streams.stream import Stream
from device_agent.throttle import be_nice
from device_agent.wire.chunks import Downloads
from device_agent.wire.codec import encode_public
from device_agent.wire.messages import Hello, Status
from device_agent.wire.mqtt import MqttBus
from device_agent.wire.mqtt_options import TlsFiles
from device_agent.wire.partial import PartialFolder
from device_agent.wire.topics import device_topic, down_topic, fleet_topic
from firmware_profiles.errors import UserError
from firmware_profiles.profile import FirmwareProfile
from models.engines.choose import resolve_engine

log = logging.getLogger(__name__)

DATA_S = 2.0
"""How often the data's files are looked at."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What `edgetide agent run` was told.

    Attributes:
        broker: mqtt[s]:// address. tls: certificate files for mqtts. fleet, device: ids.
        data: which samples are this device's.
        profile: what the board is. policy: file with what training may take, or None for the default.
        state: folder that is this agent's alone.
        engine: a name of `models.engines.choose.ENGINE_NAMES`. num_threads: of the engine.
        cohort: file that lists the processes that belong to us on this machine, or None.
    """

    broker: str
    tls: TlsFiles | None
    fleet: str
    device: str
    data: DataConfig
    profile: FirmwareProfile
    policy: Path | None
    state: Path
    engine: str
    num_threads: int
    cohort: Path | None


def run_agent(config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        UserError: engine, data, policy, state folder or broker address cannot be used.
    """
    engine = resolve_engine(config.engine)
    be_nice()
    data = LocalData(config.data)
    if data.live is not None:
        from device_agent.streams.own import check_live  # noqa: PLC0415 - most agents train a network

        check_live(data.live, config.device)
    stored_policy = StoredPolicy(config.state / "policy.yaml", config.policy)
    policy, digest = stored_policy.in_force()
    try:
        config.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"state folder {config.state} cannot be made: {error.strerror}") from error
    sensors = Sensors(cohort_file=config.cohort)
    loop = Loop()
    outbox = Outbox(config.state / "outbox.sqlite", config.device)
    residuals = FileResiduals(
        config.state / "residual.safetensors", lambda digest: outbox.blob(digest) is not None
    )
    snapshot = sensors.read()
    hello = Hello(
        device=config.device,
        boot_epoch=outbox.boot_epoch,
        version=metadata.version("edgetide"),
        profile=config.profile.name,
        engine=engine,
        num_cores=snapshot.num_cores,
        memory_total_bytes=psutil.virtual_memory().total,
        num_samples=data.num_samples,
        input_shape=data.shape,
        num_classes=data.num_classes,
        cpu_share_fraction=policy.max_cpu_share_fraction / snapshot.cohort_size,
        policy_digest=digest,
    )
    # Lambdas, since node is made below: it needs the jobs, and they tell it their news.
    listener = Listener(
        progress=lambda cost: node.job_progress(cost),  # noqa: PLW0108
        paused=lambda pause: node.job_paused(pause),  # noqa: PLW0108
        done=lambda result, busy_s, wall_s: node.job_done(result, busy_s, wall_s),  # noqa: PLW0108
        failed=lambda reason: node.job_failed(reason),  # noqa: PLW0108
    )
    jobs = LiveJobs(
        profile=config.profile,
        policy=policy,
        data=lambda: data.dataset,
        snapshot=sensors.read,
        engine_kind=engine,
        num_threads=config.num_threads,
        listener=listener,
        post=loop.post,
        store_policy=stored_policy.keep,
        store=FileStore(config.state / "optimizer.safetensors"),
        residuals=residuals,
    )
    will = Status(online=False, boot_epoch=outbox.boot_epoch, reason="lost")
    bus = MqttBus(
        config.broker,
        client_id=f"{config.fleet}/{config.device}",
        tls=config.tls,
        will=(device_topic(config.fleet, config.device, "status"), encode_public(will)),
        on_connect=lambda: loop.post(node.connected),
        on_disconnect=lambda _reason: loop.post(node.disconnected),
    )

    def listen(topic: str) -> None:
        bus.subscribe(topic, lambda topic, payload: loop.post(lambda: node.received(topic, payload)))

    def open_stream(effect: OpenStream) -> Stream:
        from device_agent.streams.own import own_stream  # noqa: PLC0415 - most agents train a network

        data.release()
        return own_stream(
            config.data,
            effect,
            device=config.device,
            timers=loop,
            subscribe=lambda topic, receive: bus.subscribe(
                topic, lambda topic, payload: loop.post(lambda: receive(topic, payload))
            ),
            post=loop.post,
        )

    node = AgentNode(
        fleet=config.fleet,
        core=AgentCore(hello),
        bus=bus,
        outbox=outbox,
        downloads=Downloads(random.Random(), store=PartialFolder(config.state / "downloads")),
        timers=loop,
        jobs=jobs,
        snapshot=sensors.read,
        kept=KeptContent(config.state / "bundles"),
        residuals=residuals,
        learned=FileLearned(config.state / "prototypes.safetensors"),
        streams=open_stream,
        listen=listen,
    )

    def look_at_data() -> None:
        try:
            if data.refresh():
                node.data_changed(data.num_samples)
        except UserError as error:
            log.warning("local data not reloaded: %s", error)
        loop.set_timer("data", DATA_S, look_at_data)

    for topic in (
        fleet_topic(config.fleet, "run"),
        down_topic(config.fleet, config.device),
        down_topic(config.fleet, config.device, bulk=True),
    ):
        listen(topic)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    log.info("agent %s starts: %d samples, profile %s", config.device, data.num_samples, config.profile.name)
    node.disconnected()  # until the bus says otherwise
    node.start()
    bus.start()
    look_at_data()
    try:
        loop.run()
    finally:
        node.leave("stopped")
        bus.close()
        outbox.close()
