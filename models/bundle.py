"""What a device gets to train a network: graph, width plan, table and settings, bound by one digest."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_profiles.errors import PeerError, UserError
from models.graph import ModelGraph, validate
from models.graph import digest as graph_digest
from models.losses import LOSSES
from models.optim import OptimizerSettings
from models.table import ParetoTable, find_fault
from models.widths import WidthPlan, plan_widths

MAX_BYTES = 8 * 2**20
_SCHEMA = 1


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to train.

    Attributes:
        batch_size: samples of a mini-batch.
        loss: a key of `models.losses.LOSSES`.
        optimizer: settings of the optimiser.
    """

    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 32
    loss: Annotated[str, Meta(max_length=64)] = "cross-entropy"
    optimizer: OptimizerSettings = OptimizerSettings()


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but weights and data.

    Attributes:
        graph: the network.
        plan: `plan_widths(graph)`, so that every device cuts alike.
        table: what to choose from.
        settings: how to train.
    """

    graph: ModelGraph
    plan: WidthPlan
    table: ParetoTable
    settings: TrainingSettings


class _Packed(Bundle, frozen=True, kw_only=True):
    schema: int


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(_Packed)


def encode(bundle: Bundle) -> bytes:
    """Write a bundle as MessagePack; equal bundles make equal bytes."""
    fields = {name: getattr(bundle, name) for name in Bundle.__struct_fields__}
    return _ENCODER.encode(_Packed(schema=_SCHEMA, **fields))


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
    if packed.settings.loss not in LOSSES:
        raise PeerError(f"a bundle wants the loss {packed.settings.loss!r}; known are {', '.join(LOSSES)}")
    return Bundle(graph=graph, plan=plan, table=packed.table, settings=packed.settings)


def digest(bundle: Bundle) -> str:
    """SHA-256 of the encoded bundle, in hex."""
    return hashlib.sha256(encode(bundle)).hexdigest()
