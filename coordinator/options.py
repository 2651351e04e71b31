"""Options that several commands of `edgetide` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Devices = Annotated[int, typer.Option(min=1, max=256, help="Number of device agents.")]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of aggregations; without a server, of barriers; of streams, passes.",
        show_default="8, of streams 1",
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        help="How the fleet learns: distreal, distreal-paper, full, drop, small, heterofl, fjord, fjord-kd, "
        "fedrolex, feddrop, fiarse, uniform, async; without a server: dsgd, dsgd-paper, dsgd-discard, "
        "dsgd-synchronous, ad-psgd, swift, epidemic; prototypes of streams: gossip, gossip-paper."
    ),
]
Model = Annotated[str, typer.Option(help="Zoo name or ONNX file (see `edgetide models list`).")]
Data = Annotated[
    str,
    typer.Option(
        help="Data set: name, idx, npz, CSV, image or WAV folder; a live stream: mqtt:TOPIC?… or command:…?…"
    ),
]
Engine = Annotated[str, typer.Option(help="auto, torch, onnx, ort-training or numpy.")]
Engines = Annotated[
    str,
    typer.Option(
        help="auto, torch, onnx, ort-training or numpy; several, as in onnx,torch, for a mixed fleet."
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the web page; 0 for any free one.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides weights, data split and orders.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object on stdout.")]
Table = Annotated[Path | None, typer.Option(help="Pareto table; the shipped or a uniform one by default.")]
Passes = Annotated[float, typer.Option(min=0.01, help="Passes over the local data per round.")]
RoundSeconds = Annotated[
    str, typer.Option(help="Seconds per round, or auto: what devices on this machine need.")
]
OptimizerName = Annotated[
    str, typer.Option("--optimizer", help="sgd, adamw, or a YAML file (see docs/models.md).")
]
Rate = Annotated[
    float | None, typer.Option(min=0.0, help="Learning rate of the first round; the optimiser's by default.")
]
Compression = Annotated[
    str,
    typer.Option(
        help="How updates, or exchanged weights, are written: none, float16, int8, top-k or random-mask."
    ),
]
TopologyName = Annotated[
    str | None,
    typer.Option(
        "--topology",
        help="Neighbours where there is no server: random, ring, grid, geometric[:RADIUS], full, or an edge "
        "list.",
    ),
]
BarrierSeconds = Annotated[
    float | None, typer.Option(min=0.001, help="Seconds between two barriers of a strategy without a server.")
]
SampleSeconds = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Seconds between two samples of a device where a stored stream is replayed.",
        show_default="0.01",
    ),
]
GossipFile = Annotated[
    Path | None,
    typer.Option("--gossip", help="How devices learn from streams, a YAML file (see docs/gossip.md)."),
]
Partition = Annotated[
    str, typer.Option(help="How data is dealt out: iid, dirichlet:A, shards:K, classes:K, owner.")
]
State = Annotated[Path | None, typer.Option(help="Folder that keeps the run.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin a new run instead of resuming.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="What `edgetide dse plan` recommends goes before other options.")
]
