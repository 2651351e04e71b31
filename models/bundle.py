"""What a device gets to train a network, bound by one digest: graph, plan, table, settings, ONNX files."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_profiles.errors import PeerError, UserError
from models.compression.settings import CompressionSettings
from models.factors import class_tensors
from models.gossip_settings import GossipSettings
from models.gradients.artifacts import Artifacts
from models.graph import ModelGraph, validate
from models.graph import digest as graph_digest
from models.losses import LOSSES, LossSettings
from models.optim.settings import OptimizerSettings
from models.peer_settings import PeerSettings
from models.subnet_settings import SubnetSettings
from models.table import ParetoTable, find_fault
from models.widths import WidthPlan, plan_widths

MAX_BYTES = 8 * 2**20
MAX_ARTIFACT_BYTES = 4 * 2**20
_SCHEMA = 5


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to train.

    Attributes:
        batch_size: samples of a mini-batch.
        loss: which loss, and its settings.
        optimizer: settings of the optimiser.
        subnets: how the sub-network of a mini-batch is chosen, drawn and trained.
        compression: of what devices learned, or, where they exchange weights, of these.
        peers: how devices learn from each other; None: by the coordinator alone.
        gossip: how they learn prototypes from streams; None: they train the network.
    """

    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 32
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    subnets: SubnetSettings = SubnetSettings()
    compression: CompressionSettings = CompressionSettings()
    peers: PeerSettings | None = None
    gossip: GossipSettings | None = None

    @property
    def delta_compression(self) -> CompressionSettings:
        """Of an update's delta; none where it says where a device that mixes with others is."""
        return self.compression if self.peers is None else CompressionSettings()

    @property
    def exchange_compression(self) -> CompressionSettings:
        """Of weights that devices exchange."""
        return self.compression


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but weights and data.

    Attributes:
        graph: the network.
        plan: `plan_widths(graph)`, so that every device cuts alike.
        table: what to choose from.
        settings: how to train.
        artifacts: ONNX files of the graph and the loss, for engines that compute with them. They save the
            device the ONNX package; None where the fleet has no such engine.
    """

    graph: ModelGraph
    plan: WidthPlan
    table: ParetoTable
    settings: TrainingSettings
    artifacts: Artifacts | None = None


class _Packed(Bundle, frozen=True, kw_only=True):
    """On the wire the files are zlib streams: a tenth of the size, and every Python reads them."""

    schema: int


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(_Packed)


def encode(bundle: Bundle) -> bytes:
    """Write a bundle as MessagePack; equal bundles make equal bytes.

    Raises:
        UserError: the network is so large that no device would read the bundle.
    """
    fields = {name: getattr(bundle, name) for name in Bundle.__struct_fields__}
    if bundle.artifacts is not None:
        fields["artifacts"] = _each(bundle.artifacts, partial(_pack, bundle.graph.name))
    data = _ENCODER.encode(_Packed(schema=_SCHEMA, **fields))
    if len(data) > MAX_BYTES:
        raise UserError(
            f"model {bundle.graph.name} makes a bundle of {len(data)} bytes; {MAX_BYTES} is the limit. "
            "Choose a network of fewer layers, or a table of fewer entries"
        )
    return data


def decode(data: bytes) -> Bundle:
    """Read a bundle and check all of it: whoever holds a Bundle can train with it.

    Raises:
        PeerError: it is too large, not a bundle, of another schema, or its parts don't fit together.
    """
    if len(data) > MAX_BYTES:
        raise PeerError(f"a bundle has {len(data)} bytes; {MAX_BYTES} is the limit")
    try:
        packed = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"a bundle of {len(data)} bytes is not readable: {error}") from error
    if packed.schema != _SCHEMA:
        raise PeerError(
            f"a bundle has schema {packed.schema}, this version reads {_SCHEMA}; "
            "run the same edgetide version on the coordinator and the devices"
        )
    try:
        graph = validate(packed.graph)
        plan = plan_widths(graph)
    except UserError as error:
        raise PeerError(f"a bundle's graph is refused: {error}") from error
    if packed.plan != plan:
        raise PeerError(f"a bundle's width plan is not that of its graph {graph.name!r}")
    if fault := find_fault(packed.table, graph_digest(graph), plan):
        raise PeerError(f"a bundle's table is refused: {fault}")
    if packed.settings.loss.name not in LOSSES:
        raise PeerError(
            f"a bundle wants the loss {packed.settings.loss.name!r}; known are {', '.join(LOSSES)}"
        )
    _check_subnets(graph, packed.settings)
    artifacts = None if packed.artifacts is None else _each(packed.artifacts, _unpack)
    return Bundle(graph=graph, plan=plan, table=packed.table, settings=packed.settings, artifacts=artifacts)


def digest(bundle: Bundle) -> str:
    """SHA-256 of the encoded bundle, in hex."""
    return hashlib.sha256(encode(bundle)).hexdigest()


def _check_subnets(graph: ModelGraph, settings: TrainingSettings) -> None:
    """Refuse a method that the network or the loss cannot serve.

    Raises:
        PeerError: what is missing.
    """
    if settings.subnets.self_distillation and "teacher_logits" not in LOSSES[settings.loss.name].targets:
        raise PeerError(
            f"a bundle wants self-distillation with the loss {settings.loss.name!r}, which asks no teacher"
        )
    if settings.subnets.mask_absent_classes:
        try:
            class_tensors(graph)
        except UserError as error:
            raise PeerError(f"a bundle cannot be trained: {error}") from error


def _each(artifacts: Artifacts, change: Callable[[str, bytes], bytes]) -> Artifacts:
    return Artifacts(**{name: change(name, getattr(artifacts, name)) for name in Artifacts.__struct_fields__})


def _pack(model: str, name: str, file: bytes) -> bytes:
    if len(file) > MAX_ARTIFACT_BYTES:
        raise UserError(
            f"the {name} graph of model {model} has {len(file)} bytes; {MAX_ARTIFACT_BYTES} is the limit. "
            "Choose a network of fewer layers"
        )
    return zlib.compress(file, 9)


def _unpack(name: str, stream: bytes) -> bytes:
    """Undo the compression, in bounded memory.

    Raises:
        PeerError: it is no zlib stream, is cut off or goes on after its end, or holds too much.
    """
    reader = zlib.decompressobj()
    try:
        file = reader.decompress(stream, MAX_ARTIFACT_BYTES + 1)
    except zlib.error as error:
        raise PeerError(f"a bundle's {name} graph is not readable: {error}") from error
    if len(file) > MAX_ARTIFACT_BYTES:
        raise PeerError(f"a bundle's {name} graph has over {MAX_ARTIFACT_BYTES} bytes, the limit")
    if not reader.eof or reader.unused_data:
        raise PeerError(f"a bundle's {name} graph is cut off, or something follows it")
    return file
