"""Whom a device has as neighbours, and with whom it begins an exchange at a barrier."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence

from device_agent.wire.messages import Peering
from models.peer_settings import PeerSettings

ROUNDING = 1e-9

LEAST_ANSWERED = 0.5
"""Of the offers, that more draws make up for: so at most twice as many are drawn. More could come to more
pulls at a barrier than the weights are made for, where all answer again at once."""


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

    def draw(self, answered: float = 1.0, is_free: Callable[[str], bool] = lambda _: True) -> Sequence[str]:
        """Those that this barrier's exchange is with.

        Args:
            answered: share of the offers that were answered lately: where partners are drawn, so many more
                are drawn that about `partners` answer.
            is_free: whether an exchange with a neighbour can begin now; others are not drawn.
        """
        num = self._settings.partners
        if num is None or num >= len(self.ids):
            return self.ids
        more, part = divmod(num / max(LEAST_ANSWERED, answered), 1)
        free = [one for one in self.ids if is_free(one)]
        return self._rng.sample(free, min(len(free), int(more) + (self._rng.random() < part)))

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
