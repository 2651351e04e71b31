"""Whom a device has as neighbours, and with whom it begins an exchange at a barrier."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from device_agent.wire.messages import Peering
from models.peer_settings import PeerSettings


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
        self.ids = tuple(one.device for one in peering.neighbours if one.device != self._device)

    def __contains__(self, device: str) -> bool:
        return device in self.ids

    @property
    def degree(self) -> int:
        """Neighbours that this device exchanges with between two barriers; at least 1, as messages have it.

        Where partners are drawn: as many as it draws, and on average as many that draw it.
        """
        num = self._settings.partners
        return max(1, len(self.ids) if num is None else min(len(self.ids), 2 * num))

    def draw(self) -> Sequence[str]:
        """Those that this barrier's exchange is with."""
        num = self._settings.partners
        return self.ids if num is None or self._are_all(num) else self._rng.sample(self.ids, num)

    def begins(self, neighbour: str) -> bool:
        """Whether an exchange of the two is this device's to begin.

        Where all neighbours exchange at every barrier, one side of each pair does, so that it happens once.
        """
        num = self._settings.partners
        if self._settings.pace == "wait-free" or (num is not None and not self._are_all(num)):
            return True
        pair = sorted((self._device, neighbour))
        is_first = hashlib.sha256("/".join(pair).encode()).digest()[0] & 1
        return self._device == pair[is_first]

    def _are_all(self, num: int) -> bool:
        return num >= len(self.ids)
