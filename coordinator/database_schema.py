"""The tables, their version, and how older ones are brought up to date."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from firmware_profiles.errors import UserError

SCHEMA_VERSION = 3


def _add_peers_and_staleness(connection: sa.Connection) -> None:
    connection.execute(sa.text("ALTER TABLE outcomes ADD COLUMN peers JSON"))
    connection.execute(sa.text("ALTER TABLE outcomes ADD COLUMN staleness BIGINT"))


def _add_stream(connection: sa.Connection) -> None:
    connection.execute(sa.text("ALTER TABLE outcomes ADD COLUMN stream JSON"))


MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {1: _add_peers_and_staleness, 2: _add_stream}
"""Schema version -> what brings it to the next one."""

metadata = sa.MetaData()

# SQLite numbers rows only where the key is a plain INTEGER.
_row_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _run_column(*, primary_key: bool = False) -> sa.Column:
    return sa.Column("run", sa.String(64), sa.ForeignKey("runs.id"), nullable=False, primary_key=primary_key)


schema_version = sa.Table("edgetide_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("number", _row_number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("strategy", sa.String(32), nullable=False),
    sa.Column("graph_digest", sa.String(64), nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("boot_epoch", sa.BigInteger, nullable=False, default=0),  # starts of the coordinator
    sa.Column("created_s", sa.Double, nullable=False),
)

versions = sa.Table(
    "versions",
    metadata,
    _run_column(primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("round", sa.BigInteger, nullable=False),
    sa.Column("accuracy", sa.Double),
    sa.Column("loss", sa.Double),
    sa.Column("wall_s", sa.Double, nullable=False),
    sa.Column("num_updates", sa.BigInteger, nullable=False),
    sa.Column("bytes_sent", sa.BigInteger, nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    _run_column(primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("boot_epoch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("reason", sa.String(500), nullable=False, default=""),
    sa.Column("version", sa.BigInteger),  # the version an applied update went into
    sa.Column("macs", sa.BigInteger, nullable=False),
    sa.Column("vectors", sa.JSON, nullable=False),  # "8-16-16" -> mini-batches trained with it
    sa.Column("peers", sa.JSON(none_as_null=True)),  # the device's PeerReport, and its window as `round`
    sa.Column("stream", sa.JSON(none_as_null=True)),  # its StreamReport, and its window as `round`
    sa.Column("staleness", sa.BigInteger),  # versions that an applied update was late
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("hello", sa.JSON, nullable=False),
    sa.Column("last_seen_s", sa.Double, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("number", _row_number, primary_key=True, autoincrement=True),
    sa.Column("run", sa.String(64), nullable=False, index=True),
    sa.Column("event", sa.String(200), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
)


def prepare(connection: sa.Connection, address: sa.URL) -> None:
    """Check the database, make what is missing, migrate what is old.

    Raises:
        UserError: it is damaged, of a newer edgetide, or somebody else's.
    """
    if connection.dialect.name == "sqlite":
        verdict = connection.execute(sa.text("PRAGMA quick_check(1)")).scalar()
        if verdict != "ok":
            raise UserError(
                f"database {address.database} is damaged: {' '.join(str(verdict).split())}; "
                f"restore it from a backup, or start anew with --fresh, which moves it aside"
            )
    tables = set(sa.inspect(connection).get_table_names())
    if schema_version.name not in tables:
        if taken := sorted(tables & set(metadata.tables)):
            raise UserError(
                f"database {address} is not edgetide's, but has tables of the same names: {taken}"
            )
        metadata.create_all(connection)
        connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
        return
    version = connection.execute(sa.select(schema_version.c.version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise UserError(
            f"database {address} has schema {version}, this edgetide knows {SCHEMA_VERSION}: "
            f"install the newer edgetide that wrote it, or choose another --state folder"
        )
    while version < SCHEMA_VERSION:
        MIGRATIONS[version](connection)
        version += 1
        connection.execute(sa.update(schema_version).values(version=version))
