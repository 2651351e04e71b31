"""A run's method: its strategy's preset, with single fields replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from coordinator.strategies.averages import AverageSettings
from coordinator.strategies.presets import PRESETS, Preset
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from models.losses import LossSettings
from models.subnet_settings import SubnetSettings

StructT = TypeVar("StructT", SubnetSettings, AverageSettings)


def resolve_method(
    strategy: str,
    *,
    base_width: float | None = None,
    levels: tuple[float, ...] | None = None,
    subnets: Mapping[str, Any] | None = None,
    averages: Mapping[str, Any] | None = None,
) -> Preset:
    """The preset of a strategy with these fields in place of its own.

    Args:
        strategy: key of PRESETS.
        base_width: None keeps the preset's.
        levels: None keeps the preset's.
        subnets: fields of SubnetSettings.
        averages: fields of AverageSettings.

    Raises:
        UserError: the strategy is unknown, or a field or a value does not fit.
    """
    if strategy not in PRESETS:
        raise UserError(f"strategy {strategy!r} is unknown; {nearest(strategy, PRESETS)}")
    preset = PRESETS[strategy]
    if base_width is not None and not 0 < base_width <= 1:
        raise UserError(f"base_width is {base_width:g}: give a share above 0 and up to 1")
    return msgspec.structs.replace(
        preset,
        subnets=_changed("subnets", preset.subnets, subnets or {}),
        averages=_changed("averages", preset.averages, averages or {}),
        levels=preset.levels if levels is None else levels,
        base_width=preset.base_width if base_width is None else base_width,
    )


def loss_of(settings: SubnetSettings) -> LossSettings:
    """The loss that a method trains with: with self-distillation that of `models.sub_step`, at T = 1."""
    weight = settings.self_distillation
    if not weight:
        return LossSettings()
    return LossSettings(
        name="distillation", temperature=1.0, label_weight=1.0 - weight, distillation_weight=weight
    )


def _changed(what: str, settings: StructT, changes: Mapping[str, Any]) -> StructT:
    known = msgspec.to_builtins(settings)
    for key in changes:
        if key not in known:
            raise UserError(f'{what}: key "{key}" is unknown; {nearest(key, known)}')
    try:
        return msgspec.convert({**known, **msgspec.to_builtins(dict(changes))}, type(settings))
    except msgspec.ValidationError as error:
        raise UserError(f"{what}: {error}") from None
