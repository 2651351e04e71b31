"""What a run learns and how: from names and options to a checked, frozen plan."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.method import check_compression, loss_of, resolve_method
from coordinator.strategies.halves import coordinator_half
from coordinator.strategies.presets import EVEN, PRESETS, Preset
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.gossip.sets import check_size
from firmware_profiles.errors import UserError
from firmware_profiles.strict import load_strict
from models.bundle import Bundle, TrainingSettings
from models.compression.settings import CompressionSettings
from models.data.batches import shuffled_batches
from models.data.dataset import DataSplit, load_data, match
from models.data.live import empty_dataset, parse_live
from models.data.stream import load_stream
from models.engines.choose import make_engine, resolve_engine
from models.factors import class_tensors
from models.gossip_settings import GossipSettings
from models.graph import ModelGraph
from models.graph import digest as graph_digest
from models.narrow import narrow
from models.optim.optimizer import Optimizer
from models.optim.schedules import learning_rate_at
from models.optim.settings import OptimizerSettings
from models.prototypes.classifier import NUM_PLACES, no_weights, prototype_graph
from models.step import training_step
from models.subnet import Array, cut, full_subnet, ordered_subnet, uniform_vector
from models.table import ParetoTable, find_fault, load_table, uniform_table
from models.widths import plan_widths
from models.zoo import ZOO, initial_weights, load_model, shipped_table

OPTIMIZERS = {
    "sgd": OptimizerSettings(weight_decay=1e-4, clip_norm=5.0, schedule="cosine"),
    "adamw": OptimizerSettings(method="adamw", weight_decay=0.01, clip_norm=5.0, schedule="cosine"),
}
"""What the names of `--optimizer` mean; both rates fall along a cosine over the rounds."""

MAX_CLASSES = 256
"""Of a stream: a report counts each pair of them."""

_LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**53),
    "num_rounds": (1, 10**6),
    "passes": (0.01, 1e4),
    "batch_size": (1, 2**20),
    "learning_rate": (1e-9, 1e3),
}


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """What the user asked a run to learn.

    Attributes:
        model: zoo name or ONNX file; of no use to a method that learns from streams.
        data: name or path, or, for such a method, a live source.
        strategy: key of PRESETS. table: file, or None for the shipped or a uniform one.
        engine: the coordinator's own, which measures; devices have theirs.
        seed: of initial weights, data split and orders.
        num_rounds: aggregations; of a method with peers, barriers; of one of streams, passes.
        passes: over the local data per round.
        batch_size: of local training.
        optimizer: of local training; its schedule counts rounds.
        learning_rate: replaces the optimiser's if given.
        base_width: keep fraction of every width group of the network that is learned; None: the strategy's.
        levels: keep fractions of a uniform table; None: the strategy's. A table file goes before them.
        subnets, averages, peers, gossip, topology: fields of the strategy's SubnetSettings,
            AverageSettings, PeerSettings, GossipSettings and TopologySettings to be replaced.
        asynchrony: fields of AsyncSettings; given at all, the method goes without rounds.
        compression: of the updates.
    """

    model: str
    data: str
    strategy: str = "distreal"
    table: Path | None = None
    engine: str = "auto"
    seed: int = 0
    num_rounds: int = 8
    passes: float = 4.0
    batch_size: int = 32
    optimizer: OptimizerSettings = OPTIMIZERS["sgd"]
    learning_rate: float | None = None
    base_width: float | None = None
    levels: tuple[float, ...] | None = None
    subnets: Mapping[str, Any] = field(default_factory=dict)
    averages: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[str, Any] = field(default_factory=dict)
    gossip: Mapping[str, Any] = field(default_factory=dict)
    topology: Mapping[str, Any] = field(default_factory=dict)
    asynchrony: Mapping[str, Any] | None = None
    compression: CompressionSettings = field(default_factory=CompressionSettings)


@dataclass(frozen=True)
class Learning:
    """A LearningConfig made concrete.

    Attributes:
        config: what was asked for.
        bundle: what devices get. weights: of version 0.
        data: train for calibration (and for devices that share it), test to measure on.
        method: of the strategy, with what the config replaces.
        whole: the network of width 1, of which the bundle's is `method.base_width`.
        label_delay: samples of a device's stream that come before a sample's label.
    """

    config: LearningConfig
    bundle: Bundle
    weights: dict[str, Array]
    data: DataSplit
    method: Preset = PRESETS["distreal"]
    whole: ModelGraph | None = None
    label_delay: int = 0

    @property
    def strategy(self) -> CoordinatorStrategy:
        """The coordinator half that averages as the method says."""
        return coordinator_half(self.method)

    @property
    def graph_digest(self) -> str:
        """Digest of the network."""
        return graph_digest(self.bundle.graph)

    @property
    def window(self) -> int:
        """What one round of the coordinator counts for: the barriers between two reports, 1 without peers."""
        return 1 if self.method.peers is None else self.method.peers.window

    @property
    def num_windows(self) -> int:
        """How many of the coordinator's rounds count for one: the reports of a pass over a stream, else 1."""
        return 1 if self.method.gossip is None else self.method.gossip.windows

    @property
    def num_rounds(self) -> int:
        """The coordinator's rounds."""
        return -(-self.config.num_rounds // self.window) * self.num_windows

    def learning_rates(self) -> tuple[float, ...]:
        """One per round of the coordinator, along the optimiser's schedule; none where nothing has a rate."""
        if self.method.gossip is not None:
            return ()
        optimizer = self.bundle.settings.optimizer
        return tuple(learning_rate_at(optimizer, index * self.window) for index in range(self.num_rounds))


def prepare_learning(config: LearningConfig) -> Learning:
    """Load data and model and put the bundle together.

    Raises:
        UserError: something named does not exist, cannot be read, or does not fit the rest; or the engine
            is not installed here.
    """
    resolve_engine(config.engine)
    method = resolve_method(
        config.strategy,
        base_width=config.base_width,
        levels=config.levels,
        subnets=config.subnets,
        averages=config.averages,
        peers=config.peers,
        gossip=config.gossip,
        topology=config.topology,
        asynchrony=config.asynchrony,
    )
    _check_numbers(config)
    if method.gossip is not None:
        return _of_stream(config, method, method.gossip)
    if parse_live(config.data) is not None:
        raise UserError(
            f"data {config.data!r} is live, and strategy {config.strategy} trains on stored samples"
        )
    data = load_data(config.data, config.seed)
    # A network of the zoo is made to fit the data; a file is what it is.
    fit = (data.train.shape, data.train.num_classes) if config.model in ZOO else (None, None)
    whole, given = load_model(config.model, *fit)
    data = match(data, whole.input_shape, whole.num_classes)
    graph = narrow(whole, method.base_width)
    # A file's batch-norm statistics stay behind: they are measured anew for each version.
    weights = initial_weights(graph, config.seed) if given is None else _first_channels(whole, given, method)
    return Learning(config, _bundle(config, method, graph), weights, data, method, whole)


def _of_stream(config: LearningConfig, method: Preset, gossip: GossipSettings) -> Learning:
    """A run that learns prototypes: its network is one of prototypes, and nothing is held out."""
    live = parse_live(config.data)
    stored = None if live is not None else load_stream(config.data, config.seed)
    samples = stored.dataset if stored is not None else empty_dataset(live) if live is not None else None
    assert samples is not None
    if samples.num_classes > MAX_CLASSES:
        raise UserError(f"{config.data}: {samples.num_classes} classes; a report has room for {MAX_CLASSES}")
    try:
        method = msgspec.structs.replace(
            method, gossip=msgspec.structs.replace(gossip, passes=config.num_rounds)
        )
    except msgspec.ValidationError as error:
        raise UserError(f"gossip: {error}") from None
    check_compression(method, config.compression)
    if gossip.shares == "sets":
        try:
            check_size(gossip.sets, gossip.ilvq.max_prototypes, math.prod(samples.shape))
        except ValueError as error:
            raise UserError(f"{config.data}: {error}") from None
    graph = prototype_graph(samples.shape, samples.num_classes, NUM_PLACES)
    plan = plan_widths(graph)
    bundle = Bundle(
        graph=graph,
        plan=plan,
        table=uniform_table(graph, plan, 1, (1.0,)),
        settings=TrainingSettings(batch_size=1, gossip=method.gossip),
    )
    names = live.class_names if live is not None else None if stored is None else stored.class_names
    data = DataSplit(samples, samples, config.data, names)
    delay = 0 if stored is None else stored.label_delay
    return Learning(config, bundle, no_weights(graph), data, method, graph, delay)


def _bundle(config: LearningConfig, method: Preset, graph: ModelGraph) -> Bundle:
    from models.gradients.build import build_artifacts  # noqa: PLC0415 - it imports onnx, as load_model does

    if method.subnets.mask_absent_classes:
        class_tensors(graph)
    plan = plan_widths(graph)
    table = _table(config, method, graph_digest(graph)) or uniform_table(
        graph, plan, config.batch_size, method.levels or EVEN
    )
    if fault := find_fault(table, graph_digest(graph), plan):
        raise UserError(f"table {config.table or table.source}: {fault}")
    check_compression(method, config.compression)
    settings = TrainingSettings(
        batch_size=config.batch_size,
        loss=loss_of(method.subnets),
        optimizer=_optimizer(config),
        subnets=method.subnets,
        compression=config.compression,
        peers=method.peers,
    )
    return Bundle(
        graph=graph,
        plan=plan,
        table=table,
        settings=settings,
        artifacts=build_artifacts(graph, settings.loss),
    )


def _first_channels(graph: ModelGraph, weights: Mapping[str, Array], method: Preset) -> dict[str, Array]:
    """The weights of a file, as far as the narrower network has their channels."""
    plan = plan_widths(graph)
    parameters = {name: weights[name] for name in graph.parameters}
    return cut(plan, parameters, ordered_subnet(plan, uniform_vector(plan, method.base_width)))


def read_optimizer(text: str) -> OptimizerSettings:
    """The optimiser that an option names: a key of OPTIMIZERS or a YAML file of OptimizerSettings' keys.

    Raises:
        UserError: it is neither, or the file does not fit.
    """
    if text in OPTIMIZERS:
        return OPTIMIZERS[text]
    if "/" in text or "." in text:
        return load_strict(text, OptimizerSettings)
    raise UserError(f"optimizer {text!r} is unknown: choose {', '.join(OPTIMIZERS)} or name a YAML file")


def read_compression(scheme: str) -> CompressionSettings:
    """The compression that an option names, with its settings' defaults.

    Raises:
        UserError: nothing is called so.
    """
    try:
        return msgspec.convert({"scheme": scheme}, CompressionSettings)
    except msgspec.ValidationError:
        schemes = get_args(get_type_hints(CompressionSettings)["scheme"])
        raise UserError(f"compression {scheme!r} is unknown: choose {', '.join(schemes)}") from None


def _optimizer(config: LearningConfig) -> OptimizerSettings:
    """The optimiser with the numbers that the run decides."""
    changes: dict[str, float] = {}
    if config.learning_rate is not None:
        changes["learning_rate"] = config.learning_rate
    if config.optimizer.schedule == "cosine" and config.optimizer.total is None:
        changes["total"] = config.num_rounds
    try:
        return msgspec.structs.replace(config.optimizer, **changes)
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error


def _check_numbers(config: LearningConfig) -> None:
    for name, (low, high) in _LIMITS.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} is {value}: give {low:g} to {high:g}")


