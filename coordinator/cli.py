"""The `edgetide` command. Subcommands import what they need when they run, so that --help stays light."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from coordinator.comparing.cli import compare_command
from coordinator.options import (
    BarrierSeconds,
    Compression,
    Data,
    Devices,
    Engine,
    Engines,
    Fresh,
    GossipFile,
    Json,
    Model,
    OptimizerName,
    Partition,
    Passes,
    PlanFile,
    Port,
    Rate,
    Rounds,
    RoundSeconds,
    SampleSeconds,
    Seed,
    State,
    Strategy,
    Table,
    TopologyName,
)
from device_agent.cli import DEFAULT_BROKER, Broker, CaFile, CertFile, KeyFile, tls_files
from device_agent.cli import app as agent_app
from device_agent.logs import set_up_logs
from dse.cli import app as dse_app
from firmware_profiles.errors import EdgetideError
from firmware_profiles.state import default_state
from models.cli import app as models_app

DEFAULT_DATA = "fashion-mnist-small"

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Training that rises and falls with the device: federated learning over MQTT on small boards.",
)
coordinator_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The coordinator: rounds, aggregation, dashboard."
)
sim_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="The same fleet on a virtual clock and a modelled network.",
)
app.add_typer(agent_app, name="agent")
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(dse_app, name="dse")
app.add_typer(sim_app, name="sim")
app.add_typer(models_app, name="models")


@app.command()
def up(
    devices: Devices = 4,
    rounds: Rounds = None,
    strategy: Strategy = "distreal",
    model: Model = "cnn-28",
    data: Data = DEFAULT_DATA,
    broker: Annotated[str, typer.Option(help="auto, mosquitto, embedded or mqtt[s]://…")] = "auto",
    engine: Engines = "auto",
    port: Port = 8080,
    seed: Seed = 0,
    table: Table = None,
    passes: Passes = 4.0,
    round_seconds: RoundSeconds = "auto",
    optimizer: OptimizerName = "sgd",
    learning_rate: Rate = None,
    compression: Compression = "none",
    topology: TopologyName = None,
    barrier_seconds: BarrierSeconds = None,
    sample_seconds: SampleSeconds = None,
    gossip: GossipFile = None,
    partition: Partition = "iid",
    plan: PlanFile = None,
    faults: Annotated[
        Path | None,
        typer.Option(help="Scenario file whose devices' names, networks and faults the agents have."),
    ] = None,
    state: State = None,
    fresh: Fresh = False,  # noqa: FBT002 - a flag
    leave: Annotated[bool, typer.Option("--exit", help="End when the run is finished.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Start a whole fleet on this machine: broker, coordinator, agents, web page."""
    from coordinator.method import (  # noqa: PLC0415
        check_compression,
        default_rounds,
        read_gossip,
        read_topology,
        resolve_method,
    )
    from coordinator.settings import read_compression, read_optimizer  # noqa: PLC0415
    from coordinator.up import UpConfig, run_up  # noqa: PLC0415

    _round_seconds(round_seconds)  # the coordinator reads these; a mistake is told before it is started
    read_optimizer(optimizer)
    peers = {} if barrier_seconds is None else {"barrier_s": barrier_seconds}
    of_streams = read_gossip(gossip, sample_seconds)
    method = resolve_method(strategy, peers=peers, gossip=of_streams, topology=read_topology(topology))
    check_compression(method, read_compression(compression))
    report = run_up(
        UpConfig(
            devices=devices,
            rounds=default_rounds(method) if rounds is None else rounds,
            strategy=strategy,
            model=model,
            data=data,
            broker=broker,
            engine=engine,
            port=port,
            seed=seed,
            table=table,
            passes=passes,
            round_seconds=round_seconds,
            optimizer=optimizer,
            learning_rate=learning_rate,
            compression=compression,
            topology=topology,
            barrier_s=barrier_seconds,
            sample_s=sample_seconds,
            gossip=gossip,
            partition=partition,
            plan=plan,
            faults=faults,
            state=state or default_state("up"),
            fresh=fresh,
            exit_when_finished=leave,
        )
    )
    if as_json:
        typer.echo(json.dumps(report))


