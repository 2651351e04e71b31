"""What a strategy decides on the device, as a value of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from firmware_profiles.resources import Budget, Pause
from models.subnet_settings import SubnetSettings
from models.table import ParetoTable, TableEntry

CoreSeconds = Callable[[TableEntry], float]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is known before a mini-batch.

    Attributes:
        table: in force. budget: of the moment. step: mini-batches of the order that are done.
        num_cores: of the machine, to which the budget's share refers.
        core_seconds: predicts the seconds of one core that an entry's mini-batch takes here.
        num_samples: that the next mini-batch has.
    """

    table: ParetoTable
    budget: Budget
    step: int
    num_cores: int
    core_seconds: CoreSeconds
    num_samples: int


class Chosen(NamedTuple):
    """What a mini-batch trains.

    Attributes:
        entry: its vector. largest: what it might have been: it teaches in self-distillation.
        num_samples: the first so many of the mini-batch; None: all.
    """

    entry: TableEntry
    largest: TableEntry
    num_samples: int | None = None


Choice = Chosen | Pause
Choose = Callable[[Moment], Choice]


@dataclass(frozen=True, kw_only=True)
class OrderStart:
    """What is known when an order begins.

    Attributes:
        settings: the method's. round_number, seed: of the order.
        is_first: nothing was trained here with this bundle yet, so nobody knows how long it takes.
    """

    settings: SubnetSettings
    round_number: int
    seed: int
    is_first: bool = False


@dataclass(frozen=True)
class DeviceStrategy:
    """The device half of a strategy.

    Attributes:
        begin: makes the choice of one order, which is then asked before every mini-batch.
    """

    begin: Callable[[OrderStart], Choose]
