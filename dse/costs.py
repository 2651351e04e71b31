"""What a dropout vector costs: MACs, or seconds or joules on a board whose profile says so."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from dse.settings import CostKind
from firmware_profiles.errors import UserError
from firmware_profiles.profile import CoreWatts, FirmwareProfile, Speed, load_profile
from models.cost import CostModel
from models.graph import ModelGraph
from models.subnet import DropoutVector
from models.widths import WidthPlan


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """How the cost objective is reckoned.

    Attributes:
        kind: MACs of one sample, or seconds or joules of one core for a mini-batch.
        profile: name of the board, None for MACs.
        engine: the engine whose coefficients they are, None for MACs.
        seconds_per_step: that every mini-batch takes.
        seconds_per_mac: for each training MAC of the mini-batch.
        seconds_per_activation_byte: for each byte of the mini-batch's activations.
        watts: of one busy core, None but for joules.
        is_measured: whether somebody measured the coefficients on the board.
        watts_are_measured: whether somebody measured the watts there.
    """

    kind: CostKind = "macs"
    profile: str | None = None
    engine: str | None = None
    seconds_per_step: float = 0.0
    seconds_per_mac: float = 0.0
    seconds_per_activation_byte: float = 0.0
    watts: float | None = None
    is_measured: bool = True
    watts_are_measured: bool = True


class VectorCost(NamedTuple):
    """The costs of one vector.

    Attributes:
        macs: training MACs of one sample.
        memory_bytes: of training one mini-batch.
        cost: in the unit of the price.
        core_seconds: of one mini-batch as measured coefficients say, or None.
    """

    macs: int
    memory_bytes: int
    cost: float
    core_seconds: float | None


class Pricing:
    """Costs of the vectors of one network.

    Args:
        graph: the network.
        plan: its width groups.
        batch_size: samples of a mini-batch.
        price: how the cost objective is reckoned.
    """

    def __init__(self, graph: ModelGraph, plan: WidthPlan, batch_size: int, price: Price) -> None:
        self._model = CostModel(graph, plan, batch_size)
        self._batch_size = batch_size
        self._price = price

    def __call__(self, vector: DropoutVector) -> VectorCost:
        """The costs of a vector, which must fit the plan."""
        costs = self._model.costs([vector])
        macs, memory = int(costs.macs_training[0]), int(costs.memory_bytes[0])
        price = self._price
        if price.kind == "macs":
            return VectorCost(macs, memory, float(macs), None)
        seconds = (
            price.seconds_per_step
            + price.seconds_per_mac * macs * self._batch_size
            + price.seconds_per_activation_byte * int(costs.activation_bytes[0]) * self._batch_size
        )
        cost = seconds if price.watts is None else seconds * price.watts
        return VectorCost(macs, memory, cost, seconds if price.is_measured else None)


def make_price(kind: CostKind, profile: str | None, engine: str) -> Price:
    """How a cost is reckoned on a board.

    Args:
        kind: the cost objective.
        profile: name or file of a firmware profile; None only for MACs.
        engine: whose coefficients count.

    Raises:
        UserError: the profile is missing or cannot be read, or says nothing of this engine or of watts.
    """
    if kind == "macs":
        return Price()
    if profile is None:
        raise UserError(f"--cost {kind} needs a board: give --profile with a name or file")
    board = load_profile(profile)
    speeds: dict[str, Speed] = {str(name): speed for name, speed in board.speeds.items()}
    if engine not in speeds:
        known = ", ".join(sorted(speeds)) or "none"
        raise UserError(
            f"profile {board.name} has no speed of engine {engine!r} (it has: {known}). "
            "Give another --profile-engine, or measure it with `edgetide agent bench`."
        )
    speed = speeds[engine]
    power = _watts(board) if kind == "joules" else None
    return Price(
        kind=kind,
        profile=board.name,
        engine=engine,
        seconds_per_step=speed.core_seconds_per_step,
        seconds_per_mac=speed.core_seconds_per_mac,
        seconds_per_activation_byte=speed.core_seconds_per_activation_byte,
        watts=None if power is None else power.value,
        is_measured=speed.measured,
        watts_are_measured=power is None or power.measured,
    )


def describe(price: Price) -> tuple[str, ...]:
    """Lines about what nobody measured."""
    lines = []
    if not price.is_measured:
        lines.append(
            f"{price.kind} are reckoned with estimates: nobody measured engine {price.engine} on "
            f"{price.profile} (`edgetide agent bench` does). The table keeps its seconds empty."
        )
    if not price.watts_are_measured:
        lines.append(f"The watts of a core of {price.profile} are an estimate: nobody measured them.")
    return tuple(lines)


def _watts(board: FirmwareProfile) -> CoreWatts:
    if board.core_watts is None:
        raise UserError(
            f"profile {board.name} does not say how many watts a busy core takes, so joules cannot be "
            "reckoned. Use --cost seconds, or give a profile with core_watts."
        )
    return board.core_watts