@coordinator_app.command("run")
def run_command(
    broker: Broker = DEFAULT_BROKER,
    ca: CaFile = None,
    cert: CertFile = None,
    key: KeyFile = None,
    broker_description: Annotated[
        str, typer.Option(help="What the page calls the broker.", hidden=True)
    ] = "",
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "edgetide",
    devices: Annotated[int, typer.Option(min=1, help="Devices that must be online to begin a round.")] = 1,
    devices_per_round: Annotated[
        int | None,
        typer.Option(min=1, help="Devices that get an order in a round, drawn anew; all if not given."),
    ] = None,
    rounds: Rounds = None,
    strategy: Strategy = "distreal",
    model: Model = "cnn-28",
    data: Data = DEFAULT_DATA,
    engine: Engine = "auto",
    host: Annotated[str, typer.Option(help="Address of the web page; it has no passwords.")] = "127.0.0.1",
    port: Port = 8080,
    seed: Seed = 0,
    table: Table = None,
    passes: Passes = 4.0,
    round_seconds: RoundSeconds = "60",
    optimizer: OptimizerName = "sgd",
    learning_rate: Rate = None,
    compression: Compression = "none",
    topology: TopologyName = None,
    barrier_seconds: BarrierSeconds = None,
    sample_seconds: SampleSeconds = None,
    gossip: GossipFile = None,
    plan: PlanFile = None,
    state: State = None,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL; a file in the state folder by default.")
    ] = None,
    fresh: Fresh = False,  # noqa: FBT002
    leave: Annotated[bool, typer.Option("--exit", help="End when the run is finished.")] = False,  # noqa: FBT002
    keep_finished: Annotated[  # noqa: FBT002
        bool, typer.Option("--keep-finished", help="After a crash show the reported run.", hidden=True)
    ] = False,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Run the rounds of a fleet over a broker that is already there."""
    from coordinator.method import default_rounds, read_gossip, read_topology, resolve_method  # noqa: PLC0415
    from coordinator.planning.plan_file import plan_learning  # noqa: PLC0415
    from coordinator.runtime import CoordinatorConfig, run_coordinator  # noqa: PLC0415
    from coordinator.settings import LearningConfig, read_compression, read_optimizer  # noqa: PLC0415
    from device_agent.wire.topics import check_id  # noqa: PLC0415

    set_up_logs()
    learning = LearningConfig(
        model=model,
        data=data,
        strategy=strategy,
        table=table,
        engine=engine,
        seed=seed,
        num_rounds=default_rounds(resolve_method(strategy)) if rounds is None else rounds,
        passes=passes,
        optimizer=read_optimizer(optimizer),
        learning_rate=learning_rate,
        compression=read_compression(compression),
        peers={} if barrier_seconds is None else {"barrier_s": barrier_seconds},
        gossip=read_gossip(gossip, sample_seconds),
        topology=read_topology(topology),
    )
    report = run_coordinator(
        CoordinatorConfig(
            broker=broker,
            tls=tls_files(ca, cert, key),
            broker_description=broker_description or broker.rpartition("@")[2],
            fleet=check_id(fleet, "fleet"),
            learning=learning if plan is None else plan_learning(learning, plan),
            min_devices=devices,
            devices_per_round=devices_per_round,
            round_s=_round_seconds(round_seconds),
            host=host,
            port=port,
            state=state or default_state("coordinator"),
            database=database,
            fresh=fresh,
            exit_when_finished=leave,
            keep_finished=keep_finished,
        )
    )
    if as_json:
        typer.echo(json.dumps(report))


@coordinator_app.command()
def rollout(
    file: Annotated[Path, typer.Argument(help="Policy or table (.yaml), or model (.safetensors).")],
    state: Annotated[
        Path | None, typer.Option(help="State folder of the coordinator; that of `up` by default.")
    ] = None,
) -> None:
    """Put a policy, table or model in force on the running devices."""
    from coordinator.control import ask  # noqa: PLC0415
    from coordinator.rollout import read_rollout  # noqa: PLC0415

    typer.echo(ask(state or default_state("up") / "coordinator", read_rollout(file), str(file)))


@sim_app.command("run")
def sim_run(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, overrides the file.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the scenario's seed.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="What `edgetide dse plan` recommends for this scenario; before --set.")
    ] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Run a scenario on the virtual clock. The same seed gives the same result."""
    from coordinator.planning.plan_file import plan_overrides  # noqa: PLC0415
    from coordinator.twins.sim_cli import run_scenario_command  # noqa: PLC0415

    planned = [] if plan is None else plan_overrides(scenario, plan)
    run_scenario_command(scenario, [*planned, *(overrides or [])], seed, as_json=as_json)


sim_app.command("compare")(compare_command)


@dse_app.command("plan")
def dse_plan(
    fleet: Annotated[Path, typer.Argument(help="Scenario file (YAML) of the fleet.")],
    out: Annotated[
        Path | None, typer.Option(help="The plan file to write.", show_default="beside the scenario")
    ] = None,
    budget_fraction: Annotated[
        float, typer.Option(min=0.001, max=100.0, help="Training of all simulations over that of the run.")
    ] = 0.15,
    methods: Annotated[str, typer.Option(help="default, or all: with the published methods.")] = "default",
    candidates: Annotated[
        Path | None, typer.Option(help="YAML file of candidates: name: {key of a scenario: value, …}.")
    ] = None,
    num_first: Annotated[int, typer.Option("--first", min=1, help="Candidates simulated at first.")] = 12,
    min_rounds: Annotated[
        int | None, typer.Option(min=1, help="Of the shortest simulation.", show_default="by the fleet")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices a round of a simulation.", show_default="by the budget")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the scenario's seed.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at a time.", show_default="the cores")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Interactive plot to write.")] = None,
    png: Annotated[Path | None, typer.Option(help="Plot to write.")] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Choose what a fleet should run: short simulations of it, measured on held-out training samples.

    The test part of the data is not used. The same command goes on after an interruption.
    """
    from coordinator.planning.plan_cli import plan_command  # noqa: PLC0415
    from coordinator.planning.planned_fleet import PlanSettings  # noqa: PLC0415

    settings = PlanSettings(
        budget_fraction=budget_fraction,
        devices_per_round=devices,
        min_rounds=min_rounds,
        num_first=num_first,
        seed=seed,
    )
    plan_command(
        fleet,
        settings,
        out=out,
        candidates=candidates,
        methods=methods,
        num_workers=workers,
        html=html,
        png=png,
        as_json=as_json,
    )


def _round_seconds(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise typer.BadParameter(
            f"{text!r} is neither auto nor seconds above 0", param_hint="--round-seconds"
        )
    return seconds


def main() -> None:
    """Run the command line: exit 0 success, 1 failure with one clear line, 2 wrong usage."""
    try:
        app()
    except EdgetideError as error:
        sys.stderr.write(f"edgetide: error: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of stdout went away; nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
