"""An optimiser's state: what it is, and as a safetensors file.

Tensors are named `<kind>/<tensor>`; the plain data (format, steps, and what the state belongs to) stands
in the file's metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from firmware_profiles.errors import PeerError, UserError
from models.optim.settings import Method, OptimizerSettings
from models.optim.update_counts import count_shapes
from models.subnet import Array
from models.weights import check_against, save
from models.widths import WidthPlan

MOMENTS: dict[Method, tuple[str, ...]] = {"sgd": ("velocity",), "adamw": ("first", "second")}
"""Tensors of the weights' shapes that a method keeps."""

COUNT = "count"
"""Of adamw: how often each entry was updated, in the shapes of `models.optim.update_counts.count_shapes`."""

_FORMAT = "1"
_OWN = {"format", "num_steps"}


@dataclass
class OptimizerState:
    """What the next steps of an optimiser depend on.

    Attributes:
        num_steps: applied so far.
        tensors: by kind and name, float32: MOMENTS of the method, and COUNT.
    """

    num_steps: int = 0
    tensors: dict[str, dict[str, Array]] = field(default_factory=dict)

    def flat(self) -> dict[str, Array]:
        """The tensors by `<kind>/<name>`."""
        return {f"{kind}/{name}": one for kind, many in self.tensors.items() for name, one in many.items()}


def extra_bytes(settings: OptimizerSettings, plan: WidthPlan, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Memory of the state beyond the one momentum that tables reckon with (`models.cost`).

    Args:
        settings: of the optimiser.
        plan: of the weights.
        shapes: of the trained tensors.
    """
    expected = state_shapes(settings, plan, shapes)
    sizes = 4 * sum(math.prod(shape) for shape in expected.values())
    return max(0, sizes - 4 * sum(math.prod(shape) for shape in shapes.values()))


def state_shapes(
    settings: OptimizerSettings, plan: WidthPlan, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a state's file; the arguments are those of `extra_bytes`."""
    if settings.method == "sgd" and not settings.momentum:
        return {}
    expected = {
        f"{kind}/{name}": tuple(shape) for kind in MOMENTS[settings.method] for name, shape in shapes.items()
    }
    if settings.method == "adamw":
        expected |= {f"{COUNT}/{name}": shape for name, shape in count_shapes(plan, shapes).items()}
    return expected


def save_state(path: Path, state: OptimizerState, belongs: Mapping[str, str]) -> None:
    """Write a state so that `path` holds either the old one or all of the new.

    Args:
        path: the file.
        state: what to keep.
        belongs: what it is the state of; `load_state` compares it.

    Raises:
        OSError: the disk refused.
    """
    save(path, state.flat(), {"format": _FORMAT, "num_steps": str(state.num_steps), **belongs})


def belongs_to(path: Path) -> dict[str, str]:
    """What a state's file says it is the state of.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read.
    """
    return {key: value for key, value in _metadata(path).items() if key not in _OWN}


def load_state(path: Path, expected: Mapping[str, tuple[int, ...]]) -> OptimizerState:
    """Read a state's file and check all of it.

    Args:
        path: the file.
        expected: `state_shapes` of the optimiser that is to go on from it.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, or the state of another optimiser or network.
    """
    about = _metadata(path)
    if about.get("format") != _FORMAT or not about.get("num_steps", "").isdecimal():
        raise UserError(f"optimiser state {path}: not of format {_FORMAT}")
    try:
        with safe_open(path, "numpy") as file:
            flat = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        check_against(flat, expected)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, PeerError) as error:
        raise UserError(f"optimiser state {path} cannot be used: {error}") from error
    state = OptimizerState(int(about["num_steps"]))
    for name, values in flat.items():
        kind, _, tensor = name.partition("/")
        if kind in (COUNT, "second") and (values < 0).any():
            raise UserError(f"optimiser state {path}: {name} has values below 0")
        state.tensors.setdefault(kind, {})[tensor] = values
    return state


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"optimiser state {path} cannot be read: {error}") from error
