"""Where the optimiser's state stays between orders, for bundles that want it kept.

A state belongs to a run, a network and a method. It is stored when an order's training is done: an order
that is given up, or cut short in its training by a crash, leaves the state that it began with. (A crash
between the storing and the outbox loses the update and keeps the state: momentum of steps that nobody else
took, which fades.) The state of an order whose losses blew up is forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from firmware_profiles.errors import UserError
from models.optim.state import OptimizerState, belongs_to, load_state, save_state

log = logging.getLogger(__name__)

Belongs = dict[str, str]
Shapes = Mapping[str, tuple[int, ...]]


class OptimizerStore(Protocol):
    """Keeps one state."""

    def load(self, belongs: Belongs, expected: Shapes) -> OptimizerState | None:
        """A copy of the state kept for this, or None: then the optimiser begins anew."""
        ...

    def keep(self, belongs: Belongs, state: OptimizerState) -> None:
        """Keep a state, in place of any other."""
        ...

    def forget(self) -> None:
        """Keep none."""
        ...


class MemoryStore:
    """Keeps the state as long as the process lives: for twins."""

    def __init__(self) -> None:
        self._kept: tuple[Belongs, OptimizerState] | None = None

    def load(self, belongs: Belongs, expected: Shapes) -> OptimizerState | None:
        """A copy of the state kept for this, or None."""
        if self._kept is None or self._kept[0] != belongs:
            return None
        state = self._kept[1]
        if {name: one.shape for name, one in state.flat().items()} != dict(expected):
            return None
        tensors = {
            kind: {name: one.copy() for name, one in many.items()} for kind, many in state.tensors.items()
        }
        return OptimizerState(state.num_steps, tensors)

    def keep(self, belongs: Belongs, state: OptimizerState) -> None:
        """Keep a state, in place of any other."""
        self._kept = (belongs, state)

    def forget(self) -> None:
        """Keep none."""
        self._kept = None


class FileStore:
    """Keeps the state in a file that survives the process.

    Args:
        path: of the safetensors file; one that cannot be used is moved to `<path>.aside`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        for unfinished in path.parent.glob(f".{path.name}.*.partial"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)

    def load(self, belongs: Belongs, expected: Shapes) -> OptimizerState | None:
        """The state kept for this, or None: there is none, it is of something else, or it is damaged."""
        try:
            found = belongs_to(self._path)
            if found != belongs:
                log.info("optimiser begins anew, the state kept is of %s and put aside", found)
                self._put_aside()
                return None
            return load_state(self._path, expected)
        except FileNotFoundError:
            return None
        except UserError as error:
            log.warning("optimiser begins anew, the file is put aside: %s", error)
            self._put_aside()
            return None

    def keep(self, belongs: Belongs, state: OptimizerState) -> None:
        """Keep a state, in place of any other. A disk that refuses does not stop the agent."""
        try:
            save_state(self._path, state, belongs)
        except OSError as error:
            log.warning("optimiser state not kept: %s cannot be written: %s", self._path, error)

    def forget(self) -> None:
        """Keep none."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("optimiser state not forgotten: %s: %s", self._path, error)

    def _put_aside(self) -> None:
        try:
            self._path.replace(self._path.with_name(f"{self._path.name}.aside"))
        except OSError as error:
            log.warning("optimiser state not put aside: %s: %s", self._path, error)
