"""A run's method: its strategy's preset, with single fields replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.strategies.averages import AverageSettings
from coordinator.strategies.presets import PRESETS, Preset
from device_agent.peers.topology_settings import TopologySettings
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from firmware_profiles.strict import load_strict
from models.compression.settings import CompressionSettings
from models.gossip_settings import GossipSettings
from models.losses import LossSettings
from models.peer_settings import PeerSettings
from models.subnet_settings import SubnetSettings

StructT = TypeVar(
    "StructT",
    SubnetSettings,
    AverageSettings,
    PeerSettings,
    GossipSettings,
    TopologySettings,
    AsyncSettings,
)


def resolve_method(
    strategy: str,
    *,
    base_width: float | None = None,
    levels: tuple[float, ...] | None = None,
    subnets: Mapping[str, Any] | None = None,
    averages: Mapping[str, Any] | None = None,
    peers: Mapping[str, Any] | None = None,
    gossip: Mapping[str, Any] | None = None,
    topology: Mapping[str, Any] | None = None,
    asynchrony: Mapping[str, Any] | None = None,
) -> Preset:
    """The preset of a strategy with these fields in place of its own.

    Args:
        strategy: key of PRESETS.
        base_width: None keeps the preset's.
        levels: None keeps the preset's.
        subnets: fields of SubnetSettings.
        averages: fields of AverageSettings.
        peers: fields of PeerSettings.
        gossip: fields of GossipSettings, those of its parts too.
        topology: fields of TopologySettings.
        asynchrony: fields of AsyncSettings; given at all, any method that averages goes without rounds.

    Raises:
        UserError: the strategy is unknown, or a field or a value does not fit.
    """
    if strategy not in PRESETS:
        raise UserError(f"strategy {strategy!r} is unknown; {nearest(strategy, PRESETS)}")
    preset = PRESETS[strategy]
    if base_width is not None and not 0 < base_width <= 1:
        raise UserError(f"base_width is {base_width:g}: give a share above 0 and up to 1")
    if (peers and preset.peers is None) or (topology and preset.peers is None and preset.gossip is None):
        decentralised = ", ".join(
            name for name, one in PRESETS.items() if one.peers is not None or (topology and one.gossip)
        )
        raise UserError(
            f"strategy {strategy} has no exchange between devices: leave peers and topology out "
            f"(--barrier-seconds, --topology), or choose one of {decentralised}"
        )
    if preset.gossip is None and gossip:
        of_streams = ", ".join(name for name, one in PRESETS.items() if one.gossip is not None)
        raise UserError(
            f"strategy {strategy} trains a network: leave gossip out (--gossip, --sample-seconds), or choose "
            f"one of {of_streams}"
        )
    if preset.gossip is not None and (subnets or averages or levels or base_width or asynchrony is not None):
        raise UserError(
            f"strategy {strategy} learns prototypes and trains no network: leave subnets, averages, levels, "
            "base_width and asynchrony out"
        )
    if preset.peers is not None and averages:
        raise UserError(
            f"strategy {strategy} takes the plain mean of its devices' weights: leave averages out"
        )
    if preset.peers is not None and asynchrony is not None:
        raise UserError(f"strategy {strategy} goes by barriers of its devices: leave asynchrony out")
    drawn = _changed("subnets", preset.subnets, subnets or {})
    if drawn.draw == "importance" and (preset.asynchrony is not None or asynchrony is not None):
        raise UserError(
            f"strategy {strategy} draws channels by the weights of one version, and without rounds most "
            "updates come versions later: leave asynchrony out, or set subnets.draw"
        )
    return msgspec.structs.replace(
        preset,
        subnets=drawn,
        averages=_changed("averages", preset.averages, averages or {}),
        peers=None if preset.peers is None else _changed("peers", preset.peers, peers or {}),
        gossip=None if preset.gossip is None else _changed("gossip", preset.gossip, gossip or {}),
        topology=_changed("topology", preset.topology, topology or {}),
        asynchrony=preset.asynchrony
        if asynchrony is None
        else _changed("asynchrony", preset.asynchrony or AsyncSettings(), asynchrony),
        levels=preset.levels if levels is None else levels,
        base_width=preset.base_width if base_width is None else base_width,
    )


def default_rounds(method: Preset) -> int:
    """Rounds where the user does not say: a stream is gone through once."""
    return 8 if method.gossip is None else 1


def check_compression(method: Preset, compression: CompressionSettings) -> None:
    """Refuse a compression that means nothing for what a method's devices send each other.

    Raises:
        UserError: it is such a one.
    """
    scheme = compression.scheme
    if method.gossip is not None and scheme != "none":
        raise UserError(
            f"compression {scheme} is for weights, and these devices tell prototypes: leave it out"
        )
    if method.peers is None:
        return
    if scheme == "top-k":
        raise UserError(
            "compression top-k is for what was learned since, and these devices exchange weights: "
            "choose float16, int8 or random-mask"
        )
    if scheme == "random-mask" and method.peers.exchange == "push":
        raise UserError(
            "compression random-mask needs exchanges of both sides, and this strategy pushes: "
            "choose float16 or int8"
        )


def loss_of(settings: SubnetSettings) -> LossSettings:
    """The loss that a method trains with: with self-distillation that of `models.sub_step`, at T = 1."""
    weight = settings.self_distillation
    if not weight:
        return LossSettings()
    return LossSettings(
        name="distillation", temperature=1.0, label_weight=1.0 - weight, distillation_weight=weight
    )


def read_gossip(file: Path | None, sample_s: float | None) -> dict[str, Any]:
    """What options say of learning from streams, as fields of GossipSettings.

    Args:
        file: a YAML file of such fields, those of its parts too; None says nothing.
        sample_s: in place of the file's.

    Raises:
        UserError: the file cannot be read, or is no mapping.
    """
    fields = {} if file is None else dict(load_strict(file, dict[str, Any]))
    return fields if sample_s is None else {**fields, "sample_s": sample_s}


def read_topology(text: str | None) -> dict[str, Any]:
    """What an option says of who is whose neighbour, as fields of TopologySettings.

    Args:
        text: a kind, `geometric:RADIUS`, or the path of an edge list; None says nothing.

    Raises:
        UserError: it is none of these.
    """
    if text is None:
        return {}
    kinds = [kind for kind in get_args(get_type_hints(TopologySettings)["kind"]) if kind != "file"]
    kind, _, radius = text.partition(":")
    fields: dict[str, Any] = {"kind": kind}
    if kind not in kinds:
        if not ("/" in text or "." in text):
            raise UserError(f"topology {text!r} is unknown: choose {', '.join(kinds)} or name an edge list")
        fields = {"kind": "file", "file": text}
    elif radius:
        try:
            fields["radius"] = float(radius)
        except ValueError:
            raise UserError(f"topology {text!r}: the radius is a number, such as geometric:0.4") from None
    _changed("topology", TopologySettings(), fields)
    return fields


def _changed(what: str, settings: StructT, changes: Mapping[str, Any]) -> StructT:
    known = msgspec.to_builtins(settings)
    try:
        return msgspec.convert(_merged(what, known, msgspec.to_builtins(dict(changes))), type(settings))
    except msgspec.ValidationError as error:
        raise UserError(f"{what}: {error}") from None


def _merged(what: str, known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with these in place of their own, in parts of parts as well."""
    merged = dict(known)
    for key, value in changes.items():
        if key not in known:
            raise UserError(f'{what}: key "{key}" is unknown; {nearest(key, known)}')
        is_part = isinstance(known[key], dict) and isinstance(value, dict)
        merged[key] = _merged(f"{what}.{key}", known[key], value) if is_part else value
    return merged
