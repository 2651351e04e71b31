"""The SQLite file under the outbox: locked to one process, synced at every commit, replaced when damaged."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from firmware_profiles.errors import UserError, WorldError

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_LAYOUT = 1  # of the tables; another one is moved aside, not converted
_PAGE_BYTES = 4096
_MAX_EPOCH = 2**52

_TABLES = f"""
CREATE TABLE epoch (last INTEGER NOT NULL);
CREATE TABLE message (
    boot_epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, envelope BLOB NOT NULL,
    boot_id TEXT, put_at_s REAL NOT NULL,
    PRIMARY KEY (boot_epoch, sequence)
);
CREATE TABLE blob (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE needs (
    boot_epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (boot_epoch, sequence, digest)
);
CREATE INDEX needed ON needs (digest);
PRAGMA user_version = {_LAYOUT};
"""

_TEMPORARY = frozenset({"full", "i/o", "locked", "busy", "readonly", "unable to open", "out of memory"})
"""What SQLite says when the disk, not the file, is in trouble."""


class OutboxFile:
    """The database, and beside it a lock, the last boot epoch, and what was moved aside.

    Args:
        path: the database file; its folder is made if missing.
        max_bytes: of the content; the file may grow to about twice that.
        begun_anew: called in the first transaction of a database that replaces a damaged one.

    Attributes:
        num_damaged: databases moved aside since the start.

    Raises:
        UserError: another process has it open.
        WorldError: the folder or the file cannot be written.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, begun_anew: Callable[[sqlite3.Connection], None]
    ) -> None:
        self.num_damaged = 0
        self._path = path
        self._max_bytes = max_bytes
        self._begun_anew = begun_anew
        self._lock_file = _lock(path)
        try:
            self._database = self._open()
        except BaseException:
            self._lock_file.close()
            raise

    def run(self, action: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run an action in one synced transaction; on a damaged database, begin a new one and run it there.

        Raises:
            WorldError: the disk is full or fails; nothing has changed.
        """
        try:
            return _commit(self._database, action)
        except sqlite3.DatabaseError as error:
            if _is_temporary(error):
                raise WorldError(f"outbox {self._path}: {error}") from error
            self._database.close()
            self._move_aside(str(error))
        self._database = self._open()
        try:
            _commit(self._database, self._begun_anew)
            return _commit(self._database, action)
        except sqlite3.DatabaseError as error:
            raise WorldError(f"outbox {self._path}, begun anew: {error}") from error

    def close(self) -> None:
        """Close the database and let another process open it. Twice is harmless."""
        self._database.close()
        self._lock_file.close()

    def epoch_beside(self) -> int | None:
        """Return the last boot epoch kept beside the database, None if there is none."""
        try:
            epoch = int(_beside(self._path, "epoch").read_text("ascii"))
        except (OSError, ValueError):
            return None
        return epoch if 0 <= epoch < _MAX_EPOCH else None

    def keep_epoch_beside(self, epoch: int) -> None:
        """Keep a boot epoch where a damaged database does not take it along.

        Raises:
            WorldError: it cannot be written.
        """
        part, file = _beside(self._path, "epoch.part"), _beside(self._path, "epoch")
        try:
            with part.open("w", encoding="ascii") as stream:
                stream.write(f"{epoch}\n")
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except OSError as error:
            raise WorldError(f"cannot write {file}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path, self._max_bytes)
        except sqlite3.DatabaseError as error:
            if _is_temporary(error):
                raise WorldError(f"cannot open outbox {self._path}: {error}") from error
            self._move_aside(str(error))
        try:
            return _connect(self._path, self._max_bytes)
        except sqlite3.DatabaseError as error:
            raise WorldError(f"cannot begin outbox {self._path} anew: {error}") from error

    def _move_aside(self, reason: str) -> None:
        self.num_damaged += 1
        aside = _beside(self._path, "damaged")
        _log.error("outbox %s is damaged (%s): moved to %s, a new one is begun", self._path, reason, aside)
        try:
            for suffix in ("", "-wal", "-shm"):
                file = Path(f"{self._path}{suffix}")
                if file.exists():
                    file.replace(f"{aside}{suffix}")
        except OSError as error:
            raise WorldError(f"cannot move the damaged outbox {self._path} aside: {error}") from error


class OutboxMemory:
    """The same without a disk, for twins: boot epochs begin at 1.

    Args:
        max_bytes: of the content.

    Attributes:
        num_damaged: 0.
    """

    def __init__(self, *, max_bytes: int = 256 * 2**20) -> None:
        self.num_damaged = 0
        self._database = _connect(Path(":memory:"), max_bytes)

    def run(self, action: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run an action in one transaction."""
        return _commit(self._database, action)

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def epoch_beside(self) -> int | None:
        """Return the boot epoch before the first."""
        return 0

    def keep_epoch_beside(self, epoch: int) -> None:
        """Keep nothing."""


def _commit(database: sqlite3.Connection, action: Callable[[sqlite3.Connection], _Result]) -> _Result:
    database.execute("BEGIN IMMEDIATE")
    try:
        result = action(database)
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            database.execute("ROLLBACK")
        raise
    return result


def _connect(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Return the opened database, made if it is not there.

    Raises:
        sqlite3.DatabaseError: it is damaged or has another layout.
    """
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # Twice the bound: freed pages are used again, but not given back.
        database.execute(f"PRAGMA max_page_count = {256 + 2 * max_bytes // _PAGE_BYTES}")
        (num_tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if num_tables == 0:
            database.executescript(f"BEGIN; {_TABLES} COMMIT;")
        (layout,) = database.execute("PRAGMA user_version").fetchone()
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if layout != _LAYOUT:
            verdict = f"its layout is {layout}, not {_LAYOUT}"
        if verdict != "ok":
            _refuse(verdict)
    except BaseException:
        database.close()
        raise
    return database


def _refuse(verdict: str) -> NoReturn:
    raise sqlite3.DatabaseError(verdict)


def _is_temporary(error: sqlite3.DatabaseError) -> bool:
    """Whether the disk is in trouble, rather than the file; Python 3.10 tells it by text alone."""
    text = str(error).lower()
    return isinstance(error, sqlite3.OperationalError) and any(sign in text for sign in _TEMPORARY)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def _lock(path: Path) -> IO[bytes]:
    """Return a file that is locked until it is closed, or its process ends in whatever way."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _beside(path, "lock").open("ab")
    except OSError as error:
        raise WorldError(f"cannot make the outbox {path}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(
            f"outbox {path} is in use by another agent: stop that one, or give this one its own state folder"
        ) from error
    return file
