"""Messages that must not be lost: kept in SQLite until the other side has acknowledged them.

A message gets its name, (boot epoch, sequence), when it is put here and keeps it however often it is
sent. Sequences count within one boot epoch, so they need no disk; boot epochs never repeat, even if
the database is lost: see `_start_epoch`.

Age is measured by CLOCK_BOOTTIME, which also runs while the board sleeps. Boards have no battery
clock, so across a reboot the age is unknown, None.
"""

from __future__ import annotations

import logging
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_agent.outbox_file import OutboxFile, OutboxMemory
from device_agent.wire.codec import MAX_MESSAGE_BYTES, decode, digest_of, encode
from device_agent.wire.messages import SCHEMA_VERSION, Body, Envelope
from device_agent.wire.topics import device_topic
from firmware_profiles.errors import PeerError, WorldError

_log = logging.getLogger(__name__)

_AGE_BYTES = 9  # an age in MessagePack; put leaves room for it


@dataclass(frozen=True)
class _Resend:
    """When a message is due again, and how often it was sent since this process started."""

    due_s: float
    num_sent: int = 0


def boottime() -> float:
    """Return seconds since the boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_boot_id(root: Path = Path("/")) -> str | None:
    """Return what names this boot, None where the kernel does not say."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


class Outbox:
    """The durable messages of one device. One process and one thread at a time.

    Opening it starts a new boot epoch. A database that cannot be read is moved aside and a new one
    begun: the agent goes on, and the log says what was lost.

    Every commit is synced (WAL with synchronous=FULL): a put happens once per order and costs one
    sync, minutes of training hang on it, and a boot epoch that a power cut takes back would make
    receivers take new messages for repeats.

    Args:
        path: database file; its folder is made if missing. None keeps everything in memory (for twins).
        memory: where, without a path; one of an earlier process takes the place of its disk.
        sender: id of this device.
        clock: seconds since the boot; for ages.
        boot_id: names this boot, or None if unknown.
        wall_clock: Unix time, for the first boot epoch of all.
        rng: jitter of resending.
        max_messages, max_bytes: beyond them `put` is refused; nothing that waits is ever dropped.
        resend_base_s, resend_cap_s: the n-th resend waits uniform(base, min(cap, base * 2**n)).

    Attributes:
        boot_epoch: of this start.
        num_refused: puts refused since the start.

    Raises:
        UserError: another process has this outbox open.
        WorldError: the folder cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        sender: str,
        *,
        memory: OutboxMemory | None = None,
        clock: Callable[[], float] = boottime,
        boot_id: Callable[[], str | None] = read_boot_id,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        max_messages: int = 10_000,
        max_bytes: int = 256 * 2**20,
        resend_base_s: float = 5.0,
        resend_cap_s: float = 120.0,
    ) -> None:
        self.num_refused = 0
        self._path = path or ":memory:"
        self._sender = sender
        self._clock = clock
        self._wall_clock = wall_clock
        self._boot_id = boot_id()
        self._rng = rng or random.Random()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._resend_base_s = resend_base_s
        self._resend_cap_s = resend_cap_s
        self._num_stamped = 0
        self._num_bytes = 0
        self._resends: dict[tuple[int, int], _Resend] = {}
        self.boot_epoch: int = -1
        self._file = (
            (memory or OutboxMemory(max_bytes=max_bytes))
            if path is None
            else OutboxFile(path, max_bytes=max_bytes, begun_anew=self._begun_anew)
        )
        try:
            self.boot_epoch = self._file.run(self._start_epoch)
            self._file.run(self._recall)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Messages not acknowledged yet."""
        return len(self._resends)

    @property
    def num_lost_databases(self) -> int:
        """Damaged databases moved aside since the start."""
        return self._file.num_damaged

    def __enter__(self) -> Outbox:  # noqa: PYI034 - typing.Self came with Python 3.11
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def stamp(
        self, *, run: str, body: Body, base_version: int | None = None, base_digest: str | None = None
    ) -> Envelope:
        """Return a message that may be lost, named like all others but not kept."""
        self._num_stamped += 1
        return Envelope(
            schema=SCHEMA_VERSION,
            run=run,
            sender=self._sender,
            boot_epoch=self.boot_epoch,
            sequence=self._num_stamped,
            body=body,
            base_version=base_version,
            base_digest=base_digest,
            age_ms=0,
        )

    def put(
        self,
        *,
        run: str,
        body: Body,
        base_version: int | None = None,
        base_digest: str | None = None,
        blobs: Mapping[str, bytes] | None = None,
    ) -> Envelope:
        """Name a message and keep it, with the content the receiver may fetch; `due` then returns it.

        When this returns, the message survives a power cut.

        Args:
            run: as in Envelope.
            body: as in Envelope.
            base_version: as in Envelope.
            base_digest: as in Envelope.
            blobs: content by digest, served by `blob` until the message is acknowledged.

        Raises:
            WorldError: the outbox or the disk is full; nothing was kept, `num_refused` counts it.
            ValueError: a peer would refuse the message, or content does not have its digest.
        """
        blobs = blobs or {}
        for digest, data in blobs.items():
            if digest_of(data) != digest:
                raise ValueError(f"content of {len(data)} bytes does not have the SHA-256 {digest}")
        envelope = self.stamp(run=run, body=body, base_version=base_version, base_digest=base_digest)
        encoded = encode(envelope)
        if len(encoded) > MAX_MESSAGE_BYTES - _AGE_BYTES:
            raise ValueError(f"a message of {len(encoded)} bytes leaves no room for its age: use a blob")
        key = (envelope.boot_epoch, envelope.sequence)
        num_bytes = len(encoded) + sum(map(len, blobs.values()))
        if len(self) >= self._max_messages or self._num_bytes + num_bytes > self._max_bytes:
            self.num_refused += 1
            raise WorldError(
                f"outbox {self._path} is full: {len(self)} messages, {self._num_bytes} bytes wait for the"
                f" coordinator, {num_bytes} more do not fit"
            )
        try:
            self._file.run(lambda database: self._insert(database, key, encoded, blobs))
        except WorldError:
            self.num_refused += 1
            raise
        self._resends[key] = _Resend(0.0)
        return envelope

    def due(self, now_s: float, *, max_messages: int = 32) -> list[Envelope]:
        """Return messages to send now, oldest first, with their age as of now.

        Args:
            now_s: seconds of any monotonic clock, the same one at each call.
            max_messages: more come at the next call.

        Raises:
            WorldError: the disk cannot be read.
        """
        keys = sorted(key for key, resend in self._resends.items() if resend.due_s <= now_s)[:max_messages]
        envelopes: list[Envelope] = []
        for key in keys:
            envelope = self._file.run(lambda database, key=key: self._load(database, key))
            if envelope is None:
                self.acknowledge(*key)
                continue
            num_sent = self._resends[key].num_sent + 1
            ceiling_s = min(self._resend_cap_s, self._resend_base_s * 2.0 ** min(num_sent, 30))
            # Full jitter above a floor: an acknowledgement needs some time to come.
            wait_s = self._rng.uniform(min(self._resend_base_s, ceiling_s), ceiling_s)
            self._resends[key] = _Resend(now_s + wait_s, num_sent)
            envelopes.append(envelope)
        return envelopes

    def next_due_s(self) -> float | None:
        """Return when `due` has something, in its clock; in the past if at once, None if nothing waits."""
        return min((resend.due_s for resend in self._resends.values()), default=None)

    def on_reconnect(self, now_s: float) -> None:
        """Make everything due soon, spread over `resend_base_s`: the connection is back."""
        for key, resend in self._resends.items():
            soon_s = now_s + self._rng.uniform(0.0, self._resend_base_s)
            self._resends[key] = _Resend(min(resend.due_s, soon_s))

    def acknowledge(self, boot_epoch: int, sequence: int) -> bool:
        """Forget a message, and the content only it needed; False if it was not here.

        Raises:
            WorldError: the disk cannot be written; the message will be sent again.
        """
        if (boot_epoch, sequence) not in self._resends:
            return False
        self._file.run(lambda database: self._delete(database, (boot_epoch, sequence)))
        self._resends.pop((boot_epoch, sequence), None)
        return True

    def blob(self, digest: str) -> bytes | None:
        """Return content of an unacknowledged message, None where there is none of this digest.

        Raises:
            WorldError: the disk cannot be read.
        """
        row = self._file.run(
            lambda database: database.execute("SELECT data FROM blob WHERE digest = ?", (digest,)).fetchone()
        )
        return None if row is None else row[0]

    def close(self) -> None:
        """Close the database and let another process open it. Twice is harmless."""
        self._file.close()

    # ---------------------------------------------------------------- in one transaction

    def _insert(
        self,
        database: sqlite3.Connection,
        key: tuple[int, int],
        encoded: bytes,
        blobs: Mapping[str, bytes],
    ) -> None:
        database.execute(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?)", (*key, encoded, self._boot_id, self._clock())
        )
        database.executemany("INSERT OR IGNORE INTO blob VALUES (?, ?)", blobs.items())
        database.executemany("INSERT INTO needs VALUES (?, ?, ?)", [(*key, digest) for digest in blobs])
        self._measure(database)

    def _load(self, database: sqlite3.Connection, key: tuple[int, int]) -> Envelope | None:
        row = database.execute(
            "SELECT envelope, boot_id, put_at_s FROM message WHERE boot_epoch = ? AND sequence = ?", key
        ).fetchone()
        if row is None:
            return None
        try:
            envelope = decode(row[0], device_topic("local", self._sender, "up"))
        except PeerError as error:
            _log.error("dropped message %d/%d from outbox %s: %s", *key, self._path, error)
            return None
        same_boot = key[0] == self.boot_epoch or (row[1] is not None and row[1] == self._boot_id)
        age_s = self._clock() - row[2]
        age_ms = round(age_s * 1000) if same_boot and age_s >= 0 else None
        return msgspec.structs.replace(envelope, age_ms=age_ms)

    def _delete(self, database: sqlite3.Connection, key: tuple[int, int]) -> None:
        database.execute("DELETE FROM message WHERE boot_epoch = ? AND sequence = ?", key)
        database.execute("DELETE FROM needs WHERE boot_epoch = ? AND sequence = ?", key)
        database.execute("DELETE FROM blob WHERE digest NOT IN (SELECT digest FROM needs)")
        self._measure(database)

    def _recall(self, database: sqlite3.Connection) -> None:
        keys = database.execute("SELECT boot_epoch, sequence FROM message").fetchall()
        self._resends = {(boot_epoch, sequence): _Resend(0.0) for boot_epoch, sequence in keys}
        self._measure(database)

    def _measure(self, database: sqlite3.Connection) -> None:
        (self._num_bytes,) = database.execute(
            "SELECT (SELECT coalesce(sum(length(envelope)), 0) FROM message)"
            " + (SELECT coalesce(sum(length(data)), 0) FROM blob)"
        ).fetchone()

    def _begun_anew(self, database: sqlite3.Connection) -> None:
        """Go on in this boot epoch with an empty database: sequences count in memory, so none repeats."""
        if self._resends:
            _log.error(
                "outbox %s: %d messages went with the damaged database", self._path, len(self._resends)
            )
        self._resends.clear()
        self._num_bytes = 0
        if self.boot_epoch >= 0:  # otherwise it is about to begin
            database.execute("INSERT INTO epoch VALUES (?)", (self.boot_epoch,))

    def _start_epoch(self, database: sqlite3.Connection) -> int:
        """Persist and return a boot epoch that was never used before.

        It is one more than the last, of the database or of the small file beside it, which outlives
        a damaged database. Where both are gone (a new card for an old device), counting from 1 would
        repeat old names, so it starts at the wall clock in seconds times 2**20, plus chance for
        boards whose clock is wrong.
        """
        row = database.execute("SELECT last FROM epoch").fetchone()
        known = [epoch for epoch in (row and row[0], self._file.epoch_beside()) if epoch is not None]
        fresh = (max(0, int(self._wall_clock())) % 2**32 << 20) + secrets.randbelow(2**20)
        epoch = max(known) + 1 if known else fresh
        self._file.keep_epoch_beside(epoch)
        database.execute("DELETE FROM epoch")
        database.execute("INSERT INTO epoch VALUES (?)", (epoch,))
        return epoch