def _table(config: LearningConfig, method: Preset, digest: str) -> ParetoTable | None:
    if config.table is not None:
        return load_table(config.table)
    if method.levels is not None:
        return None
    table = shipped_table(config.model)
    return table if table is not None and table.graph_digest == digest else None


def seconds_of_a_full_step(learning: Learning, num_steps: int = 4) -> float:
    """Seconds of one core that the full network's mini-batch takes on this machine (the fastest of a few)."""
    bundle = learning.bundle
    engine = make_engine(learning.config.engine, bundle.graph, bundle.settings.loss, 1, bundle.artifacts)
    weights = {name: value.copy() for name, value in learning.weights.items()}
    logits = np.zeros((bundle.settings.batch_size, bundle.graph.num_classes), np.float32)
    optimizer, subnet = Optimizer(bundle.settings.optimizer), full_subnet(bundle.plan)
    stream = shuffled_batches(len(learning.data.train), bundle.settings.batch_size, learning.config.seed)
    seconds = []
    for _ in range(num_steps):
        inputs, labels = learning.data.train.batch(next(stream))
        began_s = time.process_time()
        targets: dict[str, NDArray] = {"labels": labels, "teacher_logits": logits[: len(labels)]}
        training_step(engine, bundle.plan, weights, optimizer, subnet, inputs, targets)
        seconds.append(time.process_time() - began_s)
    return min(seconds)


def deadline_on_one_machine(learning: Learning, num_devices: int, num_cores: int) -> float:
    """Seconds per round in which devices that share this machine just about afford the full network.

    A tenth more than that, so that what the machine does besides does not shrink every network at once.
    """
    samples = len(learning.data.train) / num_devices
    num_batches = max(1, round(-(-samples // learning.config.batch_size) * learning.config.passes))
    crowding = max(1.0, num_devices / num_cores)
    return max(3.0, 1.1 * num_batches * seconds_of_a_full_step(learning) * crowding)
