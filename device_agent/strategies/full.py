"""The baseline `full`: every mini-batch trains the full network, as many as there is time for."""

from __future__ import annotations

from device_agent.strategies.strategy import Choice, CoreSeconds, DeviceStrategy
from firmware_profiles.resources import Budget, Pause
from models.table import ParetoTable


def choose_full(table: ParetoTable, budget: Budget, num_cores: int, core_seconds: CoreSeconds) -> Choice:
    """The full vector if its memory fits, whatever its time (partial work is reported)."""
    del num_cores, core_seconds
    entry = table.entries[-1]
    if entry.memory_bytes > budget.memory_bytes:
        return Pause(
            f"the full network needs {entry.memory_bytes / 2**20:.0f} MiB, "
            f"training may take {budget.memory_bytes / 2**20:.0f} MiB"
        )
    return entry


FULL = DeviceStrategy(choose=choose_full)
