"""`edgetide models`: list, trace, check and export networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firmware_profiles.errors import UserError

if TYPE_CHECKING:
    from models.graph import ModelGraph
    from models.subnet import Array, DropoutVector
    from models.widths import WidthPlan

# What needs numpy, onnx or torch is imported inside the commands: `edgetide --help` must stay light.
# ruff: noqa: PLC0415

app = typer.Typer(
    rich_markup_mode=None,
    name="models",
    help="List, trace, check and export networks.",
    no_args_is_help=True,
    add_completion=False,
)

_BatchSize = Annotated[int, typer.Option(min=1, help="Samples of a mini-batch, for the memory.")]

_KEEPS = (1.0, 0.75, 0.5, 0.25)
_NUM_CALIBRATED = 512


@app.command("list")
def list_command(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, as the last line.")] = False,
) -> None:
    """List the networks that come with edgetide."""
    from models.zoo import ZOO, load_model

    rows = []
    for name, entry in ZOO.items():
        report = _report(load_model(name)[0], 32)
        rows.append(
            {
                "name": name,
                "description": entry.description,
                "input_shape": list(entry.input_shape),
                "num_classes": entry.num_classes,
                "num_parameters": report["num_parameters"],
                "macs_forward": report["macs_forward"],
                "num_groups": len(report["groups"]),
            }
        )
    if as_json:
        _print_json({"models": rows})
        return
    _print_table(
        ("name", "input", "parameters", "MMAC", "groups", "description"),
        [
            (
                row["name"],
                "x".join(map(str, row["input_shape"])),
                f"{row['num_parameters']:,}",
                f"{row['macs_forward'] / 1e6:.2f}",
                str(row["num_groups"]),
                row["description"],
            )
            for row in rows
        ],
    )


@app.command()
def trace(
    reference: Annotated[str, typer.Argument(metavar="pkg.mod:Name", help="Or ./net.py:Name.")],
    input_shape: Annotated[str, typer.Option("--input", help="Shape of one sample, such as 1,28,28.")],
    output: Annotated[Path, typer.Option(help="The ONNX file to write, or a folder for it.")] = Path(),
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="from Name")] = None,
    batch_size: _BatchSize = 32,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, as the last line.")] = False,
) -> None:
    """Turn a torch module into a model file; its code runs in a child process."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise UserError(
            "models trace runs a network of PyTorch, which is not installed here: install edgetide[torch]"
        )
    from models.onnx_file import to_onnx
    from models.trace import trace_reference

    graph, weights = trace_reference(reference, _shape(input_shape), name)
    path = output / f"{graph.name}.onnx" if output.is_dir() or not output.suffix else output
    _write(path, to_onnx(graph, weights).SerializeToString())
    _show(graph, batch_size, as_json=as_json, extra={"output": str(path)})


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo.")],
    batch_size: _BatchSize = 32,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, as the last line.")] = False,
) -> None:
    """Say whether a model can be trained, its width groups, and what training costs.

    Operators: Conv (1-D, 2-D, depthwise), Gemm/Linear, MatMul, Add, Sub, Mul, Div, Relu, LeakyRelu,
    Clip (ReLU6, Hardtanh), Sigmoid, Tanh, HardSwish, Hardsigmoid, MaxPool, AveragePool,
    GlobalAveragePool, BatchNormalization, ReduceMean, ReduceSum, Reshape, Flatten, Transpose,
    Concat, Softmax; Dropout is left out.
    """
    from models.zoo import load_model

    graph, weights = load_model(model)
    _show(graph, batch_size, as_json=as_json, extra={"has_weights": weights is not None})


