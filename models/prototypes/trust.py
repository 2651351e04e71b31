"""How much each peer's prototypes are believed: as often as its nearest one is right about own samples.

With a the decayed accuracy of a peer's nearest prototype and r that of the best own expert

    trust = 1 / (1 + exp(-slope (a - r + margin))).

A peer is believed at first: it begins with a = r.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.prototypes.scaling import Doubles

UNKNOWN = -1
"""In place of a class, where a peer has no prototype."""


class PeerTrust:
    """Decayed accuracies of a bounded number of peers, by index.

    Args:
        num_peers: P.
        decay: of an accuracy, per own sample. slope, margin: see above.
    """

    def __init__(self, num_peers: int, decay: float, slope: float, margin: float) -> None:
        self._right = np.ones(num_peers)
        self._decay, self._slope, self._margin = decay, slope, margin

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What it has learned, live."""
        return {"right": self._right}

    def begin(self, peer: int, reference: float) -> None:
        """A peer is new: it is as good as the best own expert until it shows otherwise."""
        self._right[peer] = reference

    def learn(self, nearest: NDArray[np.int64], y: int) -> None:
        """Judge what each peer's nearest prototype said: int64 [P], UNKNOWN for nothing."""
        spoke = nearest != UNKNOWN
        self._right += (1.0 - self._decay) * spoke * ((nearest == y) - self._right)

    def distrust(self, reference: float) -> Doubles:
        """Of each peer, (1 - trust) / trust: float64 [P], 0 or more."""
        return np.exp(self._slope * (reference - self._margin - self._right))

    def of_peers(self, reference: float) -> Doubles:
        """Trust in each peer: float64 [P] between 0 and 1."""
        return 1.0 / (1.0 + self.distrust(reference))
