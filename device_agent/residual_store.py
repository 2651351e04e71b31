"""Where what compression left out of an update waits for the next one.

A residual belongs to a run and a network. It counts once its update is in the outbox, neither before nor
without it: `stage` keeps it beside the one in force, under the digest of the update's content, and `commit`
puts it in force. A crash between the two is settled at the next start by asking the outbox for that content.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from firmware_profiles.errors import PeerError, UserError, WorldError
from models.subnet import Array
from models.weights import check_against, save

log = logging.getLogger(__name__)

Belongs = dict[str, str]
Shapes = Mapping[str, tuple[int, ...]]
Residual = Mapping[str, Array]

_FORMAT = "1"
_OWN = {"format", "update"}


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A compressed update, and what it leaves behind.

    Attributes:
        content: the compressed delta.
        belongs: names run and network.
        residual: what was left out, float32 by tensor; None where the scheme keeps none.
    """

    content: bytes
    belongs: Belongs
    residual: Residual | None


class ResidualStore(Protocol):
    """Keeps one residual, and the one that follows it."""

    def load(self, belongs: Belongs, expected: Shapes) -> Residual:
        """The residual in force for this, or an empty one."""
        ...

    def stage(self, digest: str, sealed: Sealed) -> None:
        """Its residual, if it has one, follows once its content, of this SHA-256, is in the outbox."""
        ...

    def commit(self, digest: str) -> None:
        """That update is in the outbox. Content that nothing was staged for changes nothing."""
        ...

    def forget(self) -> None:
        """Feedback begins anew: an update that came of it was refused."""
        ...


class MemoryResiduals:
    """Keeps the residual as long as the process lives: for twins."""

    def __init__(self) -> None:
        self._in_force: tuple[Belongs, Residual] = ({}, {})
        self._staged: tuple[str, Belongs, Residual] | None = None

    def load(self, belongs: Belongs, expected: Shapes) -> Residual:
        """The residual in force for this, or an empty one."""
        owner, residual = self._in_force
        fits = {name: one.shape for name, one in residual.items()} == dict(expected)
        return residual if owner == belongs and fits else {}

    def stage(self, digest: str, sealed: Sealed) -> None:
        """Its residual, if it has one, follows once its content, of this SHA-256, is in the outbox."""
        if sealed.residual is not None:
            self._staged = (digest, sealed.belongs, sealed.residual)

    def commit(self, digest: str) -> None:
        """That update is in the outbox."""
        if self._staged is not None and self._staged[0] == digest:
            self._in_force, self._staged = self._staged[1:], None

    def forget(self) -> None:
        """Feedback begins anew."""
        self._in_force, self._staged = ({}, {}), None


class FileResiduals:
    """Keeps the residual in a file that survives the process.

    Args:
        path: of the safetensors file; the residual that follows lies beside it, as `<path>.next`.
        is_in_outbox: whether an update with content of this SHA-256 waits there; asked once, now.
    """

    def __init__(self, path: Path, is_in_outbox: Callable[[str], bool]) -> None:
        self._path, self._next = path, path.with_name(f"{path.name}.next")
        self._staged = ""
        for unfinished in path.parent.glob(f".{path.name}*.partial"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)
        self._settle(is_in_outbox)

    def load(self, belongs: Belongs, expected: Shapes) -> Residual:
        """The residual in force for this, or an empty one: where there is none, or it cannot be used."""
        try:
            about, residual = _read(self._path)
            if {key: value for key, value in about.items() if key not in _OWN} != belongs:
                log.info("error feedback begins anew: %s is of another run or network", self._path)
                return {}
            check_against(residual, expected)
        except FileNotFoundError:
            return {}
        except (UserError, PeerError) as error:
            log.warning("error feedback begins anew: %s cannot be used: %s", self._path, error)
            return {}
        return residual

    def stage(self, digest: str, sealed: Sealed) -> None:
        """Its residual, if it has one, follows once its content, of this SHA-256, is in the outbox.

        If the disk refuses, feedback begins anew: what was sent is never sent again.
        """
        if sealed.residual is None:
            return
        try:
            save(self._next, dict(sealed.residual), {**sealed.belongs, "format": _FORMAT, "update": digest})
            self._staged = digest
        except OSError as error:
            log.warning("error feedback begins anew: %s cannot be written: %s", self._next, error)
            self.forget()

    def commit(self, digest: str) -> None:
        """That update is in the outbox."""
        if not self._staged or self._staged != digest:
            return
        self._staged = ""
        try:
            self._next.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            log.warning("error feedback begins anew: %s cannot be written: %s", self._path, error)
            self.forget()

    def forget(self) -> None:
        """Feedback begins anew."""
        self._staged = ""
        _remove(self._next)
        _remove(self._path)

    def _settle(self, is_in_outbox: Callable[[str], bool]) -> None:
        """Finish or undo what a crash left half done."""
        try:
            about, _ = _read(self._next)
            self._staged = about.get("update", "")
            if is_in_outbox(self._staged):
                self.commit(self._staged)
        except FileNotFoundError:
            pass
        except (UserError, WorldError) as error:
            log.warning("%s cannot be used: %s", self._next, error)
        self._staged = ""
        _remove(self._next)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s not removed: %s", path, error)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and tensors of a residual's file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read.
    """
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            tensors = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"not a file of tensors: {error}") from error
    if about.get("format") != _FORMAT:
        raise UserError(f"not of format {_FORMAT}")
    return about, tensors
