"""Where what a learner of prototypes learned stays over restarts of the agent. It belongs to one run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]

RUN = "run"


class LearnedStore(Protocol):
    """Keeps the newest state."""

    def keep(self, run: str, arrays: Arrays) -> None:
        """Keep it in place of any other."""
        ...

    def recall(self, run: str) -> Arrays | None:
        """What is kept of this run, None: nothing."""
        ...


class MemoryLearned:
    """Keeps it as long as the process lives: for twins."""

    def __init__(self) -> None:
        self._kept: tuple[str, Arrays] | None = None

    def keep(self, run: str, arrays: Arrays) -> None:
        """Keep it in place of any other."""
        self._kept = run, {name: one.copy() for name, one in arrays.items()}

    def recall(self, run: str) -> Arrays | None:
        """What is kept of this run, None: nothing."""
        if self._kept is None or self._kept[0] != run:
            return None
        return {name: one.copy() for name, one in self._kept[1].items()}


class FileLearned:
    """Keeps it in a file that survives the process.

    Args:
        path: of the safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, run: str, arrays: Arrays) -> None:
        """Keep it in place of any other. A disk that refuses does not stop the agent."""
        unfinished = self._path.with_name(f".{self._path.name}.partial")
        try:
            content = safetensors.save(
                {name: np.ascontiguousarray(one) for name, one in arrays.items()}, {RUN: run}
            )
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            log.warning("prototypes not kept: %s cannot be written: %s", self._path, error)

    def recall(self, run: str) -> Arrays | None:
        """What is kept of this run, None: nothing, or it is damaged and the device begins anew."""
        try:
            with safe_open(self._path, framework="np") as file:
                if (file.metadata() or {}).get(RUN) != run:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            log.warning("prototypes begin anew, %s is not readable: %s", self._path, error)
            return None
