"""Has a scenario's faults happen on the virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from coordinator.twins.clock import VirtualClock
from coordinator.twins.fault_timeline import FaultEvent
from coordinator.twins.twin import Twin


class Mortal(Protocol):
    """What can be killed and started again."""

    def crash(self) -> None:
        """It is killed, until as many `restart` have come."""
        ...

    def restart(self) -> None:
        """It begins anew with what it had stored."""
        ...


_OF_ALL: Mapping[str, Callable[[Mortal], None]] = {
    "crash": lambda mortal: mortal.crash(),
    "restart": lambda mortal: mortal.restart(),
}
_OF_TWINS: Mapping[str, Callable[[Twin, float], None]] = {
    "partition": lambda twin, _value: twin.cut(),
    "heal": lambda twin, _value: twin.mend(),
    "leave": lambda twin, _value: twin.cut(),
    "return": lambda twin, _value: twin.mend(),
    "slow": lambda twin, factor: twin.slow_down(factor),
    "recover": lambda twin, factor: twin.recover(factor),
}


def drive_faults(
    clock: VirtualClock, events: Iterator[FaultEvent], twins: Mapping[str, Twin], others: Mapping[str, Mortal]
) -> None:
    """Have each event happen at its time.

    Args:
        clock: of the simulation.
        events: by rising time, perhaps without an end.
        twins: by id.
        others: who else may crash, by name.
    """
    event = next(events, None)
    if event is None:
        return

    def happen() -> None:
        if event.what in _OF_ALL:
            _OF_ALL[event.what](twins[event.who] if event.who in twins else others[event.who])
        else:
            _OF_TWINS[event.what](twins[event.who], event.value)
        drive_faults(clock, events, twins, others)

    happen() if event.at_s <= clock.now_s else clock.call_at(event.at_s, happen)
