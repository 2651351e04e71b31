"""What a strategy decides on the device, as a value of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firmware_profiles.resources import Budget, Pause
from models.table import ParetoTable, TableEntry

CoreSeconds = Callable[[TableEntry], float]
Choice = TableEntry | Pause


@dataclass(frozen=True)
class DeviceStrategy:
    """The device half of a strategy.

    Attributes:
        choose: (table, budget, num_cores, core_seconds) -> the entry for the next mini-batch, or why to
            pause. `core_seconds` predicts the seconds of one core that an entry's mini-batch takes here.
    """

    choose: Callable[[ParetoTable, Budget, int, CoreSeconds], Choice]
