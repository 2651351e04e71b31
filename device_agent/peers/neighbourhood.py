"""Whom a device has as neighbours, and with whom it begins an exchange at a barrier."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

from device_agent.wire.messages import Peering
from models.peer_settings import PeerSettings

ROUNDING = 1e-9


class Neighbourhood:
    """The neighbours of this moment.

    Args:
        device: its id. settings: of the run. peering: the first one. seed: of the draws of partners.
    """

    def __init__(self, device: str, settings: PeerSettings, peering: Peering, seed: int) -> None:
        self._device, self._settings = device, settings
        self._rng = random.Random(f"{seed}/{device}/partners")
        self.ids: tuple[str, ...] = ()
        self.assign(peering)

    def assign(self, peering: Peering) -> None:
        """Others may be neighbours from now on."""
        met = {one.device: one.degree for one in peering.neighbours if one.device != self._device}
        self.ids, self._degrees = tuple(met), met
        num = self._settings.partners
        if num is None:
            self._num_exchanges = len(met)
        else:
            drawing = sum(min(1.0, num / degree) for degree in met.values())
            self._num_exchanges = min(len(met), math.ceil(min(num, len(met)) + drawing - ROUNDING))

    def __contains__(self, device: str) -> bool:
        return device in self.ids

    @property
    def degree(self) -> int:
        """Neighbours that this device exchanges with between two barriers; at least 1, as messages have it.

        Where partners are drawn: those it draws, and those that on average draw it.
        """
        return max(1, self._num_exchanges)

    def draw(self) -> Sequence[str]:
        """Those that this barrier's exchange is with."""
        num = self._settings.partners
        return self.ids if num is None or num >= len(self.ids) else self._rng.sample(self.ids, num)

    def begins(self, neighbour: str) -> bool:
        """Whether an exchange of the two is this device's to begin.

        Where both have all their neighbours exchange at every barrier, one of them does, so that it happens
        once. Else whoever draws the other does.
        """
        num = self._settings.partners
        degrees = len(self.ids), self._degrees.get(neighbour, len(self.ids))
        if self._settings.pace == "wait-free" or (num is not None and num < max(degrees)):
            return True
        pair = sorted((self._device, neighbour))
        is_first = hashlib.sha256("/".join(pair).encode()).digest()[0] & 1
        return self._device == pair[is_first]
