"""The coordinator's durable state: runs, model versions, what became of every update, events.

An update is acknowledged only after `commit_round` has returned: one transaction records the new
model's digest together with the updates it was made from. So after a crash a resent update is
either still wanted or known to have been dealt with, never applied twice.

SQLite in write-ahead mode by default, PostgreSQL by URL (`postgresql+psycopg://user@host/name`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from coordinator import database_records as records
from coordinator import database_schema as schema
from coordinator.database_records import Outcome, Run, UpdateId, Version
from firmware_profiles.errors import UserError, WorldError

MAX_EVENTS = 10_000
"""Events kept; older ones make room."""


class Database:
    """Runs and their history. Safe to call from several threads; made by `open_database`.

    Args:
        engine: a connected engine whose schema is current.
        clock: Unix time in seconds.

    Every method raises WorldError where the disk or the server fails, and UserError where the
    file turns out to be damaged.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def begin_or_resume_run(
        self, run: Run, *, even_finished: bool = False, fresh: bool = False
    ) -> tuple[Run, bool]:
        """Go on with the latest run if it is unfinished (or `even_finished`), else begin the given one.

        `fresh` always begins the given one; the run before stays for inspection.

        Returns:
            The run in force (with the stored id and state, and the given config), and whether it
            was resumed.

        Raises:
            UserError: the unfinished run learns something else than the given one.
        """
        with self._transaction() as connection:
            row = connection.execute(
                sa.select(schema.runs).order_by(schema.runs.c.number.desc()).limit(1)
            ).first()
            if row is not None and not fresh and (even_finished or row.state != "finished"):
                _check_same_run(row, run)
                connection.execute(
                    sa.update(schema.runs).where(schema.runs.c.id == row.id).values(config=dict(run.config))
                )
                return records.run_of(row, config=run.config), True
            created = Run(**{**vars(run), "created_s": self._clock()})
            values = {name: value for name, value in vars(created).items() if name != "config"}
            connection.execute(sa.insert(schema.runs).values(**values, config=dict(run.config)))
            return created, False

    def set_run_state(self, run: str, state: str) -> None:
        """Record that a run is waiting, training or finished."""
        with self._transaction() as connection:
            connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run).values(state=state))

    def next_boot_epoch(self, run: str) -> int:
        """Count one more start of the coordinator; returns its number, 1 for the first."""
        with self._transaction() as connection:
            column = schema.runs.c.boot_epoch
            connection.execute(
                sa.update(schema.runs).where(schema.runs.c.id == run).values(boot_epoch=column + 1)
            )
            return int(connection.execute(sa.select(column).where(schema.runs.c.id == run)).scalar_one())

    def commit_round(self, run: str, version: Version, settled: Sequence[Outcome] = ()) -> None:
        """Record a new version and what became of its updates, in one transaction.

        Raises:
            ValueError: the version or one of the updates is recorded already; nothing was changed.
        """
        try:
            with self._transaction() as connection:
                connection.execute(
                    sa.insert(schema.versions).values(
                        run=run, **{**vars(version), "created_s": self._clock()}
                    )
                )
                if settled:
                    rows = [records.outcome_row(run, outcome, version.version) for outcome in settled]
                    connection.execute(sa.insert(schema.outcomes), rows)
        except exc.IntegrityError as error:
            raise ValueError(
                f"run {run} version {version.version} cannot be recorded twice: {error.orig}"
            ) from error

    def record_accuracy(self, run: str, version: int, accuracy: float, loss: float | None) -> None:
        """Add what was measured of a version."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(schema.versions)
                .where(schema.versions.c.run == run, schema.versions.c.version == version)
                .values(accuracy=accuracy, loss=loss)
            )

    def outcome_of(self, run: str, update: UpdateId) -> str | None:
        """What became of an update: applied, expired, refused, or None if it was never dealt with."""
        with self._transaction() as connection:
            return connection.execute(
                sa.select(schema.outcomes.c.outcome).where(
                    schema.outcomes.c.run == run,
                    schema.outcomes.c.device == update.device,
                    schema.outcomes.c.boot_epoch == update.boot_epoch,
                    schema.outcomes.c.sequence == update.sequence,
                )
            ).scalar()

    def record_outcome(self, run: str, outcome: Outcome) -> str:
        """Record that an update expired or was refused; returns the outcome in force, the first recorded."""
        try:
            with self._transaction() as connection:
                connection.execute(
                    sa.insert(schema.outcomes).values(**records.outcome_row(run, outcome, None))
                )
        except exc.IntegrityError:
            if (known := self.outcome_of(run, outcome.update)) is None:
                raise ValueError(f"run {run} is not in the database") from None
            return known
        return outcome.outcome

    def outcomes(self, run: str) -> list[Outcome]:
        """What became of every update of a run."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(schema.outcomes).where(schema.outcomes.c.run == run))
            return [
                Outcome(
                    update=UpdateId(row.device, row.boot_epoch, row.sequence),
                    outcome=row.outcome,
                    reason=row.reason,
                    macs=row.macs,
                    vectors=row.vectors,
                    peers=row.peers,
                    stream=row.stream,
                    staleness=row.staleness,
                )
                for row in rows
            ]

    def outcome_counts(self, run: str) -> dict[str, int]:
        """How many updates of a run had each outcome."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(schema.outcomes.c.outcome, sa.func.count())
                .where(schema.outcomes.c.run == run)
                .group_by(schema.outcomes.c.outcome)
            )
            return {outcome: int(count) for outcome, count in rows}

    def curve(self, run: str) -> list[Version]:
        """Every version of a run, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(schema.versions)
                .where(schema.versions.c.run == run)
                .order_by(schema.versions.c.version)
            )
            return [records.version_of(row) for row in rows]

    def latest_version(self, run: str) -> Version | None:
        """The newest version of a run, or None before the first."""
        with self._transaction() as connection:
            row = connection.execute(
                sa.select(schema.versions)
                .where(schema.versions.c.run == run)
                .order_by(schema.versions.c.version.desc())
                .limit(1)
            ).first()
            return None if row is None else records.version_of(row)

    def record_device(self, device: str, hello: Mapping[str, Any]) -> None:
        """Remember how a device last introduced itself (JSON-ready)."""
        values = {"hello": dict(hello), "last_seen_s": self._clock()}
        with self._transaction() as connection:
            known = connection.execute(
                sa.update(schema.devices).where(schema.devices.c.id == device).values(**values)
            ).rowcount
            if not known:
                connection.execute(sa.insert(schema.devices).values(id=device, **values))

    def devices(self) -> dict[str, dict[str, Any]]:
        """The last hello of every device, by id."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(schema.devices).order_by(schema.devices.c.id))
            return {row.id: row.hello for row in rows}

    def record_event(
        self, run: str, event: str, device: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        """Add a line to the history (details JSON-ready); the oldest beyond MAX_EVENTS go."""
        with self._transaction() as connection:
            number = connection.execute(
                sa.insert(schema.events).values(
                    run=run, event=event, device=device, details=dict(details or {}), created_s=self._clock()
                )
            ).inserted_primary_key
            assert number is not None
            connection.execute(
                sa.delete(schema.events).where(schema.events.c.number <= number[0] - MAX_EVENTS)
            )

    def events(self, run: str, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events of a run, newest first."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(schema.events)
                .where(schema.events.c.run == run)
                .order_by(schema.events.c.number.desc())
                .limit(limit)
            )
            return [
                {"event": row.event, "device": row.device, "details": row.details, "created_s": row.created_s}
                for row in rows
            ]

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with translated(self._engine.url), self._engine.begin() as connection:
            yield connection


def open_database(url: str | Path, clock: Callable[[], float] = time.time) -> Database:
    """Open a database, or make it.

    Args:
        url: a file, or an SQLAlchemy URL.
        clock: Unix time in seconds.

    Raises:
        UserError: the URL cannot be used, or the file is damaged, of a newer edgetide, or not ours.
        WorldError: the server cannot be reached, or the disk refuses.
    """
    address = sa.URL.create("sqlite", database=str(url)) if isinstance(url, Path) else _parse_url(url)
    try:
        engine = sa.create_engine(address)
    except (exc.NoSuchModuleError, ImportError) as error:
        raise UserError(
            f"database {address} needs a driver that is not installed ({error}): "
            f"pip install 'psycopg[binary]' and write postgresql+psycopg://…"
        ) from error
    if address.get_backend_name() == "sqlite":
        if address.database and address.database != ":memory:":
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _set_up_sqlite)
    try:
        with translated(address), engine.begin() as connection:
            schema.prepare(connection, address)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, clock)


def move_aside(path: Path) -> Path | None:
    """Rename a database file, with its log, so that a new one can begin; None if there was none."""
    if not path.exists():
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.{stamp}.aside")
    number = 1
    while aside.exists():
        aside = path.with_name(f"{path.name}.{stamp}-{number}.aside")
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        log = path.with_name(path.name + suffix)
        if log.exists():
            log.rename(aside.with_name(aside.name + suffix))
    return aside


@contextmanager
def translated(address: sa.URL) -> Iterator[None]:
    """Turn errors of the database driver into ours. IntegrityError passes: it has a meaning here."""
    try:
        yield
    except exc.IntegrityError:
        raise
    except exc.OperationalError as error:
        raise WorldError(f"database {address} does not answer: {error.orig}") from error
    except exc.DatabaseError as error:
        raise UserError(
            f"database {address.database} is damaged or is not a database: {error.orig}; "
            f"restore it from a backup, or start anew with --fresh, which moves it aside"
        ) from error


def _parse_url(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except exc.ArgumentError:
        raise UserError(
            f"database URL {url!r} is not one: use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        ) from None


def _set_up_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged update must survive a power cut
        "foreign_keys=ON",
        "busy_timeout=10000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _check_same_run(row: sa.Row, run: Run) -> None:
    begun_with, asked_for = row.config.get("learning", {}), run.config.get("learning", {})
    pairs = {
        "strategy": (row.strategy, run.strategy),
        "model": (
            f"{begun_with.get('model', '')} {row.graph_digest[:12]}",
            f"{asked_for.get('model', '')} {run.graph_digest[:12]}",
        ),
        "data": (begun_with.get("data"), asked_for.get("data")),
        "seed": (row.seed, run.seed),
    }
    differences = [f"{what} {old!r} (now {new!r})" for what, (old, new) in pairs.items() if old != new]
    if differences:
        raise UserError(
            f"the unfinished run {row.id} has {' and '.join(differences)}: "
            f"start with the same settings to resume it, or start anew with --fresh"
        )
