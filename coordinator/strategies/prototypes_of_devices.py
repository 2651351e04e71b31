"""The prototypes that devices have: the coordinator half of methods that learn from streams.

A report brings a device's own prototypes. Those of all, clustered to as many as the network of prototypes has
places for, are the version's model; no device takes it over. What devices predicted is in their reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.orders import RunConfig
from coordinator.strategies.strategy import CoordinatorStrategy
from device_agent.wire.messages import Hello, Update
from models.bundle import Bundle
from models.graph import ModelGraph
from models.prototypes.classifier import as_weights
from models.prototypes.clustering import by_means
from models.prototypes.prototype_set import PrototypeSet, joined
from models.prototypes.reported import of_arrays
from models.subnet import Array


@dataclass
class Collected:
    """The newest prototypes of each device that reported in a window.

    Attributes:
        graph: of the model. weights: of the version before, where nobody has any.
        num_updates: reports so far.
    """

    graph: ModelGraph
    weights: Mapping[str, Array]
    num_updates: int = 0
    _sets: list[PrototypeSet] = field(default_factory=list)

    def fold(self, prototypes: PrototypeSet) -> None:
        """A device reported these, perhaps none yet."""
        self.num_updates += 1
        if len(prototypes):
            self._sets.append(prototypes)

    def finish(self) -> dict[str, Array]:
        """The weights of the model of all."""
        if not self._sets:
            return dict(self.weights)
        fleet, num_places = joined(self._sets), self.graph.parameters["keys.weight"][0]
        if len(fleet) > num_places:
            fleet = by_means(fleet, num_places, seed=0)
        return as_weights(fleet[:num_places], self.graph)


def ask_all(_config: RunConfig, _round: int, _attempt: int, candidates: Sequence[Hello]) -> list[str]:
    """Every device, also one whose stream is live and holds no samples yet."""
    return [hello.device for hello in candidates]


def _open(bundle: Bundle, weights: Mapping[str, Array]) -> Collected:
    return Collected(bundle.graph, weights)


def _fold(
    collected: Collected, _update: Update, delta: Mapping[str, Array], _weight: float, _num_data: int
) -> None:
    collected.fold(of_arrays(delta))


PROTOTYPES_OF_DEVICES = CoordinatorStrategy(
    plan=ask_all,
    open=_open,
    fold=_fold,
    finish=lambda collected, _before, _scale: collected.finish(),
)
