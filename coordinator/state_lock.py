"""One process a state folder: a lock that ends with its holder, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_profiles.errors import UserError

LOCK = "lock"


@contextmanager
def locked(state: Path, command: str) -> Iterator[None]:
    """Make the state folder and hold it for this process alone.

    Args:
        state: the folder.
        command: what holds it, for messages, such as `edgetide up`.

    Raises:
        UserError: the folder cannot be used, or another process holds it.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / LOCK).open("w")
    except OSError as error:
        raise UserError(f"state folder {state} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another `{command}` runs on the state folder {state}: stop it, or name another with --state"
            ) from None
        yield
