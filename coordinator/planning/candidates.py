"""What a plan chooses between: each candidate is a name and the keys of the scenario that it changes."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from coordinator.method import resolve_method
from coordinator.settings import read_optimizer
from coordinator.strategies.presets import Preset
from coordinator.twins.overrides import apply_overrides
from coordinator.twins.scenario import Scenario
from firmware_profiles.errors import UserError
from firmware_profiles.strict import load_strict
from models.optim.settings import OptimizerSettings

SMALL_WIDTHS = (0.2, 0.3, 0.45, 0.65, 0.8)
LARGE_WIDTHS = (0.45, 0.65, 1.0)
RATE_FACTORS = (1.0, 2.0)
SERVER_MOMENTA = (0.5,)
PASS_FACTORS = (1.0, 2.0)
AIDS = {"micro_batch": 4, "label_prior": 0.5}
"""Of all but published methods: mini-batches in parts where memory is short, priors for who lacks classes."""

PUBLISHED = ("heterofl", "fjord", "fedrolex", "feddrop", "fiarse")
"""Only with `--methods all`."""

MAX_CANDIDATES = 2000

_OURS = ("name", "seed", "rounds", "devices", "devices_per_round", "round_s", "budget_fraction", "compare")
_OURS += ("model", "data", "partition", "measure_on", "num_validation", "measure_samples")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to learn.

    Attributes:
        name: for people. changes: keys of a scenario and their values.
    """

    name: str
    changes: Mapping[str, Any]

    def settings(self, fleet: Scenario) -> Scenario:
        """The fleet's scenario with the changes.

        Raises:
            UserError: a key or a value does not fit.
        """
        # Values are replaced whole, which is quick; dotted keys and what does not fit go the careful way.
        if all(key in Scenario.__struct_fields__ for key in self.changes):
            with contextlib.suppress(msgspec.ValidationError):
                return msgspec.convert({**msgspec.to_builtins(fleet), **self.changes}, Scenario)
        return apply_changes(fleet, self.changes, f"candidate {self.name!r}")


def apply_changes(fleet: Scenario, changes: Mapping[str, Any], source: str) -> Scenario:
    """Put keys in place of a scenario's.

    Args:
        fleet: the scenario.
        changes: its keys and their values.
        source: what to call them in messages.

    Raises:
        UserError: a key or a value does not fit.
    """
    try:
        return apply_overrides(fleet, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    except UserError as error:
        raise UserError(f"{source}: {str(error).removeprefix('--set ')}") from None


def default_candidates(fleet: Scenario, *, all_methods: bool = False) -> tuple[Candidate, ...]:
    """Small networks, the full one and DISTREAL, each with two rates.

    Args:
        fleet: whose rate and passes the candidates' are multiples of.
        all_methods: with the published methods of sub-networks.
    """
    candidates: list[Candidate] = []
    for name, changes, pass_factors in _methods(all_methods=all_methods):
        for passes, rate, momentum in itertools.product(pass_factors, RATE_FACTORS, SERVER_MOMENTA):
            learning_rate = float(f"{rate * first_rate(fleet):.4g}")
            settings = {
                "learning_rate": learning_rate,
                "passes": float(f"{passes * fleet.passes:.4g}"),
                "averages": {**changes.get("averages", {}), "server_momentum": momentum},
            }
            text = f"{name}, rate {learning_rate:g}" + (f", momentum {momentum:g}" if momentum else "")
            text += f", {settings['passes']:g} passes" if len(pass_factors) > 1 else ""
            candidates.append(Candidate(name=text, changes={"paper": False, **changes, **settings}))
    return tuple(candidates)


def read_candidates(path: Path, fleet: Scenario) -> tuple[Candidate, ...]:
    """Read a YAML file of candidates: each name with the keys of a scenario that it changes.

    Raises:
        UserError: it cannot be read, a key does not fit, or one changes the fleet itself.
    """
    kind: Any = dict[str, dict[str, Any]]
    named = cast("dict[str, dict[str, Any]]", load_strict(path, kind))
    if not 1 <= len(named) <= MAX_CANDIDATES:
        raise UserError(f"{path}: holds {len(named)} candidates; give 1 to {MAX_CANDIDATES}")
    folder = path.resolve().parent
    candidates = tuple(
        Candidate(name=name, changes={key: _rooted(key, value, folder) for key, value in changes.items()})
        for name, changes in named.items()
    )
    for one in candidates:
        for key in one.changes:
            if key.partition(".")[0] in _OURS:
                raise UserError(
                    f"{path}: candidate {one.name!r}: {key} is the fleet's, the same for all candidates"
                )
        apply_changes(fleet, one.changes, f"{path}: candidate {one.name!r}")
    return candidates


def optimizer_of(settings: Scenario) -> OptimizerSettings:
    """The optimiser that a scenario names."""
    named = settings.optimizer
    return read_optimizer(named) if isinstance(named, str) else named


def first_rate(settings: Scenario) -> float:
    """The learning rate of the first round."""
    return settings.learning_rate or optimizer_of(settings).first_rate


def method_of(settings: Scenario) -> Preset:
    """The scenario's method with all that it replaces.

    Raises:
        UserError: a field or a value does not fit.
    """
    return resolve_method(
        settings.method,
        base_width=settings.base_width,
        levels=settings.levels,
        subnets=settings.subnets,
        averages=settings.averages,
    )


def family_of(settings: Scenario) -> str:
    """Candidates that differ in rates, momenta and passes alone are one family."""
    method = method_of(settings)
    subnets = method.subnets
    floor = f" floor {subnets.floor_fraction:g}" if subnets.floor_fraction else ""
    prior = f" prior {subnets.label_prior:g}" if subnets.label_prior else ""
    return f"{settings.method} {method.base_width:g} {subnets.choice}{floor}{prior}"


def _rooted(key: str, value: Any, folder: Path) -> Any:
    """A path in a file of candidates is relative to it; names of what is shipped are no paths."""
    is_path = isinstance(value, str) and (
        key == "table" or (key == "optimizer" and ("/" in value or "." in value))
    )
    return str(folder / value) if is_path else value


def _methods(*, all_methods: bool) -> Iterator[tuple[str, dict[str, Any], tuple[float, ...]]]:
    aids: dict[str, Any] = {"subnets": AIDS, "averages": {"weighting": "data"}}
    for width in SMALL_WIDTHS:
        changes = {"strategy": "small", "base_width": width, "table": None, **aids}
        yield f"small {width:g}", changes, PASS_FACTORS
    yield "full", {"strategy": "full", "base_width": 1.0, "table": None, **aids}, (1.0,)
    for width in LARGE_WIDTHS:
        changes = {"strategy": "distreal", "base_width": width, **aids}
        changes |= {} if width == 1.0 else {"table": None}  # the fleet's table is of the full network
        yield f"distreal {width:g}", changes, (1.0,)
    for method in PUBLISHED if all_methods else ():
        yield method, {"strategy": method, "base_width": 1.0, "table": None}, (1.0,)