@app.command()
def export(
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The ONNX file to write.")],
    model: Annotated[
        str | None,
        typer.Option(help="The network: of the zoo, or an ONNX file (whose weights are the default)."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A safetensors file of trained weights.")] = None,
    state: Annotated[Path | None, typer.Option(help="State folder of a run: its last model.")] = None,
    width: Annotated[
        float | None, typer.Option(help="Share of the channels of each group, 0 < width <= 1.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option(help="Channels to keep of each group, such as 16,32,32.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Which channels: strongest (largest L2 norm) or first.")
    ] = "strongest",
    data: Annotated[
        str | None, typer.Option(help="Data to calibrate batch norm with: a name or a path.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, as the last line.")] = False,
) -> None:
    """Take a trained network out as plain ONNX for inference, whole or narrower."""
    from models.export import export_subnet
    from models.onnx_file import to_onnx
    from models.widths import plan_widths

    if keep not in ("strongest", "first"):
        raise typer.BadParameter("use strongest or first", param_hint="--keep")
    graph, full = _trained(model, weights, state)
    plan = plan_widths(graph)
    chosen = _vector(plan, width, vector)
    sub = export_subnet(plan, full, chosen, keep)  # type: ignore[arg-type]
    statistics = _settle_statistics(graph, plan, sub, chosen, data)
    _write(output, to_onnx(graph, sub).SerializeToString())
    done = {
        "output": str(output),
        "model": graph.name,
        "vector": list(chosen),
        "num_parameters": sum(int(sub[key].size) for key in graph.parameters),
        "statistics": statistics,
    }
    if as_json:
        _print_json(done)
    else:
        typer.echo(
            f"{output}: {graph.name} with {done['num_parameters']:,} parameters, vector {list(chosen)}"
        )


def _trained(
    model: str | None, weights: Path | None, state: Path | None
) -> tuple[ModelGraph, dict[str, Array]]:
    from models.export import GRAPH_FILE, load_weights, newest_weights
    from models.graph import decode
    from models.zoo import load_model

    if weights is not None and state is not None:
        raise typer.BadParameter("give --weights or --state, not both", param_hint="--weights")
    given = None
    if model is not None:
        graph, given = load_model(model)
    elif state is not None and (state / GRAPH_FILE).is_file():
        graph = decode((state / GRAPH_FILE).read_bytes())
    elif state is not None:
        raise UserError(f"{state}: no run has left a network there. Give the folder of a run that has begun")
    else:
        raise typer.BadParameter("say which network the weights are of", param_hint="--model")
    path = newest_weights(state) if state is not None else weights
    if path is not None:
        return graph, load_weights(graph, path)
    if not given:
        raise UserError(f"{model} holds no weights; give --weights FILE.safetensors or --state DIR")
    return graph, given


def _settle_statistics(
    graph: ModelGraph, plan: WidthPlan, sub: dict[str, Array], vector: DropoutVector, data: str | None
) -> str:
    """Batch-norm statistics of the width that leaves: calibrated, or those that were given."""
    import numpy as np

    from models.subnet import full_vector

    if not graph.statistics:
        return "none"
    if data is not None:
        from models.calibrate import calibrate
        from models.data.dataset import load_data, match
        from models.engines.choose import make_engine
        from models.losses import LossSettings

        train = match(load_data(data), graph.input_shape, graph.num_classes).train
        engine = make_engine("auto", graph, LossSettings(), 1)
        used = np.random.Generator(np.random.Philox(key=0)).permutation(len(train))[:_NUM_CALIBRATED]
        parameters = {key: sub[key] for key in graph.parameters}
        batches = (train.batch(used[start : start + 64])[0] for start in range(0, len(used), 64))
        sub.update(calibrate(engine, parameters, batches))
        return "calibrated"
    if not all(key in sub for key in graph.statistics):
        raise UserError(
            f"the weights of {graph.name} have no batch-norm statistics; give --data to calibrate them"
        )
    if vector != full_vector(plan):
        typer.echo(
            "batch-norm statistics are those of the full width, which a narrower network fits badly; "
            "give --data to calibrate them",
            err=True,
        )
        return "of the full width"
    return "as given"


def _vector(plan: WidthPlan, width: float | None, vector: str | None) -> DropoutVector:
    from models.subnet import check_vector, full_vector, uniform_vector

    if width is not None and vector is not None:
        raise typer.BadParameter("give --width or --vector, not both", param_hint="--width")
    if width is not None:
        return uniform_vector(plan, width)
    if vector is None:
        return full_vector(plan)
    try:
        return check_vector(plan, tuple(int(part) for part in vector.split(",")))
    except ValueError:
        raise typer.BadParameter("use whole numbers such as 16,32,32", param_hint="--vector") from None


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise typer.BadParameter(f"{text!r} is no shape; use such as 1,28,28", param_hint="--input")
    return shape


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _report(graph: ModelGraph, batch_size: int) -> dict[str, Any]:
    from models.cost import cost
    from models.graph import digest
    from models.subnet import full_vector, uniform_vector
    from models.widths import plan_widths

    plan = plan_widths(graph)
    full = cost(graph, plan, full_vector(plan), batch_size)
    keeps = []
    for keep in _KEEPS if plan.groups else _KEEPS[:1]:
        vector = uniform_vector(plan, keep)
        at = cost(graph, plan, vector, batch_size)
        keeps.append(
            {
                "keep": keep,
                "vector": list(vector),
                "macs_training": at.macs_training,
                "macs_fraction": round(at.macs_training / full.macs_training, 4)
                if full.macs_training
                else 1.0,
                "num_parameters": at.num_parameters,
                "memory_bytes": at.memory_bytes,
            }
        )
    return {
        "model": graph.name,
        "digest": digest(graph),
        "input_shape": list(graph.input_shape),
        "num_classes": graph.num_classes,
        "num_parameters": full.num_parameters,
        "macs_forward": full.macs_forward,
        "groups": [{"name": group.name, "num_channels": group.num_channels} for group in plan.groups],
        "batch_size": batch_size,
        "keeps": keeps,
    }


def _show(graph: ModelGraph, batch_size: int, *, as_json: bool, extra: dict[str, Any]) -> None:
    report = {**_report(graph, batch_size), **extra}
    if not report["groups"]:
        typer.echo(
            f"{graph.name} has no width groups: nothing of it can shrink, so it always trains whole", err=True
        )
    if as_json:
        _print_json(report)
        return
    typer.echo(
        f"{graph.name}: {'x'.join(map(str, graph.input_shape))} to {graph.num_classes} classes, "
        f"{report['num_parameters']:,} parameters, {report['macs_forward'] / 1e6:.2f} MMAC a sample forward"
    )
    groups = report["groups"]
    typer.echo(
        f"{len(groups)} width groups: " + ", ".join(f"{g['name']} ({g['num_channels']})" for g in groups)
    )
    _print_table(
        ("keep", "training MMAC", "of full", "parameters", f"memory MB, batch {batch_size}"),
        [
            (
                f"{row['keep']:.2f}",
                f"{row['macs_training'] / 1e6:.2f}",
                f"{100 * row['macs_fraction']:.1f} %",
                f"{row['num_parameters']:,}",
                f"{row['memory_bytes'] / 1e6:.1f}",
            )
            for row in report["keeps"]
        ],
    )
    if "output" in extra:
        typer.echo(f"written: {extra['output']}")


def _print_json(report: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(report) + "\n")


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
