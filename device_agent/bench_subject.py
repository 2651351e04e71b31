"""What `edgetide agent bench` times: a network with its table, and a mini-batch for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError, UserError
from models.bundle import Bundle, TrainingSettings
from models.bundle import decode as decode_bundle
from models.data.dataset import DataSplit, load_data, match
from models.graph import digest as graph_digest
from models.subnet import Array
from models.table import find_fault, load_table, uniform_table
from models.widths import plan_widths
from models.zoo import ZOO, load_model, shipped_table
from models.zoo.bundles import shipped_bundle

FRACTIONS = tuple(round(0.15 + 0.05 * step, 2) for step in range(18))
"""Keep fractions of the table of a network that has none."""


def load_subject(model: str, table: Path | None, data: DataSplit | None) -> Bundle:
    """A network with its table, as a coordinator would send it.

    Args:
        model: a network of the zoo, an ONNX file, or a bundle (a board that was in a fleet keeps some).
            A board without the package onnx can take a bundle, or the zoo's networks that ship as one.
        table: a table file; None: the model's own, or uniform keep fractions.
        data: decides input shape and classes of a network of the zoo; None: its default ones.

    Raises:
        UserError: model or table cannot be read, or do not fit each other or the data.
    """
    bundle = _load(model, data)
    if table is not None:
        given = load_table(table)
        if fault := find_fault(given, graph_digest(bundle.graph), bundle.plan):
            raise UserError(f"table {table}: {fault}")
        bundle = msgspec.structs.replace(bundle, table=given)
    return bundle


def make_mini_batch(
    bundle: Bundle, data: DataSplit | None, seed: int = 0
) -> tuple[Array, dict[str, NDArray]]:
    """Inputs float32 [batch_size, *input_shape] and targets: of the data, or random ones.

    Raises:
        UserError: the data does not fit the network, or has fewer samples than a mini-batch.
    """
    graph, size = bundle.graph, bundle.table.batch_size
    if data is None:
        random = np.random.default_rng(seed)
        inputs = random.standard_normal((size, *graph.input_shape)).astype(np.float32)
        labels = random.integers(0, graph.num_classes, size)
    else:
        train = match(data, graph.input_shape, graph.num_classes).train
        if len(train) < size:
            raise UserError(f"{data.name}: {len(train)} samples are less than a mini-batch of {size}")
        inputs, labels = train.batch(slice(0, size))
    targets = {
        "labels": labels,
        "values": np.zeros((size, graph.num_classes), np.float32),
        "teacher_logits": np.zeros((size, graph.num_classes), np.float32),
    }
    return inputs, targets


def load_samples(name_or_path: str | None) -> DataSplit | None:
    """The data to time with; None: random numbers of the right shape.

    Raises:
        UserError: it cannot be loaded.
    """
    return None if name_or_path is None else load_data(name_or_path)


def _load(model: str, data: DataSplit | None) -> Bundle:
    path = Path(model)
    if model not in ZOO and path.is_file() and path.suffix != ".onnx":
        try:
            return decode_bundle(path.read_bytes())
        except (OSError, PeerError) as error:
            raise UserError(
                f"{model} is neither an ONNX file (*.onnx) nor a bundle that can be used: {error}"
            ) from error
    shape = None if data is None else data.train.shape
    classes = None if data is None else data.train.num_classes
    if data is None and (shipped := shipped_bundle(model)) is not None:
        return shipped
    graph, _ = load_model(model, shape, classes)
    plan = plan_widths(graph)
    table = shipped_table(model)
    settings = TrainingSettings()
    if table is None or find_fault(table, graph_digest(graph), plan):
        table = uniform_table(graph, plan, settings.batch_size, FRACTIONS)
    return Bundle(graph=graph, plan=plan, table=table, settings=settings)
