"""Which processes of this machine are ours, so that agents don't take each other for load."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

Pids = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**31)], ...], Meta(max_length=4096)]


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of one `edgetide up`.

    Attributes:
        agents: pids of device agents, which share equally what others leave.
        others: pids of the broker, the coordinator and their like: ours, but no agents.
    """

    agents: Pids = ()
    others: Pids = ()


def parse_cohort(text: str) -> Cohort | None:
    """A cohort from JSON, or None if it is garbled."""
    try:
        return msgspec.json.decode(text, type=Cohort)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def write_cohort(path: str | Path, cohort: Cohort) -> None:
    """Replace the cohort file at once, so that no reader sees half of it.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(cohort))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
