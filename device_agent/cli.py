"""`edgetide agent …`: what runs on the device."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

import typer

from device_agent.bench_cli import bench
from device_agent.logs import set_up_logs
from device_agent.profile_cli import profile
from device_agent.wire.mqtt_options import TlsFiles
from firmware_profiles.state import default_state

DEFAULT_BROKER = "mqtt://127.0.0.1:1883"
Broker = Annotated[
    str,
    typer.Option(
        envvar="EDGETIDE_BROKER",
        help="mqtt[s]://[user:password@]host[:port]; a password is safer in the environment than here.",
    ),
]
CaFile = Annotated[Path | None, typer.Option("--ca", help="mqtts: PEM file of the authorities to trust.")]
CertFile = Annotated[Path | None, typer.Option("--cert", help="mqtts: PEM file of our certificate.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="mqtts: PEM file of its key.")]

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="The agent on a device: senses, chooses, trains, reports.",
)
app.command("profile")(profile)
app.command("bench")(bench)


def tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    """What --ca, --cert and --key name; None if none of them was given."""
    if ca is None and cert is None and key is None:
        return None
    names = (None if path is None else str(path) for path in (ca, cert, key))
    return TlsFiles(**dict(zip(("ca_file", "cert_file", "key_file"), names, strict=True)))


@app.command()
def run(
    broker: Broker = DEFAULT_BROKER,
    ca: CaFile = None,
    cert: CertFile = None,
    key: KeyFile = None,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "edgetide",
    device: Annotated[
        str | None, typer.Option("--id", help="Id of this device; its host name by default.")
    ] = None,
    data: Annotated[
        str, typer.Option(help="Local training data: a name, a path, or a live stream (mqtt:…, command:…).")
    ] = "fashion-mnist-small",
    shard: Annotated[str | None, typer.Option(help="Train on part INDEX/COUNT of the data only.")] = None,
    partition: Annotated[
        str, typer.Option(help="How parts are made: iid, dirichlet:A, shards:K, classes:K, owner.")
    ] = "iid",
    seed: Annotated[int, typer.Option(min=0, help="Decides split and parts.")] = 0,
    board: Annotated[
        str | None, typer.Option("--profile", help="Firmware profile; detected by default.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML file with what training may take.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder for outbox and rolled-out policy.")] = None,
    engine: Annotated[str, typer.Option(help="auto, torch, onnx, ort-training or numpy.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 1,
    cohort: Annotated[
        Path | None, typer.Option(help="File that lists our other processes on this machine (`edgetide up`).")
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Join a fleet and train whenever the coordinator asks and the policy allows."""
    from device_agent.local_data import DataConfig, parse_shard  # noqa: PLC0415 - keeps --help light
    from device_agent.runtime import AgentConfig  # noqa: PLC0415
    from device_agent.service import Service, become  # noqa: PLC0415
    from device_agent.wire.topics import check_id  # noqa: PLC0415
    from firmware_profiles.profile import detect_profile, load_profile  # noqa: PLC0415

    set_up_logs(log_level)
    device_id = check_id(device or re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:64].strip("-"))
    config = AgentConfig(
        broker=broker,
        tls=tls_files(ca, cert, key),
        fleet=check_id(fleet, "fleet"),
        device=device_id,
        data=DataConfig(
            source=data, shard=None if shard is None else parse_shard(shard), scheme=partition, seed=seed
        ),
        profile=detect_profile() if board is None else load_profile(board),
        policy=policy,
        state=state or default_state("agents") / device_id,
        engine=engine,
        num_threads=threads,
        cohort=cohort,
    )
    become(Service(config, log_level))
